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
"""Of the engine's rule: up to a size of the state, rows of a block and warps."""
FOR_MIDDLING_STATES, FOR_LARGE_STATES = (4, 4), (4, 8)
MIDDLING = 128


class MambaSpec(KernelSpec[SizedProblem]):
    """One program for some channels of each head of each sequence; it reads and writes their states.

    Parameters have the names that they have in the engine's files, which hold no other.
    """

    name = KERNEL
    measured_whole: ClassVar[bool] = True

    @cached_property
    def search_space(self) -> SearchSpace:
        return SearchSpace.of({"BLOCK_SIZE_M": (2, 4, 8, 16, 32, 64, 128), "num_warps": (1, 2, 4, 8, 16)})

    def default_config(self, problem: SizedProblem) -> dict[str, int]:
        """See the base class. What vLLM runs where it ships no file for the shape and the GPU, up to Hopper."""
        dstate = MambaStep.of(problem).dstate
        for most, block, warps in FOR_SMALL_STATES:
            if dstate <= most:
                return {"BLOCK_SIZE_M": block, "num_warps": warps}
        block, warps = FOR_MIDDLING_STATES if dstate <= MIDDLING else FOR_LARGE_STATES
        return {"BLOCK_SIZE_M": block, "num_warps": warps}

    def rivals(self, problem: SizedProblem) -> Sequence[Config]:
        """See the base class. The engine's rule, where it ships a file that comes before it."""
        return (self.default_config(problem),)

    def speaks_of(self, config: Config, problem: Problem) -> bool:
        try:
            MambaStep.of(problem)
        except ValueError:
            return False
        return set(config) == set(self.search_space.names)

    def allows(self, config: Config, problem: SizedProblem) -> bool:
        """See the base class. A block of more channels than a head has reads nothing more."""
        least = min(self.search_space.ranges["BLOCK_SIZE_M"])
        return config["BLOCK_SIZE_M"] <= max(least, power_of_two(MambaStep.of(problem).headdim))

    @property
    def feature_names(self) -> tuple[str, ...]:
        return _FEATURE_NAMES

    def features(self, configs: Sequence[Config], problem: SizedProblem, gpu: GpuInfo) -> "NDArray[np.float64]":
        from bo_tune.kernels.mamba.features import features  # noqa: PLC0415 - loads numpy

        return features(configs, problem, gpu)


def power_of_two(size: int) -> int:
    """Return the least power of two from a size on."""
    return 1 << (size - 1).bit_length()
