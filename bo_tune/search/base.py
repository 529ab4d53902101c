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
from numpy.typing import NDArray
from optuna.distributions import BaseDistribution
from optuna.samplers import BaseSampler, RandomSampler
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
        self._logs: weakref.WeakKeyDictionary[Study, StudyLog] = weakref.WeakKeyDictionary()
        self._lock = threading.RLock()

    def __getstate__(self) -> dict[str, Any]:
        state = self.__dict__.copy()
        del state["_logs"], state["_lock"]
        return state

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._logs = weakref.WeakKeyDictionary()
        self._lock = threading.RLock()

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

    def remaining(self, study: Study) -> int:
        """Valid configs that are neither tried nor running nor queued."""
        with self._lock:
            return self.log(study).remaining

    def rng(self, trial: FrozenTrial, *stream: int) -> np.random.Generator:
        """A generator that depends on the seed and the trial's number alone (and on the stream asked for)."""
        return np.random.default_rng([self.seed, trial.number, *stream])

    def infer_relative_search_space(self, study: Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        """Return the distributions of the grid."""
        self._raise_error_if_multi_objective(study)
        return dict(self._space)

    def sample_relative(
        self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        """Propose a config that was not proposed before.

        Raises:
            GridExhaustedError: when there is none left.
        """
        self._raise_error_if_multi_objective(study)
        names = [name for name in self.grid.names if name in search_space]
        fixed: Params = trial.system_attrs.get("fixed_params", {})
        if not names or all(name in fixed for name in self.grid.names):
            return {}
        with self._lock:
            log = self.log(study, trial)
            free = self.grid.valid & ~log.taken
            if fixed:
                free = self._prefer(free, self.grid.matching(fixed))
            if not free.any():
                raise GridExhaustedError(f"all {int(self.grid.valid.sum())} valid configs of the grid have been tried")
            index = self.choose(study, trial, log, free)
            study._storage.set_trial_system_attr(trial._trial_id, PROPOSAL_ATTR, index)
        config = self.grid[index]
        return {name: config[name] for name in names}

    @staticmethod
    def _prefer(free: NDArray[np.bool_], wanted: NDArray[np.bool_]) -> NDArray[np.bool_]:
        """Free configs that agree with the fixed parameters, or all free ones where none does."""
        both = free & wanted
        return both if both.any() else free

    def sample_independent(
        self, study: Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        """Draw a parameter that is not of the grid from its distribution, uniformly."""
        self._raise_error_if_multi_objective(study)
        name = int.from_bytes(param_name.encode()[:8], "little")
        seed = int(self.rng(trial, name).integers(2**31))
        return RandomSampler(seed=seed).sample_independent(study, trial, param_name, param_distribution)

    def after_trial(self, study: Study, trial: FrozenTrial, state: TrialState, values: Sequence[float] | None) -> None:
        """Stop ``study.optimize`` when this trial was the last of the grid."""
        index = self.grid.index(trial.params)
        with self._lock:
            log = self.log(study, trial)
            left = log.remaining
            if index is not None and self.grid.valid[index] and not log.taken[index]:
                left -= state != TrialState.FAIL
        if left <= 0 and not log.pending and in_optimize_loop(study):
            study.stop()


def in_optimize_loop(study: Study) -> bool:
    """Whether ``study.stop()`` means anything here: it raises outside of ``study.optimize``."""
    return bool(getattr(study._thread_local, "in_optimize_loop", False))
