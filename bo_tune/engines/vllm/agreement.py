"""Whether the fused MoE kernels' configs that are found in files go together.

Their engine sorts a step's tokens into blocks once, by the block_m of the first of the four kernels. Facts of vLLM
0.33.0.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from bo_tune.core.conclusion import SHARED
from bo_tune.core.problem import LoraProblem
from bo_tune.kernels.moe.spec import MoeLoraSpec, experts_of
from bo_tune.kernels.registry import KERNELS

LARGEST_RANK_AT_ONCE = 128
"""Up to this rank the engine runs shrink and expand in one launch, unless adapters are fully sharded."""


def runs_at_once(problem: LoraProblem) -> bool:
    """Say whether the engine runs a fused MoE problem's shrink and expand in one launch.

    Of the files that launch takes the shrink kernels' block_m alone.
    """
    spec = _spec_of(problem)
    if spec is None:
        return False
    return experts_of(problem).shards == 1 and spec.rank(problem) <= LARGEST_RANK_AT_ONCE


@dataclass(frozen=True, slots=True)
class Disagreement:
    """A kernel's block_m that does not go with the first kernel's.

    Attributes:
        first: name of the first kernel, by whose block_m tokens are sorted.
        expected: that block_m.
        consequence: what the engine does, in a line.
    """

    value: int
    first: str
    expected: int
    consequence: str


def disagreements(found: Mapping[LoraProblem, int]) -> dict[LoraProblem, Disagreement]:
    """Say of which problems' block_m the engine can make nothing, because the first kernel's is another.

    Args:
        found: block_m by problem; kernels that stand alone are passed over.
    """
    groups: dict[object, dict[str, LoraProblem]] = {}
    for problem in found:
        spec = _spec_of(problem)
        if spec is not None:
            groups.setdefault(spec.joint_group(problem), {})[problem.kernel] = problem
    wrong = {}
    for group in groups.values():
        ordered = [group[kernel] for kernel in KERNELS if kernel in group]
        first = ordered[0]
        for problem in ordered[1:]:
            if found[problem] != found[first]:
                shrink = group.get(problem.kernel.replace("expand", "shrink"), first)
                apart = found[problem] != found[shrink]
                consequence = _consequence(problem, apart_from_shrink=apart)
                wrong[problem] = Disagreement(found[problem], first.kernel, found[first], consequence)
    return wrong


def _consequence(problem: LoraProblem, *, apart_from_shrink: bool) -> str:
    if not apart_from_shrink and "expand" in problem.kernel and runs_at_once(problem):
        return f"one launch takes the shrink kernel's {SHARED} alone, which is as wrong"
    if not apart_from_shrink:
        return "tokens are sorted by the latter, and the output is wrong in silence"
    if runs_at_once(problem):
        return f"an engine that runs shrink and expand apart stops; one launch takes the shrink kernel's {SHARED} alone"
    return "the engine stops"


def _spec_of(problem: LoraProblem) -> MoeLoraSpec | None:
    """Return the spec of a fused MoE kernel, or None for another kernel."""
    spec = KERNELS[problem.kernel]
    return spec if isinstance(spec, MoeLoraSpec) else None
