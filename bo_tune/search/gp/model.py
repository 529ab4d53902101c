"""The surrogate of one study: observations in, predictions over the grid out.

Everything here follows from the study's content, so that a resumed study sees the same predictions: hyperparameters
are fitted to the first c observations, for c on a fixed ladder, and kept until the next rung.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from bo_tune.processes.importing import LateModule
from bo_tune.search.gp.correlation import Array, Indices
from bo_tune.search.gp.fitting import ROUGH, ROUGH_UNDESCRIBED, Hyperpriors
from bo_tune.search.gp.posterior import Posterior, Tables
from bo_tune.search.gp.prior import HistoryPrior, squeeze
from bo_tune.search.gp.shared import SharedPart
from bo_tune.search.gp.surrogate import Data, Surrogate, rung
from bo_tune.search.grid import Grid, Params
from bo_tune.search.study_log import Observation

_special = LateModule("scipy.special")

Features = Callable[[Sequence[Params]], Array]

STOPPED_SPREAD = 0.05
"""Standard deviation of log time of a trial that was stopped early as slow."""

FEWEST_TO_DOUBT = 4
"""Observations before the prior from other studies is doubted."""

ODDITY = 0.1
"""Log time that is expected for each binary logarithm of what is left of sizes divided by 2 as often as that goes."""

MOST_KEPT = 20_000
"""Of a grid with more configs, predictions are made for the candidates of the moment only."""

TRUST = 2.0
"""Log odds for the prior from other studies, before any observation."""


SHARPNESS = 0.1
"""Standard deviation of the label at which a prediction is taken for certain."""

FEW_INVALID = 0.25
"""Standard deviation of a label before any is seen: most configs are valid."""


@dataclass(frozen=True, slots=True)
class Scale:
    """How objective values become the surrogate's targets, of which smaller is better."""

    sign: float
    log: bool
    shift: float
    unit: float

    @classmethod
    def of(cls, values: Array, *, minimise: bool, log: bool) -> "Scale":
        """Choose shift and unit from observed values: the incumbent at 0; times in natural logarithms."""
        sign = 1.0 if minimise else -1.0
        raw = sign * (np.log(values) if log else values)
        unit = 1.0 if log or not len(raw) else (2.0 * float(raw.std()) or 1.0)
        return cls(sign, log, float(raw.min()) if len(raw) else 0.0, unit)

    def targets(self, values: Array) -> Array:
        """Turn values into targets; far above the incumbent they are squeezed."""
        return squeeze((self.sign * (np.log(values) if self.log else values) - self.shift) / self.unit)


class Points:
    """The configs a surrogate speaks of, as inputs: those of the grid, then the few that were tried off it.

    Args:
        grid: the grid.
        strange: configs off the grid.
        features: ``configs -> [n, F]``, or None.
        prior: from other studies, or None.
        is_generic: whether the features would describe any kernel.

    Attributes:
        inputs: ``[P, D]``, standardised.
        expected: log time that is expected of each before anything is known, ``[P]``.
        shared: what the prior teaches, or None.
    """

    def __init__(
        self,
        grid: Grid,
        strange: Sequence[Params],
        features: Features | None,
        prior: HistoryPrior | None,
        *,
        is_generic: bool = False,
    ) -> None:
        configs = [*grid.configs, *strange]
        described = np.zeros((len(configs), 0)) if features is None else np.asarray(features(configs), dtype=float)
        raw = _columns(grid, configs, described)
        scaled = raw[: len(grid)][grid.valid] if grid.valid.any() else raw[: len(grid)]
        past = None if prior is None else _columns(grid, prior.configs, prior.features)
        if past is not None:
            scaled = np.concatenate([scaled, past])
        centre, spread, keep = _scaling(scaled)
        self.inputs = np.asarray((raw[:, keep] - centre) / spread)
        self.position = {_key(grid, config): len(grid) + i for i, config in enumerate(strange)}
        self.shared: SharedPart | None = None
        if prior is not None and past is not None:
            self.shared = prior.learn(np.asarray((past[:, keep] - centre) / spread), self.inputs)
        self._grid = grid
        has_features = described.shape[1] > 0
        vague = Hyperpriors.vague(len(keep), ROUGH if has_features else ROUGH_UNDESCRIBED)
        is_described = has_features and not is_generic
        self.expected = ODDITY * grid.oddity(configs)
        self._untaught = Surrogate(self.inputs, vague, trend=self.expected, described=is_described)
        self.surrogate = (
            self._untaught if self.shared is None else Surrogate(self.inputs, self.shared.priors(), self.shared)
        )

    def fit(self, data: Data) -> Surrogate:
        """Fit the surrogate; the prior is left aside where the data are likelier without it."""
        fitted = self.surrogate.fit(data)
        if self.shared is None or len(data.points) < FEWEST_TO_DOUBT:
            return fitted
        untaught = self._untaught.fit(data)
        return untaught if untaught.evidence > fitted.evidence + TRUST else fitted

    def index(self, observation: Observation) -> int:
        """The point of an observation."""
        if observation.index is not None:
            return observation.index
        return self.position[_key(self._grid, observation.params)]


