"""Stored trials as Optuna's own objects: for its samplers, and for writing."""

from collections.abc import Mapping, Sequence
from copy import copy
from datetime import datetime
from functools import cache
from types import MappingProxyType

from optuna.distributions import BaseDistribution, IntDistribution, json_to_distribution
from optuna.trial import FrozenTrial, TrialState

from bo_tune.core.outcome import Measurement, Outcome
from bo_tune.core.space import Config
from bo_tune.store.trials import LARGEST_VALUE, StoredTrial, attributes, estimates


def state_of(outcome: Outcome) -> TrialState:
    """Return the state in which a trial with this outcome ends."""
    complete = isinstance(outcome, Measurement) and not outcome.stopped
    return TrialState.COMPLETE if complete else TrialState.PRUNED


Ranges = Mapping[str, tuple[int, int]]
"""The smallest and the largest value of each parameter."""


def ranges_of(space: Mapping[str, Sequence[int]], default: Config = MappingProxyType({})) -> Ranges:
    """Return the ranges of a grid, extended to a default config that may be off it."""
    found = {name: [*values, *([default[name]] if name in default else [])] for name, values in space.items()}
    return {name: (min(values), max(values)) for name, values in found.items()}


def stored_distributions(config: Config, ranges: Ranges) -> dict[str, BaseDistribution]:
    """Return the distributions that are stored for a config's parameters.

    They are for people who look at a study with Optuna's tools, which draw axes from them and give a parameter with a
    single value no importance. All trials of a study have the same ones, except for configs off the ranges. Optuna
    wants the kind of a parameter's distributions to stay the same throughout a study. Their ends may change, as a
    user's grid may at any time.
    """
    found: dict[str, BaseDistribution] = {}
    for name, value in config.items():
        low, high = ranges.get(name, (1, LARGEST_VALUE))
        found[name] = IntDistribution(min(low, value), max(high, value))
    return found


def to_trial(
    config: Config,
    outcome: Outcome,
    *,
    number: int = 0,
    start: datetime,
    end: datetime,
    ranges: Ranges = MappingProxyType({}),
) -> FrozenTrial:
    """Build the finished trial of a config, ready for ``Study.add_trial`` of a stored study.

    Args:
        ranges: of the study's parameters. Parameters without one get a wide one.
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
        distributions=stored_distributions(config, ranges),
        user_attrs=attributes(outcome),
        system_attrs={},
        intermediate_values=estimates(outcome.runtimes_us if isinstance(outcome, Measurement) else ()),
    )


def frozen(trial: StoredTrial) -> FrozenTrial:
    """Return a stored trial as Optuna would have read it. Raises ValueError if its parameters are not valid."""
    return FrozenTrial(
        number=trial.number,
        trial_id=trial.trial_id,
        state=TrialState[trial.state.name],
        value=trial.value,
        datetime_start=trial.datetime_start,
        datetime_complete=trial.datetime_complete,
        params=trial.params,
        distributions={name: _distribution(kind) for name, kind in trial.kinds.items()},
        user_attrs=trial.user_attrs,
        system_attrs={},
        intermediate_values=trial.intermediate_values,
    )


@cache
def _distribution(text: str) -> BaseDistribution:
    return json_to_distribution(text)


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
