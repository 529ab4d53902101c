"""Optuna trials to and from configs and outcomes: the one place that knows what a stored trial looks like.

=====================  ==========================  =====================================================
outcome                state                       holds
=====================  ==========================  =====================================================
measured               COMPLETE                    value = time in us; intermediate values
measured, clearly slow PRUNED                      intermediate values, the last one the estimate it ended with
invalid                PRUNED                      no value at all
=====================  ==========================  =====================================================

An intermediate value is the estimate of the time, in us, after as many repetitions as its step says: those after which
a config is judged, and the last. (Earlier versions stored the estimate of a slow config at step 0, and no others.)

User attributes: ``reason`` (pruned only), ``runtimes_us`` (raw repetitions; measured only) and ``cost``
(launches by purpose, compile seconds, resources).
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from copy import copy
from datetime import datetime
from typing import Any

from optuna.distributions import BaseDistribution, IntDistribution
from optuna.trial import FrozenTrial, TrialState

from bo_tune.core.outcome import (
    SLOW,
    Compilation,
    Invalid,
    InvalidReason,
    LaunchPurpose,
    Measurement,
    Outcome,
    Resources,
    estimate_us,
)
from bo_tune.core.repetitions import TimingProtocol
from bo_tune.core.space import Config

LARGEST_VALUE = 1024
"""Upper end of a stored parameter's range, above the values in use."""

JUDGED_AFTER = (TimingProtocol().first, TimingProtocol().repetitions)
"""Repetitions after which a config is judged, as intermediate values show it."""

REASON = "reason"
RUNTIMES_US = "runtimes_us"
COST = "cost"


def state_of(outcome: Outcome) -> TrialState:
    """Return the state a trial with this outcome ends in."""
    complete = isinstance(outcome, Measurement) and not outcome.stopped
    return TrialState.COMPLETE if complete else TrialState.PRUNED


def _cost(outcome: Outcome) -> dict[str, Any]:
    resources, compilation = outcome.resources, outcome.compilation
    cost = {
        "launches": {purpose.value: count for purpose, count in outcome.launches.items()},
        "compile_s": round(compilation.compile_s, 4),
        "cached": compilation.cached,
        "shared_memory_bytes": resources.shared_memory_bytes,
        "registers_per_thread": resources.registers_per_thread,
        "spilled_registers": resources.spilled_registers,
    }
    if isinstance(outcome, Measurement):
        cost["relative_error"] = outcome.relative_error
    elif outcome.detail:
        cost["detail"] = outcome.detail
    return {name: value for name, value in cost.items() if value is not None}


def attributes(outcome: Outcome) -> dict[str, Any]:
    """Return the user attributes of a trial with this outcome."""
    attrs: dict[str, Any] = {COST: _cost(outcome)}
    if isinstance(outcome, Invalid):
        attrs[REASON] = outcome.reason.value
    else:
        attrs[RUNTIMES_US] = list(outcome.runtimes_us)
        if outcome.stopped:
            attrs[REASON] = SLOW
    return attrs


def to_trial(config: Config, outcome: Outcome, *, number: int = 0, start: datetime, end: datetime) -> FrozenTrial:
    """Build the finished trial of a config, ready for ``Study.add_trial`` of a stored study.

    Its distributions are ranges that hold the config and nothing is said of the grid: Optuna wants the kind of a
    parameter's distributions to stay the same for a study's life, while a user may change the grid at any time.
    """
    time_us = outcome.time_us if isinstance(outcome, Measurement) else None
    state = state_of(outcome)
    slow = state is TrialState.PRUNED
    return FrozenTrial(
        number=number,
        trial_id=-1,
        state=state,
        value=None if slow else time_us,
        datetime_start=start,
        datetime_complete=end,
        params=dict(config),
        distributions={name: IntDistribution(1, max(LARGEST_VALUE, value)) for name, value in config.items()},
        user_attrs=attributes(outcome),
        system_attrs={},
        intermediate_values=estimates(outcome.runtimes_us if isinstance(outcome, Measurement) else ()),
    )


def estimates(runtimes_us: Sequence[float]) -> dict[int, float]:
    """Return the estimates of a config's time along its repetitions, by their number; none without repetitions."""
    after = [count for count in JUDGED_AFTER if count < len(runtimes_us)]
    return {count: estimate_us(runtimes_us[:count]) for count in [*after, len(runtimes_us)] if count}


def outcome_of(trial: FrozenTrial) -> Outcome:
    """Return the outcome stored in a finished trial of this package."""
    attrs = trial.user_attrs
    cost = attrs.get(COST, {})
    launches = Counter({LaunchPurpose(purpose): count for purpose, count in cost.get("launches", {}).items()})
    compilation = Compilation(cost.get("compile_s", 0.0), cost.get("cached", False))
    resources = Resources(
        cost.get("shared_memory_bytes"), cost.get("registers_per_thread"), cost.get("spilled_registers")
    )
    if RUNTIMES_US not in attrs:
        return Invalid(InvalidReason(attrs[REASON]), cost.get("detail", ""), launches, compilation, resources)
    stopped = trial.state is TrialState.PRUNED
    error = cost.get("relative_error")
    return Measurement(tuple(attrs[RUNTIMES_US]), stopped, launches, compilation, resources, error)


def launched(trial: FrozenTrial) -> bool:
    """Say whether the trial's config was launched at least once."""
    launches: dict[str, int] = trial.user_attrs.get(COST, {}).get("launches", {})
    return sum(launches.values()) > 0


def with_distributions(trial: FrozenTrial, distributions: Mapping[str, BaseDistribution]) -> FrozenTrial:
    """Return a copy of a stored trial for a study in memory, whose sampler wants the grid's own distributions.

    A config off the grid (a default config) gets wider ones.
    """
    fitting = {}
    for name, distribution in distributions.items():
        value = trial.params[name]
        if isinstance(distribution, IntDistribution) and not distribution.low <= value <= distribution.high:
            low, high = min(distribution.low, value), max(distribution.high, value)
            distribution = IntDistribution(low, high, log=distribution.log)
        fitting[name] = distribution
    copied = copy(trial)
    copied.distributions = fitting
    return copied


def time_us(trial: FrozenTrial) -> float | None:
    """Return the time of a trial in us: its value, or its estimate when it was stopped as slow."""
    between = trial.intermediate_values
    return trial.value if trial.value is not None or not between else between[max(between)]