def _key(grid: Grid, config: Params) -> tuple[object, ...]:
    return tuple(config[name] for name in grid.names)


def _columns(grid: Grid, configs: Sequence[Params], features: Array) -> Array:
    """The grid's encoding and the caller's features, side by side."""
    return np.concatenate([grid.encode(configs), features], axis=1)


def _scaling(rows: Array) -> tuple[Array, Array, Indices]:
    """Centre, spread and positions of the columns worth keeping: not constant, nor copies of an earlier one."""
    centre, spread = rows.mean(axis=0), rows.std(axis=0)
    alive = np.flatnonzero(spread > 1e-9 * (1.0 + np.abs(centre)))
    unit = (rows[:, alive] - centre[alive]) / spread[alive]
    alike = np.abs(unit.T @ unit) / max(len(rows), 1) > 1.0 - 1e-9
    keep = alive[[j for j in range(len(alive)) if not alike[j, :j].any()]]
    return centre[keep], spread[keep], keep


class Validity:
    """Where configs do not run at all: a probability learnt from invalid trials.

    Invalid is a label, never a bad value. The labels (0 valid, 1 invalid) are regressed by the same Gaussian process as
    the times, and the prediction is squashed: least-squares classification (Rasmussen & Williams 2006, section 6.5).
    With mean μ and standard deviation σ of the label, P(valid) = Φ((1/2 - μ) / √(σ² + 1/10²)).

    Args:
        inputs: of all points, ``[P, D]``.
    """

    def __init__(self, inputs: Array) -> None:
        priors = replace(Hyperpriors.vague(inputs.shape[1]), amplitude=FEW_INVALID, offset=FEW_INVALID)
        self._vague = Surrogate(inputs, priors)
        self._fitted: tuple[bytes, Surrogate] | None = None
        self._tables = Tables()

    def log_probability(self, points: Indices, invalid: NDArray[np.bool_], asked: Indices) -> Array:
        """Log of the probability that each point asked about is valid, ``[len(asked)]``.

        Args:
            points: of the trials, ``[n]``; all of them asked about.
            invalid: their labels, ``[n]``.
            asked: ascending.
        """
        count = rung(len(points))
        key = points[:count].tobytes() + invalid[:count].tobytes()
        labels, silent = invalid.astype(float), np.zeros(len(points))
        if self._fitted is None or self._fitted[0] != key:
            self._fitted = key, self._vague.fit(Data(points[:count], labels[:count], silent[:count]))
        posterior = self._tables.table(self._fitted[1], asked, points, silent, count).given(labels)
        margin = (0.5 - posterior.mean) / np.hypot(posterior.deviation, SHARPNESS)
        return np.asarray(_special.log_ndtr(margin), dtype=float)


