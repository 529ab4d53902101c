"""Chunked LoRA products before anything is compiled."""

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING

from bo_tune.core.problem import GpuInfo, Problem, SizedProblem
from bo_tune.core.space import Config, SearchSpace
from bo_tune.kernels.csgmv.step import EXPAND, SHRINK, CsgmvStep
from bo_tune.kernels.lora.spec import FEATURE_NAMES, WEIGHT_BYTES, Columns, asynchronous, uses_wgmma
from bo_tune.kernels.spec import KernelSpec

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from bo_tune.kernels.lora.spec import Column

NO_LIMIT = 255
"""Most registers that a thread may have. As ``maxnreg`` it means no limit, and is not written."""

ALIGNED = 16
"""If the length of a product is a multiple of this, Triton knows it, and so knows that rows of tiles are aligned."""

TRITONS = {"num_warps": 4, "num_stages": 3}
"""Triton's values where a config has none."""


class CsgmvSpec(KernelSpec[SizedProblem]):
    """One product. Parameters have the names used in SGLang's files.

    The rows of a block are the chunk, which is not a parameter: files have one config for each chunk size.
    """

    engine_default: Mapping[str, int]
    """The config that SGLang runs without a file."""

    def default_config(self, problem: SizedProblem) -> dict[str, int]:
        """Return the config that SGLang runs if it ships no file for the shape and the GPU."""
        said = {**TRITONS, **self.engine_default}
        return {name: said[name] for name in self.search_space.names}

    def rivals(self, problem: SizedProblem) -> Sequence[Config]:
        """Return SGLang's rule, which matters if SGLang ships a file that takes precedence over it."""
        return (self.default_config(problem),)

    def understands(self, config: Config, problem: Problem) -> bool:
        try:
            CsgmvStep.of(problem)
        except ValueError:
            return False
        return set(config) == set(self.search_space.names)

    def impossible(self, config: Config, problem: SizedProblem, gpu: GpuInfo) -> str | None:
        """Say whether a config needs too much shared memory. The bound holds for NVIDIA; elsewhere the binary tells."""
        needed = self.shared_memory_bytes(config, problem, gpu) if gpu.is_cuda else 0
        if needed > gpu.shared_memory_bytes:
            return f"it needs {needed} B of shared memory, but the GPU has {gpu.shared_memory_bytes} B"
        return None

    def shared_memory_bytes(self, config: Config, problem: SizedProblem, gpu: GpuInfo) -> int:
        """Return a lower bound of the shared memory that the binary needs, in bytes."""
        step = CsgmvStep.of(problem)
        return int(shared_memory(Columns.one(named(config, step), step.length), step, gpu))

    @property
    @abstractmethod
    def search_space(self) -> SearchSpace:
        """The grid: all that SGLang's own tuner tries, and more."""

    @property
    def feature_names(self) -> tuple[str, ...]:
        return (*FEATURE_NAMES, "log2 register limit")

    def features(self, configs: Sequence[Config], problem: SizedProblem, gpu: GpuInfo) -> "NDArray[np.float64]":
        from bo_tune.kernels.csgmv.features import features  # noqa: PLC0415 - loads numpy

        return features(configs, problem, gpu)


class CsgmvShrinkSpec(CsgmvSpec):
    """From a layer's input to the rank, for all slices at once."""

    name = SHRINK
    engine_default = {"BLOCK_N": 16, "BLOCK_K": 256}  # noqa: RUF012

    @cached_property
    def search_space(self) -> SearchSpace:
        tile = {"BLOCK_N": (16, 32, 64, 128), "BLOCK_K": (64, 128, 256, 512)}
        return SearchSpace.of({**tile, "num_warps": (2, 4, 8), "num_stages": (2, 3, 4, 5)})


class CsgmvExpandSpec(CsgmvSpec):
    """From the rank to the outputs of a layer's slices, added to the layer's own output."""

    name = EXPAND
    engine_default = {"BLOCK_N": 64, "BLOCK_K": 16, "maxnreg": NO_LIMIT}  # noqa: RUF012

    @cached_property
    def search_space(self) -> SearchSpace:
        tile = {"BLOCK_N": (32, 64, 128, 256), "BLOCK_K": (16, 32, 64)}
        launch = {"num_warps": (2, 4, 8), "num_stages": (1, 2, 3), "maxnreg": (96, 112, 128, 160, NO_LIMIT)}
        return SearchSpace.of({**tile, **launch})


CSGMV_SPECS: Sequence[CsgmvSpec] = (CsgmvShrinkSpec(), CsgmvExpandSpec())


def named(config: Config, step: CsgmvStep) -> dict[str, int]:
    """Return a config with the names that other kernels use."""
    return {
        "block_m": step.chunk,
        "block_n": config["BLOCK_N"],
        "block_k": config["BLOCK_K"],
        **{name: config[name] for name in TRITONS},
    }


def shared_memory(c: Columns, step: CsgmvStep, gpu: GpuInfo) -> "Column":
    """Return a lower bound of the shared memory of each config, in bytes.

    Shrink has a tile in flight for each stage except the one being multiplied, and with wgmma that one too. Expand
    reads no tile ahead, because the place of the next depends on the adapter's rank. Its two tiles may pass through the
    same memory.
    """
    if step.kernel == EXPAND:
        larger: Column = (c.block_m * (c.block_m >= c.block_n) + c.block_n * (c.block_n > c.block_m)) * c.block_k
        return larger * WEIGHT_BYTES
    staged = (c.num_stages > 1) & (step.length % ALIGNED == 0)
    in_flight = staged * (c.num_stages - (1 - uses_wgmma(c, gpu)) - 1)
    x_tiles = 1 + asynchronous(c.block_m * c.block_k, c, WEIGHT_BYTES) * in_flight
    w_tiles = 1 + asynchronous(c.block_n * c.block_k, c, WEIGHT_BYTES) * in_flight
    needed: Column = (c.block_m * x_tiles + c.block_n * w_tiles) * c.block_k * WEIGHT_BYTES
    return needed
