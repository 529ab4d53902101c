"""What the project's sampler is measured against, under the same interface: no config twice, none invalid."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from math import inf

import numpy as np
from numpy.typing import NDArray
from optuna.samplers import BaseSampler
from optuna.study import Study, StudyDirection
from optuna.trial import FrozenTrial

from bo_tune.search.base import GridSampler
from bo_tune.search.grid import Grid, Params, Value
from bo_tune.search.study_log import StudyLog


class ExhaustiveSampler(GridSampler):
    """Every valid config in the grid's order."""

    def choose(self, study: Study, trial: FrozenTrial, log: StudyLog, free: NDArray[np.bool_]) -> int:
        """Return the first free config."""
        return int(np.argmax(free))


class RandomSampler(GridSampler):
    """Valid configs in random order."""

    def choose(self, study: Study, trial: FrozenTrial, log: StudyLog, free: NDArray[np.bool_]) -> int:
        """Return a random free config."""
        return int(self.rng(trial).choice(np.flatnonzero(free)))


class WrappedSampler(GridSampler):
    """A sampler of Optuna on the grid: its suggestion moved to the nearest grid point, repeats skipped.

    Args:
        make: builds the wrapped sampler from ``seed``.
        tries: suggestions asked of it before the config nearest to the last one is taken.
    """

    def __init__(
        self,
        grid: Mapping[str, Sequence[Value]] | Grid,
        make: Callable[..., BaseSampler],
        *,
        tries: int = 1,
        valid: Callable[[dict[str, Value]], bool] | None = None,
        seed: int = 0,
    ) -> None:
        super().__init__(grid, valid=valid, seed=seed)
        self._make = make
        self._tries = tries

    def choose(self, study: Study, trial: FrozenTrial, log: StudyLog, free: NDArray[np.bool_]) -> int:
        """Return the first new suggestion, or the free config nearest to the last one."""
        inner = self._make(seed=int(self.rng(trial).integers(2**31)))
        space = {name: d for name, d in self._space.items() if not d.single()}
        index = 0
        for _ in range(self._tries):
            params = inner.sample_relative(study, trial, space) if log.observations else {}
            for name, distribution in space.items():
                if name not in params:
                    params[name] = inner.sample_independent(study, trial, name, distribution)
            index = self.grid.nearest(params)
            if free[index]:
                return index
        return nearest_free(self.grid, index, free)


def nearest_free(grid: Grid, index: int, free: NDArray[np.bool_]) -> int:
    """The free config that is the fewest steps along the dimensions away."""
    digits = np.stack(np.unravel_index(np.flatnonzero(free), grid.shape))
    here = np.array(np.unravel_index(index, grid.shape))[:, None]
    return int(np.flatnonzero(free)[np.argmin(np.abs(digits - here).sum(axis=0))])


class CoordinateSampler(GridSampler):
    """Coordinate descent: the best value of one dimension after another, until none helps.

    The descent is replayed from the study at each proposal, so it needs no state. When it has converged it starts
    again from a random config, or, without restarts, goes on with the configs nearest to the best one.

    Args:
        start: first config; moved to the nearest grid point if it lies off the grid. The grid's first without one.
        restarts: whether to start again.
    """

    def __init__(
        self,
        grid: Mapping[str, Sequence[Value]] | Grid,
        *,
        start: Params | None = None,
        restarts: bool = False,
        valid: Callable[[dict[str, Value]], bool] | None = None,
        seed: int = 0,
    ) -> None:
        super().__init__(grid, valid=valid, seed=seed)
        self._start = 0 if start is None else self.grid.nearest(start)
        self._restarts = restarts

    def choose(self, study: Study, trial: FrozenTrial, log: StudyLog, free: NDArray[np.bool_]) -> int:
        """Return the first config of the replayed descent that is free."""
        sign = -1.0 if study.direction == StudyDirection.MAXIMIZE else 1.0
        costs = {o.index: inf if o.value is None else sign * o.value for o in log.observations if o.index is not None}
        rng = np.random.default_rng([self.seed, 3])
        start, descents = self._start, 0
        while True:
            for index in self._descend(start, costs, rng):
                if free[index]:
                    return index
            descents += 1
            if not self._restarts or descents > len(self.grid):
                break
            start = int(rng.integers(len(self.grid)))
        best = min(costs, key=lambda index: costs[index], default=self._start)
        return nearest_free(self.grid, best, free)

    def _descend(self, start: int, costs: Mapping[int, float], rng: np.random.Generator) -> Iterator[int]:
        """Yield the configs that a descent from start looks at, in order, given what is known by now."""
        here = start
        yield here
        order = rng.permutation(len(self.grid.shape))
        improved = True
        while improved:
            improved = False
            for axis in order:
                line = self._line(here, int(axis))
                yield from line
                best = min([here, *line], key=lambda index: costs.get(index, inf))
                if costs.get(best, inf) < costs.get(here, inf):
                    here, improved = best, True

    def _line(self, index: int, axis: int) -> list[int]:
        """The valid configs that differ in one dimension only, nearest values first."""
        digits = np.array(np.unravel_index(index, self.grid.shape))
        values = sorted(set(range(self.grid.shape[axis])) - {int(digits[axis])}, key=lambda v: abs(v - digits[axis]))
        line = []
        for value in values:
            digits[axis] = value
            there = int(np.ravel_multi_index(tuple(digits), self.grid.shape))
            if self.grid.valid[there]:
                line.append(there)
        return line
