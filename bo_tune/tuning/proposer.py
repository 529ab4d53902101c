"""Proposes a study's configs, for a ``Tuner``: any Optuna sampler, or the order of the grid."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import count
from typing import Protocol

import optuna
from optuna.samplers import BaseSampler
from optuna.study import Study
from optuna.trial import FrozenTrial, Trial, TrialState

from bo_tune.core.conclusion import Certificate
from bo_tune.core.space import Config, ConfigKey, config_key
from bo_tune.search import FiniteGridSampler, GridExhaustedError, certify, distributions
from bo_tune.store.frozen import with_distributions
from bo_tune.store.trials import time_us


@dataclass(frozen=True, slots=True)
class Proposal:
    """A config to try, and the number by which its proposer knows it."""

    number: int
    config: dict[str, int]


class Proposer(Protocol):
    """Proposes the configs of one study, each once. It numbers proposals and learned trials in one sequence."""

    def learn(self, trial: FrozenTrial) -> None:
        """Add a finished trial that it did not propose."""

    def propose(self, config: Config | None = None) -> Proposal:
        """Return the config to try next.

        Args:
            config: a candidate that is neither tried nor under way. By default the proposer chooses one.

        Raises:
            GridExhaustedError: none is left.
            WorkerError: the process that chooses has ended.
        """

    def finish(self, proposal: Proposal, trial: FrozenTrial) -> None:
        """Take in the outcome of a proposal."""

    def forget(self, proposal: Proposal) -> None:
        """Note that a proposal is not tried."""

    def certificate(self, tolerance: float, *, with_loss: bool = False) -> Certificate | None:
        """Return how sure its model is that nothing untried is better by more than ``tolerance``, a share.

        Returns None without a model. See ``certify`` for ``with_loss``. Raises the same errors as ``propose``.
        """

    def close(self) -> None:
        """Release what it holds."""


class SamplerProposer:
    """An Optuna sampler with a study in memory.

    Args:
        sampler: proposes configs of the ranges.
        ranges: parameter name to values.

    Attributes:
        study: the study that the sampler sees, with every trial so far and those under way.
    """

    def __init__(self, sampler: BaseSampler, ranges: Mapping[str, Sequence[int]]) -> None:
        self.sampler = sampler
        self.study = optuna.create_study(sampler=sampler)
        self._distributions = distributions(ranges)
        self._under_way: dict[int, Trial] = {}

    def learn(self, trial: FrozenTrial) -> None:
        self.study.add_trial(with_distributions(trial, self._distributions))

    def propose(self, config: Config | None = None) -> Proposal:
        if config is not None:
            self.study.enqueue_trial(dict(config))
        trial = self.study.ask(self._distributions)
        self._under_way[trial.number] = trial
        return Proposal(trial.number, dict(trial.params))

    def finish(self, proposal: Proposal, trial: FrozenTrial) -> None:
        own = self._under_way.pop(proposal.number)
        for name, value in trial.user_attrs.items():
            own.set_user_attr(name, value)
        estimate = time_us(trial)
        if trial.state is TrialState.PRUNED and estimate is not None:
            own.report(estimate, step=0)
        self.study.tell(own, trial.value, state=trial.state)

    def forget(self, proposal: Proposal) -> None:
        self.study.tell(self._under_way.pop(proposal.number), state=TrialState.FAIL)

    def certificate(self, tolerance: float, *, with_loss: bool = False) -> Certificate | None:
        return certificate_of(self.sampler, self.study, tolerance, with_loss=with_loss)

    def close(self) -> None:
        """See ``Proposer``."""


class InOrderProposer:
    """Proposes every config once, in a given order: an exhaustive search, which learns nothing from what it measures.

    Args:
        configs: the candidates.
    """

    def __init__(self, configs: Iterable[Config]) -> None:
        self._untried = {config_key(config): dict(config) for config in configs}
        self._forgotten = set[ConfigKey]()
        self._numbers = count()

    def learn(self, trial: FrozenTrial) -> None:
        self._untried.pop(config_key(trial.params), None)
        next(self._numbers)

    def propose(self, config: Config | None = None) -> Proposal:
        if not self._untried:
            raise GridExhaustedError("every config has been tried")
        key = next(iter(self._untried)) if config is None else config_key(config)
        return Proposal(next(self._numbers), self._untried.pop(key))

    def finish(self, proposal: Proposal, trial: FrozenTrial) -> None:
        """See ``Proposer``."""

    def forget(self, proposal: Proposal) -> None:
        """See ``Proposer``. Like a sampler, it proposes a forgotten config a second time, but not a third."""
        key = config_key(proposal.config)
        if key not in self._forgotten:
            self._forgotten.add(key)
            self._untried[key] = proposal.config

    def certificate(self, tolerance: float, *, with_loss: bool = False) -> Certificate | None:
        """See ``Proposer``."""

    def close(self) -> None:
        """See ``Proposer``."""


def certificate_of(sampler: BaseSampler, study: Study, tolerance: float, *, with_loss: bool) -> Certificate | None:
    """Return how sure a sampler's model is that nothing better is left, or None if it has no model."""
    if not isinstance(sampler, FiniteGridSampler):
        return None
    return certify(sampler, study, tolerance, with_loss=with_loss)
