"""The surrogate of one study: observations in, predictions over the grid out.

Everything here follows from the study's content, so that a resumed study sees the same predictions: hyperparameters
are fitted to the first c observations, for c on a fixed ladder, and kept until the next rung.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from bo_tune.search.grid import Grid, Params
from bo_tune.search.prior import Prior
from bo_tune.search.study_log import Observation
from bo_tune.search.surrogate import Data, GaussianProcess, Posterior, Priors

Array = NDArray[np.float64]
Features = Callable[[Sequence[Params]], Array]

WITHOUT_PRIOR = Priors()
WITH_PRIOR = Priors(amplitude=0.25, offset=0.3)

STOPPED_SPREAD = 0.05
"""Standard deviation of log time of a trial that was stopped early as slow."""


def rung(count: int) -> int:
    """The largest rung of the ladder 1, 2, … 8, 9, 10, 12, 14, … (steps of an eighth) that is at most count."""
    step = 1
    while step * 16 <= count:
        step *= 2
    return count - count % step


class Inputs:
    """Configs as the surrogate's inputs: the grid's encoding and the caller's features, standardised.

    Args:
        grid: the grid.
        features: ``configs -> [n, F]``, or None.
    """

    def __init__(self, grid: Grid, features: Features | None) -> None:
        self._grid = grid
        self._features = features

    @cached_property
    def features(self) -> Array:
        """The caller's features of all configs, ``[C, F]``."""
        return self.features_of(self._grid.configs)

    def features_of(self, configs: Sequence[Params]) -> Array:
        """The caller's features, ``[n, F]``; no columns without a function."""
        if self._features is None or not configs:
            width = 0 if self._features is None else self.features.shape[1]
            return np.zeros((len(configs), width))
        return np.asarray(self._features(configs), dtype=float)

    @cached_property
    def _raw(self) -> Array:
        return np.concatenate([self._grid.encode(self._grid.configs), self.features], axis=1)

    @cached_property
    def _scaling(self) -> tuple[Array, Array, NDArray[np.intp]]:
        """Centre, spread and the columns worth keeping: not constant, and not copies of an earlier one."""
        rows = self._raw[self._grid.valid] if self._grid.valid.any() else self._raw
        centre, spread = rows.mean(axis=0), rows.std(axis=0)
        alive = np.flatnonzero(spread > 1e-9 * (1.0 + np.abs(centre)))
        unit = (rows[:, alive] - centre[alive]) / spread[alive]
        alike = np.abs(unit.T @ unit) / max(len(rows), 1) > 1.0 - 1e-9
        first = [j for j in range(len(alive)) if not alike[j, :j].any()]
        return centre, spread, alive[first]

    @cached_property
    def all(self) -> Array:
        """Inputs of all configs, ``[C, D]``."""
        return self._standardise(self._raw)

    def of(self, configs: Sequence[Params]) -> Array:
        """Inputs of any configs, on the grid or not, ``[n, D]``."""
        return self._standardise(np.concatenate([self._grid.encode(configs), self.features_of(configs)], axis=1))

    def _standardise(self, raw: Array) -> Array:
        centre, spread, keep = self._scaling
        return np.asarray((raw[:, keep] - centre[keep]) / spread[keep], dtype=float)


def noise_variance(runtimes: Sequence[float]) -> float:
    """Variance of log time that the repetitions of a trial show.

    Late launches inflate repetitions and nothing deflates one, so the spread is taken from the repetitions near the
    lower quartile; where few of them agree, the estimate itself is doubtful and the gap to the median counts.
    """
    times = np.log(np.asarray(runtimes, dtype=float))
    if len(times) < 2:
        return 0.0
    quartile, median = np.quantile(times, [0.25, 0.5])
    near = times[times <= quartile + np.log(1.25)]
    spread = float(near.var(ddof=1)) if len(near) > 1 else float(quartile - times.min() + 0.1) ** 2
    return 0.5 * np.pi * spread / len(near) + float(0.5 * (median - quartile)) ** 2


