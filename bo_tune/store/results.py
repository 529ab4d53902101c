"""The results of studies and sessions, and what finding them cost."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any

from bo_tune.core.outcome import Launches, LaunchPurpose
from bo_tune.core.problem import Problem
from bo_tune.core.space import ConfigKey, config_key
from bo_tune.kernels.registry import is_known, kernel_spec
from bo_tune.store.attributes import SPACE_ATTR
from bo_tune.store.result import Costs, StudyResult
from bo_tune.store.trials import REASON, Trial, launched, outcome_of

__all__ = ["Costs", "StudyResult", "costs_of", "covered_s", "figures_of", "intervals_of"]


def default_of(problem: Problem, attributes: Mapping[str, Any]) -> ConfigKey | None:
    """Return the default config of a stored study, or None for a kernel that this process does not know.

    Args:
        attributes: the study's stored attributes. Older studies hold no default: theirs was the kernel's.
    """
    noted = attributes.get(SPACE_ATTR, {}).get("default")
    if noted is not None:
        return config_key(noted)
    return config_key(kernel_spec(problem.kernel).default_config(problem)) if is_known(problem.kernel) else None


def covered_s(intervals: Iterable[tuple[datetime, datetime]]) -> float:
    """Return the seconds covered by any of the intervals. Overlaps count once."""
    total = 0.0
    reached: datetime | None = None
    for start, end in sorted(intervals):
        if reached is None or start > reached:
            total += (end - start).total_seconds()
            reached = end
        elif end > reached:
            total += (end - reached).total_seconds()
            reached = end
    return total


def intervals_of(trials: Iterable[Trial]) -> list[tuple[datetime, datetime]]:
    """Return when each finished trial was under way."""
    return [(t.datetime_start, t.datetime_complete) for t in trials if t.datetime_start and t.datetime_complete]


def costs_of(trials: Sequence[Trial], race: Launches | None = None) -> Costs:
    """Sum up the costs of a study's trials and of its finalists' race (given by its launches)."""
    launches: Launches = Counter()
    compiles, compile_s = 0, 0.0
    for trial in trials:
        outcome = outcome_of(trial)
        launches.update(outcome.launches)
        compiles += not outcome.compilation.cached and outcome.compilation.compile_s > 0
        compile_s += 0.0 if outcome.compilation.cached else outcome.compilation.compile_s
    launches.update(race or {})
    return Costs(
        configs=len(trials),
        launched_configs=sum(map(launched, trials)),
        launches=launches.total(),
        launches_by_purpose={purpose.value: launches[purpose] for purpose in LaunchPurpose},
        compiles=compiles,
        compile_s=round(compile_s, 3),
        wall_s=round(covered_s(intervals_of(trials)), 3),
    )


def figures_of(trials: Sequence[Trial]) -> dict[str, Any]:
    """Count the trials of a study: all, by state, and pruned ones by reason. So listing it need not read them."""
    reasons = Counter(t.user_attrs[REASON] for t in trials if REASON in t.user_attrs)
    states = Counter(t.state.name for t in trials)
    return {"trials": len(trials), "states": dict(states), "reasons": dict(reasons.most_common())}
