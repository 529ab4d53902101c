"""Whether the entries of the experts' files that an engine reaches in one step agree on one block_m, at every m.

The engine sorts a step's tokens into blocks once, by the block_m of the first of the four kernels. Facts of vLLM
0.33.0.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import NamedTuple

from bo_tune.core.conclusion import SHARED
from bo_tune.core.problem import LoraProblem, lora
from bo_tune.engines.check.findings import Fault, Lookup, place_of
from bo_tune.engines.check.lora_files import is_moe
from bo_tune.engines.vllm.lookup import Crash
from bo_tune.kernels.moe.spec import MOE_SPEC, experts_of
from bo_tune.kernels.moe.untuned import as_read

LARGEST_RANK_AT_ONCE = 128
"""Up to this rank, the engine runs shrink and expand in one launch, unless adapters are fully sharded."""


class Disagreement(NamedTuple):
    """A kernel's block_m that differs from that of the first kernel, and the consequence in the engine, in one line."""

    value: int
    first: str
    expected: int
    consequence: str


def agreeing(lookups: Sequence[Lookup], ends: Mapping[int, int]) -> list[Lookup]:
    """Return the lookups, with an additional fault if the experts' files do not agree.

    Args:
        ends: for each m, the last number of tokens that it stands for.
    """
    values = {lora(item.problem): value for item in lookups if (value := _block_m(item)) is not None}
    wrong = disagreements(values)
    same: dict[tuple[object, ...], list[int]] = {}
    for item in lookups:
        if item.problem in wrong:
            same.setdefault(_kind(item, wrong[lora(item.problem)]), []).append(item.m)
    return [
        replace(item, faults=(*item.faults, _disagreement(item, found, same[_kind(item, found)], ends)))
        if (found := wrong.get(lora(item.problem)))
        else item
        for item in lookups
    ]


def _block_m(item: Lookup) -> int | None:
    """Return the block_m that a lookup in an experts' file finds; None if there is none, or for another file."""
    if not is_moe(item.file) or isinstance(item.found, Crash):
        return None
    config = item.found.config if item.found else {}
    value = as_read(config)[SHARED] if isinstance(config, dict) else None
    return value if type(value) is int else None


def _kind(item: Lookup, found: Disagreement) -> tuple[object, ...]:
    """Return a key that is equal for lookups that disagree in the same place and in the same way."""
    return item.file, item.found.keys if item.found else (), replace(lora(item.problem), m=1), found


def _disagreement(item: Lookup, found: Disagreement, ms: Sequence[int], ends: Mapping[int, int]) -> Fault:
    keys = item.found.keys if item.found else ()
    reason = (
        f"{SHARED} {found.value} at m {_spans(ms, ends)}, where {found.first} has {found.expected}: {found.consequence}"
    )
    return Fault(item.file, place_of(keys), reason)


def _spans(ms: Sequence[int], ends: Mapping[int, int]) -> str:
    """Format numbers of tokens, each of which stands for those up to its end: ``1, 33 to 64``."""
    spans: list[tuple[int, int]] = []
    for m in sorted(ms):
        if spans and spans[-1][1] == m - 1:
            spans[-1] = (spans[-1][0], ends[m])
        else:
            spans.append((m, ends[m]))
    return ", ".join(str(first) if first == last else f"{first} to {last}" for first, last in spans)


def runs_at_once(problem: LoraProblem) -> bool:
    """Say whether the engine runs a fused MoE problem's shrink and expand in one launch.

    From the files, that launch takes only the shrink kernels' block_m.
    """
    spec = MOE_SPEC.get(problem.kernel)
    if spec is None:
        return False
    return experts_of(problem).shards == 1 and spec.rank(problem) <= LARGEST_RANK_AT_ONCE


def disagreements(found: Mapping[LoraProblem, int]) -> dict[LoraProblem, Disagreement]:
    """Find the problems whose block_m the engine cannot use, because the first kernel has another.

    Args:
        found: block_m by problem. Kernels that stand alone are ignored.
    """
    groups: dict[object, dict[str, LoraProblem]] = {}
    for problem in found:
        spec = MOE_SPEC.get(problem.kernel)
        if spec is not None:
            groups.setdefault(spec.joint_group(problem), {})[problem.kernel] = problem
    wrong = {}
    for group in groups.values():
        ordered = [group[kernel] for kernel in MOE_SPEC if kernel in group]
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
        return f"one launch takes only the shrink kernel's {SHARED}, which is just as wrong"
    if not apart_from_shrink:
        return "tokens are sorted by the latter, so the output is silently wrong"
    if runs_at_once(problem):
        return (
            "an engine that runs shrink and expand separately stops; an engine that runs them in one launch takes "
            f"only the shrink kernel's {SHARED}"
        )
    return "the engine stops"
