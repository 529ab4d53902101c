"""The project's sampler: Bayesian optimisation over a finite, ordered grid."""

import weakref
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from optuna.study import Study, StudyDirection
from optuna.trial import FrozenTrial

from bo_tune.processes.importing import LateModule
from bo_tune.search.base import GridSampler
from bo_tune.search.elites import Elites
from bo_tune.search.gp.correlation import Array, Indices
from bo_tune.search.gp.model import MOST_KEPT, Features, GridModel
from bo_tune.search.gp.prior import HistoryPrior
from bo_tune.search.grid import Grid, Params, Value
from bo_tune.search.study_log import Observation, StudyLog

_special = LateModule("scipy.special")
_distance = LateModule("scipy.spatial.distance")

Cost = Callable[[Indices], Array]

Models = weakref.WeakKeyDictionary[Study, GridModel]


class _Known(NamedTuple):
    """What a choice goes by.

    Attributes:
        model: fits the observations.
        pending: grid indices of trials under way.
    """

    model: GridModel
    observations: Sequence[Observation]
    pending: Sequence[int]

    @property
    def timed(self) -> int:
        """Observations that have a value."""
        return sum(one.value is not None for one in self.observations)


STARTERS = 16
"""Random configs of which a start-up trial takes the one farthest from what is known."""

LOG_CHEAP = float(np.log(2.0))
"""Configs count as cheap up to twice the lowest price."""

_LOG_SQRT_2PI = 0.5 * np.log(2.0 * np.pi)


def log_expected_improvement(mean: Array, deviation: Array, target: float | Array) -> Array:
    """log E[max(t - y, 0)] for y ~ N(μ, σ²) and a value t to improve on, stable where the improvement is hopeless.

    Jones, Schonlau & Welch 1998, eq. 15, in logarithms as Ament et al. ("Unexpected improvements to expected
    improvement", NeurIPS 2023) advise; below u = (t - μ) / σ = -5 by the expansion φ(u) / u² · (1 - 3 / u²).
    """
    u = np.asarray((target - mean) / deviation)
    is_near = u > -5.0
    is_far = ~is_near
    near, far2 = u[is_near], u[is_far] ** 2
    found = np.empty_like(u)
    found[is_near] = near * _special.ndtr(near) + np.exp(-0.5 * near * near - _LOG_SQRT_2PI)
    found[is_far] = (far2 - 3.0) / (far2 * far2)
    found *= deviation
    np.log(found, out=found)
    found[is_far] -= 0.5 * far2 + _LOG_SQRT_2PI
    return found


