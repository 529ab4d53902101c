"""The base model's experts before anything is compiled."""

from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING

from bo_tune.core.conditions import Conditions
from bo_tune.core.problem import GpuInfo, Problem, SizedProblem
from bo_tune.core.space import Config, SearchSpace
from bo_tune.kernels.experts.rule import rule_of
from bo_tune.kernels.experts.step import ENGINE_NAMES, FP8, KERNEL, WEIGHT_BYTES, ExpertsStep
from bo_tune.kernels.lora.spec import FEATURE_NAMES, HOPPER, WARPS_OF_A_GROUP, Columns, asynchronous, uses_wgmma
from bo_tune.kernels.spec import MAX_ACCUMULATORS_PER_THREAD, KernelSpec

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from bo_tune.kernels.lora.spec import Column

ROWS_OF_MANY = 64
"""With fewer rows per tile than this, and at least this many columns, fp8 is multiplied with swapped operands."""

ALIGNED = 16
"""If the length of a product is a multiple of this, Triton knows it, and so knows that rows of tiles are aligned."""


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
"""Features that the second product's launch has of its own. All others equal those of the first."""

_FEATURE_NAMES = (*FEATURE_NAMES, "log2 group_size_m", *(f"second {name}" for name in OF_ONE_PRODUCT))


class ExpertsSpec(KernelSpec[SizedProblem]):
    """Both products of a layer, one launch each, under one config. Their total time counts.

    The search space is that of vLLM's own tuner. Parameters have the names used in its files.
    """

    name = KERNEL
    launches = 2
    power_of_two = frozenset({"BLOCK_SIZE_M", "BLOCK_SIZE_N", "BLOCK_SIZE_K", "num_warps"})

    @cached_property
    def search_space(self) -> SearchSpace:
        tile = {"BLOCK_SIZE_M": (16, 32, 64, 128, 256), "BLOCK_SIZE_N": (32, 64, 128, 256)}
        tile |= {"BLOCK_SIZE_K": (64, 128, 256), "GROUP_SIZE_M": (1, 16, 32, 64)}
        return SearchSpace.of({**tile, "num_warps": (4, 8), "num_stages": (2, 3, 4, 5)})

    def product_sizes(self, problem: SizedProblem, conditions: Conditions) -> dict[str, int | str]:
        return {"routing": str(conditions.routing)}

    def default_config(self, problem: SizedProblem) -> dict[str, int]:
        """Return the config that vLLM runs if it ships no file for the shape and the GPU."""
        return as_the_engine_names(rule_of(ExpertsStep.of(problem)))

    def rivals(self, problem: SizedProblem) -> Sequence[Config]:
        """Return the engine's rule, which matters if the engine ships a file that takes precedence over it."""
        return (self.default_config(problem),)

    def understands(self, config: Config, problem: Problem) -> bool:
        try:
            ExpertsStep.of(problem)
        except ValueError:
            return False
        return set(config) == set(self.search_space.names)

    def impossible(self, config: Config, problem: SizedProblem, gpu: GpuInfo) -> str | None:
        """Say whether a config needs too much shared memory. The bound holds for NVIDIA; elsewhere the binary tells."""
        needed = self.shared_memory_bytes(config, problem, gpu) if gpu.is_cuda else 0
        if needed > gpu.shared_memory_bytes:
            return f"it needs {needed} B of shared memory, but the GPU has {gpu.shared_memory_bytes} B"
        return None

    def runnable(self, configs: Sequence[Config], problem: SizedProblem, gpu: GpuInfo) -> "NDArray[np.bool_]":
        from bo_tune.kernels.experts.features import runnable  # noqa: PLC0415 - loads numpy

        return runnable(configs, problem, gpu)

    def shared_memory_bytes(self, config: Config, problem: SizedProblem, gpu: GpuInfo | None = None) -> int:
        """Return a lower bound of the shared memory that the two binaries need, in bytes; 0 if nothing is known.

        Integer weights are converted on their way, and the compiler decides where the converted values lie.
        """
        step = ExpertsStep.of(problem)
        if step.is_grouped:
            return 0
        named = launched(config, step)
        lengths = [length for length, _ in step.products]
        return max(int(shared_memory(Columns.one(named, length), length, step, gpu)) for length in lengths)

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
    """Return the part of a config in small letters that these kernels take, with the names of the engine's files."""
    return {theirs: config[ours] for theirs, ours in ENGINE_NAMES.items()}


def launched(config: Config, step: ExpertsStep) -> dict[str, int]:
    """Return a config as it is launched, with the names that other kernels use. A tile is no longer than a block."""
    named = {ours: config[theirs] for theirs, ours in ENGINE_NAMES.items() if theirs in config}
    if step.weights == FP8 and step.block:
        named["block_k"] = min(named["block_k"], *step.block)
    return named


def swapped(c: Columns, step: ExpertsStep, gpu: GpuInfo | None) -> "NDArray[np.bool_]":
    """Say where the engine swaps the operands so that few rows do not waste tiles: fp8 on Hopper."""
    is_hopper = gpu is not None and gpu.is_cuda and gpu.capability == (HOPPER, 0)
    few: NDArray[np.bool_] = (c.block_m < ROWS_OF_MANY) & (c.block_n >= ROWS_OF_MANY)
    return few & (is_hopper and step.weights == FP8)


def shared_memory(c: Columns, length: int, step: ExpertsStep, gpu: GpuInfo | None) -> "Column":
    """Return a lower bound of the shared memory of one product's launch, in bytes.

    A tile is in flight for each stage except the one being multiplied, and with wgmma that one too. If rows are not
    known to be aligned, no tile is copied asynchronously, and there is one of each.
    """
    staged = c.num_stages > 1
    by_groups = uses_wgmma(c, gpu) | (swapped(c, step, gpu) & (c.num_warps % WARPS_OF_A_GROUP == 0))
    in_flight = c.num_stages - staged * (1 - by_groups) - 1
    aligned = length % ALIGNED == 0
    x_bytes, w_bytes = step.activation_bytes, WEIGHT_BYTES[step.weights]
    x_tiles = 1 + asynchronous(c.block_m * c.block_k, c, x_bytes) * aligned * in_flight
    w_tiles = 1 + asynchronous(c.block_n * c.block_k, c, w_bytes) * aligned * in_flight
    needed: Column = (c.block_m * x_tiles * x_bytes + c.block_n * w_tiles * w_bytes) * c.block_k
    return needed
