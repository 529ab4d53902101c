"""What a study holds, as samplers need it: read once per trial, not once per proposal."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from optuna.study import Study
from optuna.trial import FrozenTrial, TrialState

from bo_tune.search.grid import Grid, Params

PROPOSAL_ATTR = "bo_tune:proposal"
"""System attribute of a trial: the grid index that was proposed for it, for trials that run in another thread."""

RUNTIMES_ATTR = "runtimes_us"
"""User attribute of a trial: its raw repetitions, optional."""

LATE = 0.22
"""log 1.25: a repetition that much above the lower quartile was launched late."""

DOUBT = 0.1
"""Standard deviation of log time where no two repetitions agree."""

MAX_FAILURES = 2
"""A config whose trial failed this often is not proposed again; before that a failure counts as no trial."""


@dataclass(frozen=True, slots=True)
class Observation:
    """One finished trial.

    Attributes:
        number: the trial's number.
        index: position on the grid; None off the grid.
        params: the config.
        value: the objective, or the last intermediate value of a stopped trial; None for an invalid config.
        stopped: whether the trial was pruned after it had reported a value.
        noise: variance of the logarithm of value that the trial's repetitions show; 0 without any.
    """

    number: int
    index: int | None
    params: Params
    value: float | None
    stopped: bool = False
    noise: float = 0.0


def noise_variance(runtimes: Sequence[float]) -> float:
    """Variance of log time that the repetitions of a trial show.

    Late launches inflate repetitions and nothing deflates one, so the spread is taken from the repetitions within
    1.25 × the lower quartile; where few of them agree, the estimate is doubtful and the gap to the median counts.
    """
    positive = np.asarray([runtime for runtime in runtimes if runtime > 0], dtype=float)
    times = np.sort(np.log(positive))
    if len(times) < 2:
        return 0.0
    quartile, median = float(times[(len(times) - 1) // 4]), float(times[len(times) // 2])
    near = times[times <= quartile + LATE]
    spread = float(np.sum((near - near.mean()) ** 2)) / (len(near) - 1) if len(near) > 1 else DOUBT**2
    return 0.5 * np.pi * spread / len(near) + (0.5 * (median - quartile)) ** 2


@dataclass
class StudyLog:
    """The part of a study that concerns a grid, updated from the trials that finished since the last call.

    Attributes:
        grid: the grid.
        finished: ``[C]``, configs that were tried.
        taken: ``[C]``, configs that were tried, are running or are waiting in the queue.
        observations: finished trials in the order of their numbers.
        pending: grid indices of running and queued trials, in the order of their numbers.
    """

    grid: Grid
    finished: NDArray[np.bool_] = field(init=False)
    taken: NDArray[np.bool_] = field(init=False)
    observations: list[Observation] = field(default_factory=list)
    pending: list[int] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.finished = np.zeros(len(self.grid), dtype=bool)
        self.taken = self.finished.copy()
        self._free_left = int(self.grid.valid.sum())
        self._failures: dict[int, int] = {}
        self._open: list[int] = []
        self._seen = 0

    @property
    def remaining(self) -> int:
        """Valid configs that are neither tried nor running nor queued."""
        pending = {index for index in self.pending if self.grid.valid[index] and not self.finished[index]}
        return self._free_left - len(pending)

    def update(self, study: Study, current: FrozenTrial | None = None) -> None:
        """Read what is new. The trial being proposed for is not counted as running."""
        trials = study.get_trials(deepcopy=False)
        late = [trials[number] for number in self._open]
        fresh = trials[self._seen :]
        self._seen = len(trials)
        self._open, self.pending = [], []
        count = len(self.observations)
        for trial in [*late, *fresh]:
            if trial.state.is_finished():
                self._add(trial)
            else:
                self._open.append(trial.number)
                if current is None or trial.number != current.number:
                    self._reserve(trial)
        if late and len(self.observations) > count:
            self.observations.sort(key=lambda observation: observation.number)
        self._mark_taken()

    def adopt(self, observations: Sequence[Observation], pending: Sequence[int]) -> None:
        """Take in what the log of the same study in another process has come to hold.

        Args:
            observations: those that are new.
            pending: grid indices of all running trials.
        """
        self.observations.extend(observations)
        self.observations.sort(key=lambda observation: observation.number)
        for observation in observations:
            if observation.index is not None:
                self._finish(observation.index)
        self.pending = list(pending)
        self._mark_taken()

    def _mark_taken(self) -> None:
        self.taken = self.finished
        if self.pending:
            self.taken = self.finished.copy()
            self.taken[self.pending] = True

    def _reserve(self, trial: FrozenTrial) -> None:
        index = self.grid.index(_known_params(trial, self.grid))
        if index is not None:
            self.pending.append(index)

    def _add(self, trial: FrozenTrial) -> None:
        if any(name not in trial.params for name in self.grid.names):
            return
        if trial.state == TrialState.FAIL:
            self.fail(self.grid.index(trial.params))
            return
        observation = observed(self.grid, trial.number, trial)
        self.observations.append(observation)
        if observation.index is not None:
            self._finish(observation.index)

    def fail(self, index: int | None) -> None:
        """Take note that a trial of a config came to nothing."""
        if index is not None:
            self._failures[index] = self._failures.get(index, 0) + 1
            if self._failures[index] >= MAX_FAILURES:
                self._finish(index)

    def _finish(self, index: int) -> None:
        if not self.finished[index]:
            self.finished[index] = True
            self._free_left -= int(self.grid.valid[index])


def observed(grid: Grid, number: int, trial: FrozenTrial) -> Observation:
    """Return what a finished trial with all the grid's parameters says, under a number that may not be its own."""
    config = {name: trial.params[name] for name in grid.names}
    stopped = trial.state == TrialState.PRUNED
    noise = noise_variance(trial.user_attrs.get(RUNTIMES_ATTR, ()))
    return Observation(number, grid.index(config), config, _value(trial), stopped, noise)


def _value(trial: FrozenTrial) -> float | None:
    """The number a finished trial teaches, or None for an invalid config."""
    if trial.state == TrialState.COMPLETE:
        value = trial.value
    else:
        value = trial.intermediate_values[max(trial.intermediate_values)] if trial.intermediate_values else None
    return value if value is not None and np.isfinite(value) else None


def _known_params(trial: FrozenTrial, grid: Grid) -> Params:
    """What is known of the config of an unfinished trial."""
    proposed = trial.system_attrs.get(PROPOSAL_ATTR)
    fixed: Mapping[str, object] = trial.system_attrs.get("fixed_params", {})
    known = {} if proposed is None else grid[proposed]
    return {**known, **fixed, **trial.params}
