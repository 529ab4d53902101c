"""The one-launch kernels of fused MoE LoRA before anything is compiled: shrink and expand at once.

There is one for gate and up, and one for down.

Where an engine runs these, it takes block_m of the four tuned files and nothing else of them. So their search space is
block_m alone, they have no file of their own, and what they measure decides on block_m for the other four.

=========  ================  ====  ================
kernel     length of shrink  rank  width of a slice
=========  ================  ====  ================
w13        hidden            rank  i
w2         i                 rank  hidden
=========  ================  ====  ================
"""

from collections.abc import Sequence
from dataclasses import replace
from functools import cached_property
from typing import TYPE_CHECKING, ClassVar

from bo_tune.core.conclusion import SHARED
from bo_tune.core.conditions import Conditions
from bo_tune.core.problem import GpuInfo, LoraProblem
from bo_tune.core.space import Config, SearchSpace
from bo_tune.kernels.moe.spec import (
    MOE,
    MOE_SPECS,
    MoeLoraSpec,
    MoeW2ExpandSpec,
    MoeW2ShrinkSpec,
    MoeW13ExpandSpec,
    MoeW13ShrinkSpec,
    experts_of,
)
from bo_tune.kernels.spec import KernelSpec

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


class MoeOneLaunchSpec(KernelSpec[LoraProblem]):
    """Shrink and expand in one launch, the product between them in registers."""

    decides: ClassVar[bool] = True
    parts: ClassVar[tuple[MoeLoraSpec, MoeLoraSpec]]
    """The kernels that it stands for, shrink and expand."""

    @property
    def search_space(self) -> SearchSpace:
        return self._space

    @cached_property
    def _space(self) -> SearchSpace:
        return SearchSpace.of({SHARED: self.parts[0].search_space.ranges[SHARED]})

    def joint_group(self, problem: LoraProblem) -> tuple[object, ...]:
        return self.parts[0].joint_group(problem)

    def default_config(self, problem: LoraProblem) -> dict[str, int]:
        return {SHARED: self.parts[0].default_config(problem)[SHARED]}

    def product_sizes(self, problem: LoraProblem, conditions: Conditions) -> dict[str, int | str]:
        sizes = {"gemm_n": self.width(problem), "gemm_k": self.length(problem), "rank": problem.k}
        return {**sizes, "routing": str(conditions.routing)}

    def length(self, problem: LoraProblem) -> int:
        """Return the length of the first product, in elements."""
        return self.parts[0].product_length(problem)

    def width(self, problem: LoraProblem) -> int:
        """Return the width of a slice of the result, in elements."""
        return self.parts[1].product_width(problem)

    @property
    def feature_names(self) -> tuple[str, ...]:
        return ("log2 block_m", "log2 launched blocks")

    def features(self, configs: Sequence[Config], problem: LoraProblem, gpu: GpuInfo) -> "NDArray[np.float64]":
        from bo_tune.kernels.moe.features import one_launch_features  # noqa: PLC0415 - loads numpy

        return one_launch_features(configs, problem)


class MoeW13Spec(MoeOneLaunchSpec):
    """Gate and up."""

    name = f"{MOE}_w13"
    parts = (MoeW13ShrinkSpec(), MoeW13ExpandSpec())


class MoeW2Spec(MoeOneLaunchSpec):
    """Down."""

    name = f"{MOE}_w2"
    parts = (MoeW2ShrinkSpec(), MoeW2ExpandSpec())


ONE_LAUNCH_SPECS = (MoeW13Spec(), MoeW2Spec())
"""In the order a layer runs them."""

_SPECS = {spec.name: spec for spec in MOE_SPECS}


def one_launch_problems(problems: Sequence[LoraProblem]) -> tuple[LoraProblem, ...]:
    """Return the problems of the one-launch kernels for the same layer and step.

    Args:
        problems: those of the kernels of one joint group.

    Returns:
        One for each kernel; none where one of the four is missing, because then the files are not whole, or where the
        adapters are fully sharded, because then other ranks share the product between shrink and expand.
    """
    by_kernel = {problem.kernel: problem for problem in problems}
    if set(by_kernel) != set(_SPECS) or any(experts_of(problem).shards > 1 for problem in problems):
        return ()
    halves = ((spec, by_kernel[spec.parts[0].name]) for spec in ONE_LAUNCH_SPECS)
    return tuple(replace(half, kernel=spec.name, k=_SPECS[half.kernel].rank(half)) for spec, half in halves)
