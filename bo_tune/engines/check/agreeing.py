"""Whether the entries of the experts' files that an engine reaches in one step agree on one block_m, at every m."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

from bo_tune.core.conclusion import SHARED
from bo_tune.engines.check.findings import Fault, Lookup, place_of
from bo_tune.engines.check.lora_files import is_moe
from bo_tune.engines.vllm.agreement import Disagreement, disagreements
from bo_tune.engines.vllm.lookup import Crash
from bo_tune.kernels.moe.untuned import as_read


def agreeing(lookups: Sequence[Lookup], ends: Mapping[int, int]) -> list[Lookup]:
    """Return the lookups, with a fault more where the experts' files do not agree.

    Args:
        ends: of each m the last number of tokens that it stands for.
    """
    values = {item.problem: value for item in lookups if (value := _block_m(item)) is not None}
    wrong = disagreements(values)
    same: dict[tuple[object, ...], list[int]] = {}
    for item in lookups:
        if item.problem in wrong:
            same.setdefault(_kind(item, wrong[item.problem]), []).append(item.problem.m)
    return [
        replace(item, faults=(*item.faults, _disagreement(item, found, same[_kind(item, found)], ends)))
        if (found := wrong.get(item.problem))
        else item
        for item in lookups
    ]


def _block_m(item: Lookup) -> int | None:
    """Return the block_m that a lookup of an experts' file ends at; None where it is none, or no file of theirs."""
    if not is_moe(item.file) or isinstance(item.found, Crash):
        return None
    config = item.found.config if item.found else {}
    value = as_read(config)[SHARED] if isinstance(config, dict) else None
    return value if type(value) is int else None


def _kind(item: Lookup, found: Disagreement) -> tuple[object, ...]:
    """Return what is equal for lookups that disagree in one place alike."""
    return item.file, item.found.keys if item.found else (), replace(item.problem, m=1), found


def _disagreement(item: Lookup, found: Disagreement, ms: Sequence[int], ends: Mapping[int, int]) -> Fault:
    keys = item.found.keys if item.found else ()
    reason = (
        f"{SHARED} {found.value} at m {_spans(ms, ends)}, where {found.first} has {found.expected}: {found.consequence}"
    )
    return Fault(item.file, place_of(keys), reason)


def _spans(ms: Sequence[int], ends: Mapping[int, int]) -> str:
    """Show numbers of tokens, each of which stands for those up to its end: ``1, 33 to 64``."""
    spans: list[tuple[int, int]] = []
    for m in sorted(ms):
        if spans and spans[-1][1] == m - 1:
            spans[-1] = (spans[-1][0], ends[m])
        else:
            spans.append((m, ends[m]))
    return ", ".join(str(first) if first == last else f"{first} to {last}" for first, last in spans)
