"""The base model's experts before anything is compiled."""

from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING

from bo_tune.core.conditions import Conditions
from bo_tune.core.problem import GpuInfo, Problem, SizedProblem
from bo_tune.core.space import Config, SearchSpace
from bo_tune.kernels.experts.step import ENGINE_NAMES, KERNEL, ExpertsStep
from bo_tune.kernels.lora.spec import FEATURE_NAMES, WEIGHT_BYTES, Columns, asynchronous, uses_wgmma
from bo_tune.kernels.moe.untuned import general_config
from bo_tune.kernels.spec import MAX_ACCUMULATORS_PER_THREAD, KernelSpec

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from bo_tune.kernels.lora.spec import Column

ALIGNED = 16
"""Lengths of a product that are multiples of it are known to Triton as such, and so rows of tiles as aligned."""


OF_ONE_PRODUCT = (
    "even k",
    "log2 k iterations",
    "k padding",
    "n padding",
    "log2 programs",
    "log2 waves",
    "last wave fill",
    "log2 flops per program",
    "log2 bytes per program",
    "log2 bytes per SM",
    "log2 output bytes per SM",
    "log2 flops per SM",
)
"""What the second product's launch has of its own: all else is as in the first's."""

_FEATURE_NAMES = (*FEATURE_NAMES, "log2 group_size_m", *(f"second {name}" for name in OF_ONE_PRODUCT))


class ExpertsSpec(KernelSpec[SizedProblem]):
    """Both products of a layer, one launch each, under one config: their sum is what counts.

    The search space is that of vLLM's own tuner, parameters have the names that they have in its files.
    """

    name = KERNEL

    @cached_property
    def search_space(self) -> SearchSpace:
        tile = {"BLOCK_SIZE_M": (16, 32, 64, 128, 256), "BLOCK_SIZE_N": (32, 64, 128, 256)}
        tile |= {"BLOCK_SIZE_K": (64, 128, 256), "GROUP_SIZE_M": (1, 16, 32, 64)}
        return SearchSpace.of({**tile, "num_warps": (4, 8), "num_stages": (2, 3, 4, 5)})

    def product_sizes(self, problem: SizedProblem, conditions: Conditions) -> dict[str, int | str]:
        return {"routing": str(conditions.routing)}

    def default_config(self, problem: SizedProblem) -> dict[str, int]:
        """See the base class. What vLLM runs where it ships no file for the shape and the GPU."""
        step = ExpertsStep.of(problem)
        return as_the_engine_names(general_config(step.m, step.experts.local))

    def rivals(self, problem: SizedProblem) -> Sequence[Config]:
        """See the base class. The engine's rule, where it ships a file that comes before it."""
        return (self.default_config(problem),)

    def speaks_of(self, config: Config, problem: Problem) -> bool:
        try:
            ExpertsStep.of(problem)
        except ValueError:
            return False
        return set(config) == set(self.search_space.names)

    def impossible(self, config: Config, problem: SizedProblem, gpu: GpuInfo) -> str | None:
        """See the base class. The bound is one of NVIDIA's GPUs: elsewhere the binary alone says what it needs."""
        needed = self.shared_memory_bytes(config, problem, gpu) if gpu.is_cuda else 0
        if needed > gpu.shared_memory_bytes:
            return f"needs {needed} B of shared memory of {gpu.shared_memory_bytes} B"
        return None

    def runnable(self, configs: Sequence[Config], problem: SizedProblem, gpu: GpuInfo) -> "NDArray[np.bool_]":
        from bo_tune.kernels.experts.features import runnable  # noqa: PLC0415 - loads numpy

        return runnable(configs, problem, gpu)

    def shared_memory_bytes(self, config: Config, problem: SizedProblem, gpu: GpuInfo | None = None) -> int:
        """Return a lower bound of the shared memory that the two binaries need, in bytes."""
        named = {ours: config[theirs] for theirs, ours in ENGINE_NAMES.items() if theirs in config}
        lengths = [length for length, _ in ExpertsStep.of(problem).products]
        return max(int(shared_memory(Columns.one(named, length), length, gpu)) for length in lengths)

    def hopeless(self, config: Config) -> str | None:
        accumulators = config["BLOCK_SIZE_M"] * config["BLOCK_SIZE_N"] / (32 * config["num_warps"])
        if accumulators >= MAX_ACCUMULATORS_PER_THREAD:
            return f"{accumulators:.0f} accumulators per thread"
        return None

    @property
    def feature_names(self) -> tuple[str, ...]:
        return _FEATURE_NAMES

    def features(self, configs: Sequence[Config], problem: SizedProblem, gpu: GpuInfo) -> "NDArray[np.float64]":
        from bo_tune.kernels.experts.features import features  # noqa: PLC0415 - loads numpy

        return features(configs, problem, gpu)


def as_the_engine_names(config: Mapping[str, int]) -> dict[str, int]:
    """Return what these kernels take of a config in small letters, by the names of the engine's files."""
    return {theirs: config[ours] for theirs, ours in ENGINE_NAMES.items()}


def shared_memory(c: Columns, length: int, gpu: GpuInfo | None) -> "Column":
    """Return a lower bound of the shared memory of one product's launch, in bytes.

    A tile is in flight for each stage but the one that is multiplied, and with wgmma that one too. Where rows are not
    known to be aligned no tile is copied asynchronously, and there is one of each.
    """
    staged = c.num_stages > 1
    in_flight = c.num_stages - staged * (1 - uses_wgmma(c, gpu)) - 1
    aligned = length % ALIGNED == 0
    x_tiles = 1 + asynchronous(c.block_m * c.block_k, c, WEIGHT_BYTES) * aligned * in_flight
    w_tiles = 1 + asynchronous(c.block_n * c.block_k, c, WEIGHT_BYTES) * aligned * in_flight
    return (c.block_m * x_tiles + c.block_n * w_tiles) * c.block_k * WEIGHT_BYTES
