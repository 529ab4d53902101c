"""Stored trials as Optuna has them: for its samplers, and to be written."""

from collections.abc import Mapping
from copy import copy
from datetime import datetime
from functools import cache

from optuna.distributions import BaseDistribution, IntDistribution, json_to_distribution
from optuna.trial import FrozenTrial, TrialState

from bo_tune.core.outcome import Measurement, Outcome
from bo_tune.core.space import Config
from bo_tune.store.trials import LARGEST_VALUE, StoredTrial, attributes, estimates


def state_of(outcome: Outcome) -> TrialState:
    """Return the state a trial with this outcome ends in."""
    complete = isinstance(outcome, Measurement) and not outcome.stopped
    return TrialState.COMPLETE if complete else TrialState.PRUNED


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


def frozen(trial: StoredTrial) -> FrozenTrial:
    """Return a trial that was read as Optuna would have read it. Raises ValueError where its parameters cannot be."""
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