class GridModel:
    """A surrogate of a study on a grid.

    Args:
        grid: the grid.
        features: of configs, or None.
        is_generic: whether the features would describe any kernel.
        prior: from other studies, or None.
        minimise: direction of the study.
        log: whether values are modelled in logarithms; None decides by their sign.
    """

    def __init__(
        self,
        grid: Grid,
        *,
        features: Features | None = None,
        is_generic: bool = False,
        prior: HistoryPrior | None = None,
        minimise: bool = True,
        log: bool | None = None,
    ) -> None:
        self.grid = grid
        self._features, self._is_generic, self._prior = features, is_generic, prior
        self._minimise, self._log = minimise, log
        self._points: Points | None = None
        self._valid = np.flatnonzero(grid.valid)
        self._forget()

    def _forget(self) -> None:
        self._fitted: tuple[bytes, Surrogate] | None = None
        self._tables = Tables()
        self._said: tuple[list[Observation], Posterior, Scale] | None = None
        self._validity: Validity | None = None

    def points(self, observations: Sequence[Observation]) -> Points:
        """The points of the grid and of the observations."""
        strange = {_key(self.grid, o.params): o.params for o in observations if o.index is None}
        if self._points is None or not strange.keys() <= self._points.position.keys():
            self._points = Points(
                self.grid, list(strange.values()), self._features, self._prior, is_generic=self._is_generic
            )
            self._forget()
        return self._points

    def scale(self, values: Array) -> Scale:
        """How these observed values become targets."""
        log = bool((values > 0).all()) if self._log is None else self._log
        return Scale.of(values, minimise=self._minimise, log=log and self._minimise)

    def posterior(
        self, observations: Sequence[Observation], candidates: Indices, pending: Sequence[int] = ()
    ) -> tuple[Posterior, Scale]:
        """Condition on observations; running trials are taken to come out as predicted."""
        known = [o for o in observations if o.value is not None]
        points = self.points(observations)
        # What is proposed after a certificate follows from the same posterior.
        repeated = not pending and len(self._valid) <= MOST_KEPT
        if repeated and self._said is not None and self._said[0] == known:
            return self._said[1:]
        values = np.array([o.value for o in known], dtype=float)
        scale = self.scale(values)
        noise = np.array([o.noise if scale.log else 0.0 for o in known], dtype=float)
        noise += np.array([STOPPED_SPREAD**2 if o.stopped else 0.0 for o in known], dtype=float)
        where = np.array([points.index(o) for o in known], dtype=np.intp)
        running = np.array(pending, dtype=np.intp)
        asked = self._asked(candidates, where, running)
        head = rung(len(where))
        process = self._process(where[:head], values[:head], noise[:head])
        posterior = self._tables.table(process, asked, where, noise, head).given(scale.targets(values))
        if len(running):
            return posterior.believing(running), scale
        self._said = known, posterior, scale
        return posterior, scale

    def _asked(self, candidates: Indices, *more: Indices) -> Indices:
        """The points whose predictions are kept: all that may be tried or was; of a huge grid those wanted now."""
        assert self._points is not None
        kept = np.zeros(len(self._points.inputs), dtype=bool)
        for points in (self._valid if len(self._valid) <= MOST_KEPT else candidates, *more):
            kept[points] = True
        return np.flatnonzero(kept)

    def _process(self, where: Indices, values: Array, noise: Array) -> Surrogate:
        key = where.tobytes() + values.tobytes() + noise.tobytes()
        if self._fitted is None or self._fitted[0] != key:
            assert self._points is not None
            self._fitted = key, self._points.fit(Data(where, self.scale(values).targets(values), noise))
        return self._fitted[1]

    def log_valid(self, observations: Sequence[Observation], candidates: Indices) -> Array:
        """Log probability of each candidate to be valid, ``[len(candidates)]``; 0 while no trial was invalid."""
        invalid = np.array([o.value is None for o in observations], dtype=bool)
        if not invalid.any():
            return np.zeros(len(candidates))
        points = self.points(observations)
        where = np.array([points.index(o) for o in observations], dtype=np.intp)
        asked = self._asked(candidates, where)
        if self._validity is None:
            self._validity = Validity(points.inputs)
        known = self._validity.log_probability(where, invalid, asked)
        return np.asarray(known[np.searchsorted(asked, candidates)])
