"""The two dense LoRA kernels before anything is compiled, and the base of all LoRA specs.

Both kernels multiply tiles of activations ``[block_m, block_k]`` and weights ``[block_k, block_n]``, for every adapter,
slice and (in shrink) share of k. All functions work on columns: one array entry per config. ``features`` uses them to
describe configs.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, cast

from bo_tune.core.problem import GpuInfo, LoraProblem
from bo_tune.core.space import Config, SearchSpace
from bo_tune.kernels.spec import EngineSpec

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Column = NDArray[np.float64]

TILE_AND_LAUNCH = ("block_m", "block_n", "block_k", "num_warps", "num_stages")
WEIGHT_BYTES = 2
LEAST_ASYNC_BYTES = 4
HOPPER = 9
WGMMA_ROWS = 64
WARPS_OF_A_GROUP = 4

DEFAULT_GROUP_SIZE_M = 8
"""Tiles down before the next along n, if a config does not say."""

SMALL_BATCH = 128
"""With fewer tokens than this, vLLM splits k of shrink further by default."""

_STAGES = (2, 3, 4, 5)

FEATURE_NAMES = (
    "log2 block_m",
    "log2 block_n",
    "log2 block_k",
    "log2 split_k",
    "num_stages",
    "log2 num_warps",
    "log2 accumulators per thread",
    "log2 register demand",
    "even k",
    "log2 k iterations",
    "k padding",
    "m padding",
    "n padding",
    "log2 shared memory share",
    "log2 blocks per SM",
    "log2 warps per SM",
    "log2 programs",
    "log2 waves",
    "last wave fill",
    "log2 flops per program",
    "log2 bytes per program",
    "log2 intensity",
    "log2 bytes per SM",
    "log2 output bytes per SM",
    "log2 flops per SM",
)


@dataclass(frozen=True, slots=True)
class Columns:
    """Configs by column. split_k is 1 if a kernel has none. ``even_k`` says whether the tiles cover k exactly."""

    block_m: "Column"
    block_n: "Column"
    block_k: "Column"
    num_warps: "Column"
    num_stages: "Column"
    split_k: "Column"
    even_k: "NDArray[np.bool_]"

    @classmethod
    def one(cls, config: Config, k: int) -> "Columns":
        """Take one config, with numbers in place of columns. For a single config this is a hundred times faster."""
        split_k = config.get("split_k", 1)
        values: list[Any] = [config[name] for name in TILE_AND_LAUNCH]
        values += [split_k, k % (config["block_k"] * split_k) == 0]
        columns: Columns = cast(Any, cls)(*values)
        return columns


class LoraSpec(EngineSpec):
    """A LoRA kernel before anything is compiled."""

    has_split_k: bool
    activation_bytes: int
    """Bytes of one element of the activations in memory, before any rounding to the weights' type."""
    output_bytes_per_element: float
    """Traffic of one element of the output, in bytes."""

    def table_key(self, problem: LoraProblem) -> tuple[str, ...]:
        # The engine passes its number of groups as max_loras. That is one more than its adapters.
        sizes = (problem.max_loras + 1, problem.num_slices, problem.m, problem.k, problem.n)
        return tuple(map(str, sizes))

    def impossible(self, config: Config, problem: LoraProblem, gpu: GpuInfo) -> str | None:
        """Say whether a config needs too much shared memory. The bound holds for NVIDIA; elsewhere the binary tells."""
        needed = self.shared_memory_bytes(config, problem, gpu) if gpu.is_cuda else 0
        if needed > gpu.shared_memory_bytes:
            return f"it needs {needed} B of shared memory, but the GPU has {gpu.shared_memory_bytes} B"
        return None

    def runnable(self, configs: Sequence[Config], problem: LoraProblem, gpu: GpuInfo) -> "NDArray[np.bool_]":
        from bo_tune.kernels.lora.features import runnable  # noqa: PLC0415 - loads numpy

        return runnable(self, configs, problem, gpu)

    def shared_memory_bytes(self, config: Config, problem: LoraProblem, gpu: GpuInfo | None = None) -> int:
        """Return the shared memory that the binary needs, in bytes (see ``shared_memory``)."""
        columns = Columns.one(config, self.product_length(problem))
        return int(self.shared_memory(columns, problem, gpu)) // config.get("num_ctas", 1)

    def product_length(self, problem: LoraProblem) -> int:
        """Return the length of the product, in elements."""
        return problem.k

    def behind_table(self, problem: LoraProblem) -> bool:
        """Say whether the weights' address is read from a table, which hides their alignment from the compiler."""
        return problem.num_slices > 1

    def pipelined(self, c: Columns, problem: LoraProblem) -> "tuple[NDArray[np.bool_], NDArray[np.bool_]]":
        """Say for activations, and for weights, where tiles are copied while others are multiplied."""
        x = c.even_k & asynchronous(c.block_m * c.block_k, c, self.activation_bytes)
        # If the alignment is unknown, nothing wider than an element is copied.
        w = c.even_k & asynchronous(c.block_n * c.block_k, c, WEIGHT_BYTES) & (not self.behind_table(problem))
        return x, w

    def shared_memory(self, c: Columns, problem: LoraProblem, gpu: GpuInfo | None) -> "Column":
        """Return a lower bound of the shared memory of each config, in bytes. Without a GPU, it holds on all GPUs.

        A pipelined operand has a tile in flight for each stage except the one being multiplied. With wgmma it has that
        tile too, unless the tile passes through registers to be rounded. An operand that is not pipelined has one tile.
        """
        rounded = self.activation_bytes != WEIGHT_BYTES
        staged = c.num_stages > 1
        in_place = c.num_stages - staged * (1 - uses_wgmma(c, gpu))
        x_pipelined, w_pipelined = self.pipelined(c, problem)
        # On later GPUs, a rounded operand that is not pipelined can come from elsewhere than shared memory.
        x_stays = not rounded or (gpu is not None and gpu.capability[0] <= HOPPER)
        x_tiles = 1 + x_pipelined * ((c.num_stages - staged if rounded else in_place) - 1)
        x_bytes = c.block_m * x_tiles * (x_stays | (x_pipelined & staged)) * self.activation_bytes
        w_bytes = c.block_n * (1 + w_pipelined * (in_place - 1)) * WEIGHT_BYTES
        return (x_bytes + w_bytes) * c.block_k

    @property
    def feature_names(self) -> tuple[str, ...]:
        return FEATURE_NAMES

    def features(self, configs: Sequence[Config], problem: LoraProblem, gpu: GpuInfo) -> "NDArray[np.float64]":
        from bo_tune.kernels.lora.features import features  # noqa: PLC0415 - loads numpy

        return features(self, configs, problem, gpu)


