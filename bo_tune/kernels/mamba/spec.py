"""The decode step of a Mamba-2 layer before anything is compiled."""

from collections.abc import Sequence
from functools import cached_property
from typing import TYPE_CHECKING, ClassVar

from bo_tune.core.problem import GpuInfo, Problem, SizedProblem
from bo_tune.core.space import Config, SearchSpace
from bo_tune.kernels.mamba.step import KERNEL, MambaStep
from bo_tune.kernels.spec import KernelSpec

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

WARP = 32

_FEATURE_NAMES = (
    "log2 BLOCK_SIZE_M",
    "log2 num_warps",
    "log2 elements per thread",
    "padding",
    "log2 programs",
    "log2 waves",
    "log2 bytes per program",
    "log2 bytes per SM",
)

FOR_SMALL_STATES = ((16, 32, 4), (32, 16, 4), (64, 8, 4))
"""The engine's rule: up to this size of the state, the rows of a block and the warps."""
FOR_MIDDLING_STATES, FOR_LARGE_STATES = (4, 4), (4, 8)
MIDDLING = 128


class MambaSpec(KernelSpec[SizedProblem]):
    """One program handles some channels of one head of one sequence. It reads and writes their states.

    The parameters are those in the engine's files, with the same names.
    """

    name = KERNEL
    measured_whole: ClassVar[bool] = True

    @cached_property
    def search_space(self) -> SearchSpace:
        return SearchSpace.of({"BLOCK_SIZE_M": (2, 4, 8, 16, 32, 64, 128), "num_warps": (1, 2, 4, 8, 16)})

    def default_config(self, problem: SizedProblem) -> dict[str, int]:
        """Return the config that vLLM runs, up to Hopper, if it ships no file for the shape and the GPU."""
        dstate = MambaStep.of(problem).dstate
        for most, block, warps in FOR_SMALL_STATES:
            if dstate <= most:
                return {"BLOCK_SIZE_M": block, "num_warps": warps}
        block, warps = FOR_MIDDLING_STATES if dstate <= MIDDLING else FOR_LARGE_STATES
        return {"BLOCK_SIZE_M": block, "num_warps": warps}

    def rivals(self, problem: SizedProblem) -> Sequence[Config]:
        """Return the engine's rule, which matters if the engine ships a file that takes precedence over it."""
        return (self.default_config(problem),)

    def understands(self, config: Config, problem: Problem) -> bool:
        try:
            MambaStep.of(problem)
        except ValueError:
            return False
        return set(config) == set(self.search_space.names)

    def allows(self, config: Config, problem: SizedProblem) -> bool:
        """Reject blocks of more channels than a head has. They read nothing more."""
        least = min(self.search_space.ranges["BLOCK_SIZE_M"])
        return config["BLOCK_SIZE_M"] <= max(least, power_of_two(MambaStep.of(problem).headdim))

    @property
    def feature_names(self) -> tuple[str, ...]:
        return _FEATURE_NAMES

    def features(self, configs: Sequence[Config], problem: SizedProblem, gpu: GpuInfo) -> "NDArray[np.float64]":
        from bo_tune.kernels.mamba.features import features  # noqa: PLC0415 - loads numpy

        return features(configs, problem, gpu)


def power_of_two(size: int) -> int:
    """Return the smallest power of two that is at least the size."""
    return 1 << (size - 1).bit_length()
