"""The costs of the searches, and the actual or calculated costs of exhaustive searches of the same problems."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from bo_tune.analysis.outlook import same_binaries
from bo_tune.analysis.review.study import StudyReview
from bo_tune.analysis.review.truth import GridCost, Place, Truth, place_of
from bo_tune.core.outcome import LaunchPurpose
from bo_tune.core.repetitions import TimingProtocol
from bo_tune.core.space import config_key
from bo_tune.store.results import covered_s
from bo_tune.tuning.candidates import HOPELESS

EXHAUSTIVE_LAUNCHES = 1 + TimingProtocol().repetitions
"""Launches of one config in an exhaustive search: a check and its repetitions, if none is late."""


@dataclass(frozen=True, slots=True)
class Effort:
    """The cost of searches, summed over studies.

    Attributes:
        configs: configs tried; ``launched_configs`` of them were launched.
        kernel_s: seconds that the GPU spent inside the tuned kernels in timed repetitions of trials.
        compile_s: seconds of one core.
        wall_s: seconds in which a trial was under way, summed over GPUs: how long GPUs were kept from other work. None
            for replays, which keep none.
        gpu_s: seconds of the GPU process by activity, if a session's figures were given.
        compilers: compile processes, if a session's figures were given.
    """

    studies: int
    configs: int
    launched_configs: int
    launches: int
    launches_by_purpose: Mapping[str, int]
    compiles: int
    compile_s: float
    kernel_s: float
    wall_s: float | None
    gpu_s: Mapping[str, float] | None = None
    compilers: int | None = None


@dataclass(frozen=True, slots=True)
class GridEffort:
    """The cost of exhaustive searches: measured if all of them were made, else calculated.

    Attributes:
        measured: whether every figure was measured.
        configs: configs tried: those that may run, as far as is known beforehand, and differ from each other.
        compiles: binaries to compile. Those that problems share are counted once.
        wall_s: seconds of a GPU; a lower bound if calculated; None if not known.
        basis: how it was calculated, a sentence each.
    """

    measured: bool
    configs: int
    launches: int
    compiles: int
    compile_s: float
    wall_s: float | None
    basis: Sequence[str]


def effort_of(studies: Sequence[StudyReview], session: Mapping[str, Any] | None = None) -> Effort:
    """Add up the costs of studies.

    Args:
        session: the figures that ``tune --json`` wrote.
    """
    purposes: Counter[str] = Counter()
    for study in studies:
        purposes.update(study.costs.launches_by_purpose)
    devices = list(session.get("devices", {}).values()) if session else []
    gpu_s: Counter[str] = Counter()
    for device in devices:
        gpu_s.update((device.get("gpu") or {}).get("seconds", {}))
    return Effort(
        studies=len(studies),
        configs=sum(s.costs.configs for s in studies),
        launched_configs=sum(s.costs.launched_configs for s in studies),
        launches=sum(s.costs.launches for s in studies),
        launches_by_purpose={p.value: purposes[p.value] for p in LaunchPurpose},
        compiles=sum(s.costs.compiles for s in studies),
        compile_s=sum(s.costs.compile_s for s in studies),
        kernel_s=sum(s.kernel_s for s in studies),
        wall_s=_wall_s(studies),
        gpu_s=dict(gpu_s) or None,
        compilers=sum((device.get("farm") or {}).get("workers", 0) for device in devices) or None,
    )


def _wall_s(studies: Sequence[StudyReview]) -> float | None:
    if any(study.replayed for study in studies):
        return None
    by_gpu: dict[str, list[Any]] = {}
    for study in studies:
        by_gpu.setdefault(study.name.gpu, []).extend(study.under_way)
    return sum(map(covered_s, by_gpu.values()))


def grid_effort(searches: Sequence[StudyReview], truths: Mapping[Place, Truth], effort: Effort) -> GridEffort | None:
    """Return the cost of exhaustive searches of the same problems, or None if the grids' sizes are not known.

    Args:
        truths: the grids that were measured whole.
        effort: of the searches.
    """
    whole = [truths[place].cost for s in searches if (place := place_of(s.name)) in truths]
    if searches and len(whole) == len(searches):
        return _measured(whole)
    sizes = [_runnable(study) for study in searches]
    if not searches or None in sizes:
        return None
    return _calculated(searches, [size or 0 for size in sizes], effort)


def _measured(whole: Sequence[GridCost]) -> GridEffort:
    timed = all(cost.under_way for cost in whole)
    return GridEffort(
        measured=True,
        configs=sum(cost.configs for cost in whole),
        launches=sum(cost.launches for cost in whole),
        compiles=sum(cost.compiles for cost in whole),
        compile_s=sum(cost.compile_s for cost in whole),
        wall_s=covered_s(interval for cost in whole for interval in cost.under_way) if timed else None,
        basis=[],
    )


def _runnable(study: StudyReview) -> int | None:
    """Return how many configs an exhaustive search would try, including those that the search left out as hopeless."""
    if study.grid_size is None:
        return None
    return study.grid_size - sum(n for reason, n in study.excluded.items() if reason != HOPELESS)


def _calculated(searches: Sequence[StudyReview], sizes: Sequence[int], effort: Effort) -> GridEffort:
    largest: dict[tuple[object, ...], int] = {}
    for study, size in zip(searches, sizes, strict=True):
        place = same_binaries(study.name.problem), study.family
        largest[place] = max(size, largest.get(place, 0))
    distinct = {(same_binaries(s.name.problem), s.family, config_key(p.config)) for s in searches for p in s.trials}
    each = min(1.0, effort.compiles / len(distinct)) if distinct else 1.0
    compiles = round(each * sum(largest.values()))
    mean_s = effort.compile_s / effort.compiles if effort.compiles else 0.0
    compile_s = compiles * mean_s
    configs = sum(sizes)
    basis = [
        f"configs: the {sum(s.grid_size or 0 for s in searches):,} of the search spaces, without those that "
        "cannot run or are identical to another",
        f"launches: {EXHAUSTIVE_LAUNCHES} per config, for a check and its repetitions; there is no race at the end",
        f"compiles: {100 * each:.0f} % of the configs that differ in more than m, which is the share of the tried "
        f"configs that the searches compiled; {mean_s:.2f} s each, which is their mean (a low estimate, because "
        "searches avoid configs that take long to compile)",
    ]
    wall_s, more = _wall_bound(configs, compile_s, effort)
    return GridEffort(False, configs, configs * EXHAUSTIVE_LAUNCHES, compiles, compile_s, wall_s, [*basis, *more])


def _wall_bound(configs: int, compile_s: float, effort: Effort) -> tuple[float | None, list[str]]:
    if effort.wall_s is None or not effort.compile_s:
        return None, []
    if effort.compilers:
        compilers, whose = float(effort.compilers), "compile processes, as in the session, never idle"
    else:
        compilers, whose = effort.compile_s / effort.wall_s, "compilers busy on average in the searches"
    bounds = {f"compiling with {compilers:.1f} {whose}": compile_s / compilers}
    measuring_s = (effort.gpu_s or {}).get("measure")
    if measuring_s and effort.launched_configs:
        each_s = measuring_s / effort.launched_configs
        bounds[f"measuring at {1e3 * each_s:.1f} ms per config, the session's mean"] = configs * each_s
    what = max(bounds, key=bounds.__getitem__)
    return bounds[what], [f"GPU time: at least as long as {what} would take"]


def reasons_of(studies: Iterable[StudyReview]) -> tuple[Mapping[str, int], Mapping[str, int]]:
    """Return the pruned trials by reason, and the configs left out before any trial by reason, most frequent first."""
    pruned: Counter[str] = Counter()
    excluded: Counter[str] = Counter()
    for study in studies:
        pruned.update(study.reasons)
        excluded.update(study.excluded)
    return dict(pruned.most_common()), dict(excluded.most_common())