def asynchronous(elements: "Column", c: Columns, element_bytes: float) -> "NDArray[np.bool_]":
    """Say where a tile is large enough for every thread to copy its part asynchronously."""
    return elements * element_bytes >= LEAST_ASYNC_BYTES * 32 * c.num_warps


def uses_wgmma(c: Columns, gpu: GpuInfo | None) -> "NDArray[np.bool_]":
    """Say where tiles are multiplied straight from shared memory: on Hopper, with whole warp groups."""
    by_groups: NDArray[np.bool_] = (c.block_m >= WGMMA_ROWS) & (c.num_warps % WARPS_OF_A_GROUP == 0)
    return by_groups & (gpu is not None and gpu.is_cuda and gpu.capability[0] == HOPPER)


class LoraShrinkSpec(LoraSpec):
    """Shrink: k is the hidden size and n the rank. Every share of k adds to the float32 output."""

    name = "lora_shrink"
    has_split_k = True
    activation_bytes = 2
    output_bytes_per_element = 4.0

    @cached_property
    def search_space(self) -> SearchSpace:
        tile = {"block_m": (16, 32, 64, 128, 256), "block_n": (16, 32, 64, 128, 256), "block_k": (32, 64, 128, 256)}
        launch = {"num_warps": (4, 8), "num_stages": _STAGES, "split_k": (4, 8, 16, 32, 64), "num_ctas": (1,)}
        return SearchSpace.of({**tile, **launch})

    def default_config(self, problem: LoraProblem) -> dict[str, int]:
        small = problem.m < SMALL_BATCH
        tile = {"block_m": 32, "block_n": 16, "block_k": 256 if small else 32}
        return {**tile, "num_warps": 4, "num_stages": 2, "split_k": 64 if small else 8, "num_ctas": 1}

    def file_stem(self, problem: LoraProblem) -> str:
        return "SHRINK"


class LoraExpandSpec(LoraSpec):
    """Expand: k is the rank, n the widest slice. The activations are float32 and rounded before the product."""

    name = "lora_expand"
    has_split_k = False
    activation_bytes = 4
    output_bytes_per_element = 4.0  # read and written

    @cached_property
    def search_space(self) -> SearchSpace:
        tile = {"block_m": (16, 32, 64, 128, 256), "block_n": (32, 64, 128, 256, 512)}
        length = {"block_k": (16, 32, 64, 128, 256)}
        return SearchSpace.of({**tile, **length, "num_warps": (2, 4, 8), "num_stages": _STAGES, "num_ctas": (1,)})

    def default_config(self, problem: LoraProblem) -> dict[str, int]:
        tile = {"block_m": 64, "block_n": 64 if problem.num_slices > 1 else 128, "block_k": 32}
        return {**tile, "num_warps": 4, "num_stages": 2, "num_ctas": 1}

    def file_stem(self, problem: LoraProblem) -> str:
        return "EXPAND_FALSE" if problem.add_inputs is False else "EXPAND_TRUE"
