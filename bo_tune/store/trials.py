"""A stored trial: the outcome of a config in Optuna's terms. ``frozen`` turns it into Optuna's own object.

=====================  ==========================  =====================================================
outcome                state                       holds
=====================  ==========================  =====================================================
measured               COMPLETE                    value = time in us; intermediate values
measured, clearly slow PRUNED                      intermediate values, the last one the estimate it ended with
invalid                PRUNED                      no value at all
=====================  ==========================  =====================================================

An intermediate value is the estimate of the time, in us, after as many repetitions as its step says. There is one for
each number of repetitions after which a config is judged, and one at the end. (Earlier versions stored only the
estimate of a slow config, at step 0.)

User attributes: ``reason`` (pruned only), ``runtimes_us`` (raw repetitions; measured only) and ``cost`` (launches by
purpose, compile seconds, resources).
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import Enum
from typing import TYPE_CHECKING, Any, TypeAlias

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

if TYPE_CHECKING:  # reading a trial does not load Optuna
    from optuna.trial import FrozenTrial

LARGEST_VALUE = 1024
"""Upper end of a stored parameter's range, above the values in use."""

JUDGED_AFTER = (TimingProtocol().first, TimingProtocol().repetitions)
"""Repetitions after which a config is judged, as intermediate values show it."""

REASON = "reason"
RUNTIMES_US = "runtimes_us"
COST = "cost"


class State(Enum):
    """A trial's state, in Optuna's terms."""

    RUNNING = 0
    COMPLETE = 1
    PRUNED = 2
    FAIL = 3
    WAITING = 4


FINISHED = (State.COMPLETE.name, State.PRUNED.name)
"""States of the trials that this package stores."""


@dataclass(frozen=True, slots=True)
class StoredTrial:
    """A trial as it was read.

    Attributes:
        trial_id: its number in the database.
        number: its place in its study, from 0.
        value: the time in us of a complete one.
        datetime_start: when it began, in local time.
        datetime_complete: when it ended, in local time.
        params: the config.
        kinds: the distributions of its parameters, in Optuna's JSON.
        user_attrs: what the package stored with it.
        intermediate_values: estimates of the time in us, by the number of repetitions.
    """

    trial_id: int
    number: int
    state: State
    value: float | None
    datetime_start: datetime | None
    datetime_complete: datetime | None
    params: dict[str, Any]
    kinds: dict[str, str]
    user_attrs: dict[str, Any]
    intermediate_values: dict[int, float]


Trial: TypeAlias = "StoredTrial | FrozenTrial"
"""A trial, as it was read or as Optuna's object. Compare states by their names."""


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


def estimates(runtimes_us: Sequence[float]) -> dict[int, float]:
    """Return the estimates of a config's time after some numbers of its repetitions, by these numbers."""
    after = [count for count in JUDGED_AFTER if count < len(runtimes_us)]
    return {count: estimate_us(runtimes_us[:count]) for count in [*after, len(runtimes_us)] if count}


def outcome_of(trial: Trial) -> Outcome:
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
    stopped = trial.state.name == State.PRUNED.name
    error = cost.get("relative_error")
    return Measurement(tuple(attrs[RUNTIMES_US]), stopped, launches, compilation, resources, error)


def launched(trial: Trial) -> bool:
    """Say whether the trial's config was launched at least once."""
    launches: dict[str, int] = trial.user_attrs.get(COST, {}).get("launches", {})
    return sum(launches.values()) > 0


def time_us(trial: Trial) -> float | None:
    """Return the time of a trial in us: its value, or its estimate if it was stopped as slow."""
    between = trial.intermediate_values
    return trial.value if trial.value is not None or not between else between[max(between)]