@dataclass(frozen=True)
class Scale:
    """How objective values become the surrogate's targets: sign, logarithm, shift and unit."""

    sign: float
    log: bool
    shift: float
    unit: float

    @classmethod
    def of(cls, values: Array, *, minimise: bool, log: bool) -> "Scale":
        """Choose shift and unit from observed values: the incumbent at 0; times in natural logarithms."""
        sign = 1.0 if minimise else -1.0
        raw = sign * (np.log(values) if log else values)
        spread = float(np.quantile(raw, 0.75) - raw.min()) if len(raw) else 0.0
        return cls(sign, log, float(raw.min()) if len(raw) else 0.0, 1.0 if log else (spread or 1.0))

    def targets(self, values: Array) -> Array:
        """Targets, smaller is better."""
        return (self.sign * (np.log(values) if self.log else values) - self.shift) / self.unit


class GridModel:
    """A surrogate of a study on a grid.

    Args:
        grid: the grid.
        features: of configs, or None.
        prior: guess at log(time / best), or None.
        minimise: direction of the study.
        log: whether values are modelled in logarithms; None decides by their sign.
    """

    def __init__(
        self,
        grid: Grid,
        *,
        features: Features | None,
        prior: Prior | None,
        minimise: bool = True,
        log: bool | None = None,
    ) -> None:
        self.grid = grid
        self.inputs = Inputs(grid, features)
        self._prior = prior
        self._minimise, self._log = minimise, log
        self._fitted: tuple[bytes, GaussianProcess] | None = None

    @cached_property
    def mean(self) -> Array:
        """The prior's prediction of every config, ``[C]``, 0 for the best one; zeros without a prior."""
        if self._prior is None:
            return np.zeros(len(self.grid))
        mean = np.asarray(self._prior.predict(self.inputs.features), dtype=float)
        return mean - self._lowest(mean)

    def _lowest(self, mean: Array) -> float:
        return float(mean[self.grid.valid].min()) if self.grid.valid.any() else 0.0

    def mean_of(self, configs: Sequence[Params]) -> Array:
        """The prior's prediction of any configs, ``[n]``."""
        if self._prior is None or not configs:
            return np.zeros(len(configs))
        best = self._lowest(np.asarray(self._prior.predict(self.inputs.features), dtype=float))
        return np.asarray(self._prior.predict(self.inputs.features_of(configs)), dtype=float) - best

    def data(self, observations: Sequence[Observation]) -> tuple[Data, Scale]:
        """Turn valid observations into data."""
        known = [o for o in observations if o.value is not None]
        values = np.array([o.value for o in known], dtype=float)
        log = bool((values > 0).all()) if self._log is None else self._log
        scale = Scale.of(values, minimise=self._minimise, log=log and self._minimise)
        noise = np.array([noise_variance(o.runtimes) for o in known]) if scale.log else np.zeros(len(known))
        noise += np.array([STOPPED_SPREAD**2 if o.stopped else 0.0 for o in known])
        return Data(self._inputs(known), scale.targets(values), noise, self._means(known)), scale

    def _inputs(self, known: Sequence[Observation]) -> Array:
        rows = np.empty((len(known), self.inputs.all.shape[1]))
        for row, observation in enumerate(known):
            on_grid = observation.index is not None
            rows[row] = self.inputs.all[observation.index] if on_grid else self.inputs.of([observation.params])[0]
        return rows

    def _means(self, known: Sequence[Observation]) -> Array:
        return np.array(
            [self.mean[o.index] if o.index is not None else self.mean_of([o.params])[0] for o in known], dtype=float
        )

    def posterior(self, observations: Sequence[Observation], pending: Sequence[int] = ()) -> tuple[Posterior, Scale]:
        """Condition on observations; running trials are taken to come out as predicted (a kriging believer)."""
        data, scale = self.data(observations)
        process = self._process(data)
        posterior = process.condition(data)
        if pending:
            inputs, mean = self.inputs.all[list(pending)], self.mean[list(pending)]
            believed, _ = posterior.predict(inputs, mean)
            posterior = process.condition(data.with_fantasies(inputs, believed, mean))
        return posterior, scale

    def _process(self, data: Data) -> GaussianProcess:
        head = data.head(rung(len(data.targets)))
        key = head.inputs.tobytes() + head.targets.tobytes() + head.noise.tobytes()
        if self._fitted is None or self._fitted[0] != key:
            process = GaussianProcess(head.inputs.shape[1], WITHOUT_PRIOR if self._prior is None else WITH_PRIOR)
            process.fit(head)
            self._fitted = key, process
        return self._fitted[1]

    def predict(self, posterior: Posterior, indices: NDArray[np.intp]) -> tuple[Array, Array]:
        """Mean and standard deviation of the targets of configs."""
        return posterior.predict(self.inputs.all[indices], self.mean[indices])