class FiniteGridSampler(GridSampler):
    """Proposes the config of a grid with the best expected improvement per cost.

    A Gaussian process on log time (or on the objective, where it is not positive or is maximised) over the grid's
    dimensions and the caller's features is conditioned on the study's trials: complete ones by their value; pruned ones
    by the last value they reported; pruned ones without a value are invalid and teach where configs do not run. Failed
    trials teach nothing. A trial's user attribute ``runtimes_us``, its raw repetitions, tells how far to trust it.

    Args:
        grid: parameter name to values, in order.
        valid: predicate of configs; those it refuses are never proposed.
        features: ``configs -> [n, F]``, further columns for the surrogate; needed with a prior.
        is_generic: whether the features would describe any kernel. Certificates are then more cautious.
        prior: what other studies taught; its histories' features must be by the same function.
        first: configs to propose before any other, in order; those off the grid are skipped.
        cost: ``grid indices -> [n]``, relative cost of trying each (1 = must be compiled); asked at every proposal,
            which then depends on the answer besides the seed and the study's content.
        log: whether the objective is modelled in logarithms; None decides by the sign of the values.
        startup: trials to have a value before the model decides, the first ones included. Without a prior.
        seed: of all random choices.
    """

    def __init__(
        self,
        grid: Mapping[str, Sequence[Value]] | Grid,
        *,
        valid: Callable[[dict[str, Value]], bool] | None = None,
        features: Features | None = None,
        is_generic: bool = False,
        prior: HistoryPrior | None = None,
        first: Sequence[Params] = (),
        cost: Cost | None = None,
        log: bool | None = None,
        startup: int = 3,
        seed: int = 0,
    ) -> None:
        super().__init__(grid, valid=valid, seed=seed)
        if prior is not None and features is None:
            raise ValueError("a prior needs the features that it was learnt from")
        self._elites = Elites.of(prior, self.grid) if prior is not None and not prior.carries_over else None
        self._features, self._is_generic, self._cost, self._log = features, is_generic, cost, log
        self._prior = prior if self._elites is None else None
        self._startup = startup if self._prior is None else 1
        self._first = [index for index in map(self.grid.index, first) if index is not None]

    def _forget(self) -> None:
        super()._forget()
        self._models: Models = weakref.WeakKeyDictionary()
        self._without_elites: Models = weakref.WeakKeyDictionary()

    def __getstate__(self) -> dict[str, Any]:
        state = super().__getstate__()
        del state["_models"], state["_without_elites"]
        return state

    @property
    def taught(self) -> bool:
        """Whether there are other studies of the same place to learn from."""
        return self._prior is not None and self._prior.knows_place

    def model(self, study: Study) -> GridModel:
        """Return the surrogate of all that a study holds."""
        return self._model(self._models, study)

    def _model(self, models: Models, study: Study) -> GridModel:
        model = models.get(study)
        if model is None:
            minimise = study.direction != StudyDirection.MAXIMIZE
            model = GridModel(
                self.grid,
                features=self._features,
                is_generic=self._is_generic,
                prior=self._prior,
                minimise=minimise,
                log=self._log,
            )
            models[study] = model
        return model

    def rng(self, trial: FrozenTrial, *stream: int) -> np.random.Generator:
        """A generator as of the base class, which does not count the trials that elites took."""
        turns = 0 if self._elites is None else self._elites.turns
        return np.random.default_rng([self.seed, max(trial.number - turns, 0), *stream])

    def choose(self, study: Study, trial: FrozenTrial, log: StudyLog, free: NDArray[np.bool_]) -> int:
        """Return the first given config still free, a start-up config, or the one of most expected improvement."""
        for index in self._first:
            if free[index]:
                return index
        candidates, known = self._candidates(trial, free), _Known(self.model(study), log.observations, log.pending)
        if self._elites is not None:
            elites = self._elites.due(log, free)
            if len(elites):
                return self._most_promising(known, np.sort(elites)) if known.timed else int(elites[0])
            others = self._elites.others(log.observations)
            known = _Known(self._model(self._without_elites, study), others, log.pending)
        if self.is_starting(known.timed):
            return self._start(known, trial, candidates)
        return self._most_promising(known, candidates)

    def _most_promising(self, known: _Known, candidates: Indices) -> int:
        """Return the config of most expected improvement."""
        posterior, _ = known.model.posterior(known.observations, candidates, known.pending)
        mean, deviation = posterior.predict(candidates)
        score = log_expected_improvement(mean, deviation, float(posterior.targets[: known.timed].min()))
        score += known.model.log_valid(known.observations, candidates)
        score -= self.log_price(candidates)
        return int(candidates[np.argmax(score)])

    def log_price(self, candidates: Indices) -> Array:
        """Logarithm of what trying each of some configs costs."""
        if self._cost is None:
            return np.zeros(len(candidates))
        return np.asarray(np.log(np.maximum(self._cost(candidates), 1e-6)))

    def is_starting(self, known: int) -> bool:
        """Say whether the model has no say yet, with so many trials that have a value."""
        return known < self._startup

    def _candidates(self, trial: FrozenTrial, free: NDArray[np.bool_]) -> Indices:
        candidates = np.flatnonzero(free)
        if len(candidates) > MOST_KEPT:
            candidates = np.sort(self.rng(trial, 1).choice(candidates, MOST_KEPT, replace=False))
        return candidates

    def _start(self, known: _Known, trial: FrozenTrial, candidates: Indices) -> int:
        """The best config by the prior; without one, of a random few, the farthest from all that is known.

        Of the cheap configs, where there are enough: nothing is known yet that would be worth paying for. Of these, of
        those that are expected to be fast (``Points.expected``): what is learnt among slow ones says little of others.
        """
        price = self.log_price(candidates)
        candidates = _if_enough(candidates, price <= price.min() + LOG_CHEAP)
        points = known.model.points(known.observations)
        if points.shared is not None:
            return int(candidates[np.argmin(points.shared.mean[candidates])])
        expected = points.expected[candidates]
        candidates = _if_enough(candidates, expected <= expected.min())
        few = self.rng(trial, 2).choice(candidates, min(len(candidates), STARTERS), replace=False)
        there = [*map(points.index, known.observations), *known.pending]
        if not there:
            return int(few[0])
        apart = _distance.cdist(points.inputs[few], points.inputs[there])
        return int(few[np.argmax(apart.min(axis=1))])


def _if_enough(candidates: Indices, wanted: NDArray[np.bool_]) -> Indices:
    """Return the wanted candidates, or all of them where fewer than ``STARTERS`` are."""
    return candidates[wanted] if np.count_nonzero(wanted) >= STARTERS else candidates
