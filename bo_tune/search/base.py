"""What every sampler of a finite grid shares: one config per trial, never the same twice.

A sampler of this package implements ``choose``: given what the study holds, name the next grid index. All the rest
(reading the study, running trials, fixed parameters, exhaustion, repeatability) is here.
"""

import threading
import weakref
from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import optuna
from numpy.typing import NDArray
from optuna.distributions import BaseDistribution
from optuna.samplers import BaseSampler
from optuna.study import Study
from optuna.trial import FrozenTrial, TrialState

from bo_tune.errors import BoTuneError
from bo_tune.search.grid import Grid, Params, Value, distributions
from bo_tune.search.study_log import PROPOSAL_ATTR, StudyLog


class GridExhaustedError(BoTuneError):
    """Every valid config of the grid has been tried or is running."""


class GridSampler(BaseSampler):
    """A sampler that proposes each valid config of a finite grid at most once.

    Proposals depend on the seed, the trial's number and what the study holds, and on nothing else: a new process
    that loads the study goes on as the old one would have. ``study.optimize`` ends when the grid is exhausted;
    an ask-and-tell loop asks ``remaining`` first, or meets ``GridExhaustedError``.

    Args:
        grid: parameter name to values, in order.
        valid: predicate of configs; those it refuses are never proposed.
        seed: of all random choices.
    """

    def __init__(
        self,
        grid: Mapping[str, Sequence[Value]] | Grid,
        *,
        valid: Callable[[dict[str, Value]], bool] | None = None,
        seed: int = 0,
    ) -> None:
        self.grid = grid if isinstance(grid, Grid) else Grid(grid, valid)
        self.seed = seed
        self._space = distributions(self.grid.dimensions)
        self._forget()

    def _forget(self) -> None:
        """Drop what can be read from the studies again."""
        self._logs: weakref.WeakKeyDictionary[Study, StudyLog] = weakref.WeakKeyDictionary()
        self._proposals: weakref.WeakKeyDictionary[Study, dict[int, int]] = weakref.WeakKeyDictionary()
        self._lock = threading.RLock()

    def __getstate__(self) -> dict[str, Any]:
        state = self.__dict__.copy()
        del state["_logs"], state["_proposals"], state["_lock"]
        return state

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._forget()

    @abstractmethod
    def choose(self, study: Study, trial: FrozenTrial, log: StudyLog, free: NDArray[np.bool_]) -> int:
        """Return the grid index to try next.

        Args:
            study: the study.
            trial: the trial to propose for.
            log: what the study holds of this grid.
            free: ``[C]``, the configs to choose from; at least one.
        """

    def log(self, study: Study, current: FrozenTrial | None = None) -> StudyLog:
        """Return what the study holds of the grid, up to date."""
        log = self._logs.get(study)
        if log is None:
            log = self._logs[study] = StudyLog(self.grid)
        log.update(study, current)
        return log

    def adopt(self, study: Study) -> StudyLog:
        """Return a log for a study that lives in another process; ``StudyLog.adopt`` fills it."""
        log = self._logs[study] = StudyLog(self.grid)
        return log

    def remaining(self, study: Study) -> int:
        """Valid configs that are neither tried nor running nor queued."""
        with self._lock:
            return self.log(study).remaining

    def rng(self, trial: FrozenTrial, *stream: int) -> np.random.Generator:
        """A generator that depends on the seed and the trial's number alone (and on the stream asked for)."""
        return np.random.default_rng([self.seed, trial.number, *stream])

    def infer_relative_search_space(self, study: Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        """Return nothing: Optuna would demand that the objective's distributions equal these, log flag included.

        A config is proposed as a whole all the same, when its first parameter is asked for; see
        ``sample_independent``.
        """
        self._raise_error_if_multi_objective(study)
        return {}

    def sample_relative(
        self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        """Return the proposed values of those parameters of the space that are the grid's."""
        self._raise_error_if_multi_objective(study)
        names = [name for name in self.grid.names if name in search_space]
        config = self.propose(study, trial) if names else {}
        return {name: config[name] for name in names}

    def sample_independent(
        self, study: Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        """Return a parameter of the trial's proposed config; one that is not the grid's is drawn uniformly."""
        self._raise_error_if_multi_objective(study)
        if param_name in self.grid.dimensions:
            value = self.propose(study, trial)[param_name]
            if _contains(param_distribution, value):
                return value
        name = int.from_bytes(param_name.encode()[:8], "little")
        seed = int(self.rng(trial, name).integers(2**31))
        return optuna.samplers.RandomSampler(seed=seed).sample_independent(study, trial, param_name, param_distribution)

    def propose(self, study: Study, trial: FrozenTrial) -> Params:
        """Return the config of a trial, chosen when it is first asked for.

        Parameters that the trial has already, or that it was queued with, are kept where the grid allows.

        Raises:
            GridExhaustedError: when no config is left.
        """
        with self._lock:
            proposals = self._proposals.setdefault(study, {})
            if trial.number not in proposals:
                before = trial.system_attrs.get(PROPOSAL_ATTR)
                proposals[trial.number] = self._choose(study, trial) if before is None else before
                study._storage.set_trial_system_attr(trial._trial_id, PROPOSAL_ATTR, proposals[trial.number])
            return self.grid[proposals[trial.number]]

    def _choose(self, study: Study, trial: FrozenTrial) -> int:
        log = self.log(study, trial)
        free = self.grid.valid & ~log.taken
        if not free.any():
            raise GridExhaustedError(f"all {int(self.grid.valid.sum())} valid configs of the grid have been tried")
        fixed: Params = {**trial.system_attrs.get("fixed_params", {}), **trial.params}
        if fixed:
            wanted = free & self.grid.matching(fixed)
            free = wanted if wanted.any() else free
        return self.choose(study, trial, log, free)

    def after_trial(self, study: Study, trial: FrozenTrial, state: TrialState, values: Sequence[float] | None) -> None:
        """Forget the proposal, and stop ``study.optimize`` when this trial was the last of the grid."""
        index = self.grid.index(trial.params)
        with self._lock:
            self._proposals.get(study, {}).pop(trial.number, None)
            log = self.log(study, trial)
            left = log.remaining
            if index is not None and self.grid.valid[index] and not log.taken[index]:
                left -= state != TrialState.FAIL
        if left <= 0 and not log.pending and in_optimize_loop(study):
            study.stop()


def in_optimize_loop(study: Study) -> bool:
    """Whether ``study.stop()`` means anything here: it raises outside of ``study.optimize``."""
    return bool(getattr(study._thread_local, "in_optimize_loop", False))


def _contains(distribution: BaseDistribution, value: Value) -> bool:
    """Whether a distribution admits a value; a categorical one without it raises instead of saying so."""
    try:
        return distribution._contains(distribution.to_internal_repr(value))
    except ValueError:
        return False
