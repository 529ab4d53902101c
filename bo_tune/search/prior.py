"""What other studies of a kernel teach about a new one.

Notation
    H           rows of the histories: trials of other problems, of the same kernel
    q           the problem of a row
    X, D        their inputs, in the columns of the new study's
    y           log(time / best time of the row's problem), squeezed above 0.6 (what is far off is hopeless alike)

Model (a multi-task Gaussian process with one shared and one own part; Bonilla, Chai & Williams, NIPS 2007)
    y = b_q + g(x) + f_q(x) + e
    g ~ GP(0, a_g² κ + c² x·z / D)           shared by all problems; the linear part carries trends beyond the data
    f_q ~ GP(0, a² κ)                        a problem's own, independent of the others'
    b_q ~ N(0, 1/4), e ~ N(0, s²)
    log a_g, log a, log s, log c, log l_d are set to the maximum of their posterior.

The new study takes g given y as its shared part, and a, s, l as the medians of its own hyperparameters: it starts with
how such problems vary, not only with where their optimum lies.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from scipy.linalg.lapack import dpotrf, dtrtrs
from scipy.optimize import minimize

from bo_tune.search.correlation import Differences, correlation
from bo_tune.search.grid import Params
from bo_tune.search.posterior import JITTER, Array, Indices
from bo_tune.search.surrogate import (
    FAILED,
    Hyperpriors,
    invert,
)

ROWS_PER_STUDY = 45
"""Trials of another study that are looked at: late ones are near its optimum and much alike."""

MOST_STUDIES = 8
"""Other studies that are looked at, the nearest ones; the fit takes the number of all rows cubed."""

DENSER = 1.5
"""How much denser fast trials are sampled than slow ones; 1 is evenly by rank."""

SQUEEZE = 0.6
"""log(time / best) above which differences count logarithmically."""

MEDIANS = (0.6, 0.5, 0.02, 0.2)
"""Of a_g, a, s and c."""

ROUGH_TAUGHT = 0.6
"""ρ (see ``correlation``) where others teach: with the trends known, what is left to learn is rougher."""

FEW = 4
"""Fewer than one in so many points are few."""

_OFFSET_VARIANCE = 0.25
_STEPS = 30
_SCALARS = 4


@dataclass(frozen=True)
class StudyHistory:
    """A study of the same kernel: another problem, or another GPU.

    Attributes:
        features: ``[n, F]``, of its configs on its problem and GPU, by the function that the new study uses.
        times: ``[n]``, in any unit (us); all above 0. Slow configs teach as much as fast ones.
        configs: its configs, ``n`` of them.
        descriptor: what tells problems apart, name to number, on a scale where a difference of 1 matters alike
            (log2 of m, k, n, …).
    """

    features: Array
    times: Array
    configs: Sequence[Params]
    descriptor: Mapping[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not len(self.features) == len(self.times) == len(self.configs):
            sizes = f"{len(self.features)}, {len(self.times)} and {len(self.configs)}"
            raise ValueError(f"features, times and configs of a history must be as many: {sizes}")
        if len(self.times) == 0 or not (np.asarray(self.times) > 0).all():
            raise ValueError("a study's history needs times, all above 0")

    def sample(self, count: int) -> "StudyHistory":
        """At most count of its trials, denser among the fast ones."""
        if len(self.times) <= count:
            return self
        ranks = np.unique(np.round((len(self.times) - 1) * np.linspace(0.0, 1.0, count) ** DENSER).astype(int))
        rows = np.sort(np.argsort(self.times, kind="stable")[ranks])
        configs = [self.configs[row] for row in rows]
        return StudyHistory(self.features[rows], self.times[rows], configs, self.descriptor)


def squeeze(targets: Array) -> Array:
    """Keep y up to ``SQUEEZE``; grow logarithmically above it."""
    over = np.maximum(targets - SQUEEZE, 0.0)
    return np.where(over > 0, SQUEEZE + SQUEEZE * np.log1p(over / SQUEEZE), targets)


def distance(descriptor: Mapping[str, float], other: Mapping[str, float]) -> float:
    """Squared distance of two problems; a name that one lacks counts as 0."""
    names = set(descriptor) | set(other)
    return sum((descriptor.get(name, 0.0) - other.get(name, 0.0)) ** 2 for name in names)


class HistoryPrior:
    """A prior from other studies, to be given to a sampler.

    Args:
        histories: at least one.
        descriptor: of the new problem, to tell the nearest histories where there are many.
    """

    def __init__(self, histories: Sequence[StudyHistory], *, descriptor: Mapping[str, float] | None = None) -> None:
        if not histories:
            raise ValueError("a prior needs at least one history")
        near = sorted(histories, key=lambda h: distance(h.descriptor, descriptor)) if descriptor else histories
        kept = near[:MOST_STUDIES]
        self.histories = [history.sample(ROWS_PER_STUDY) for history in kept]
        self.configs = [config for history in self.histories for config in history.configs]
        self.features = np.concatenate([history.features for history in self.histories])
        ratios = [np.log(np.asarray(history.times) / np.min(history.times)) for history in self.histories]
        self.targets = squeeze(np.concatenate(ratios))
        self.problems = np.concatenate([np.full(len(y), q) for q, y in enumerate(ratios)])

    def learn(self, inputs: Array, points: Array) -> "SharedPart":
        """Fit the model of the histories.

        Args:
            inputs: of the histories' trials, ``[H, D]``.
            points: inputs of the new study's points, ``[P, D]``, where the shared part will be asked for.
        """
        return SharedPart(inputs, self.targets, self.problems, points)


class SharedPart:
    """g given the histories, at the points of a new study. See the notation at the head of the module.

    Args:
        inputs: X ``[H, D]``.
        targets: y ``[H]``.
        problems: q ``[H]``.
        points: inputs of the new study's points, ``[P, D]``.
    """

    def __init__(self, inputs: Array, targets: Array, problems: NDArray[np.intp], points: Array) -> None:
        self._points = points
        self._columns = max(inputs.shape[1], 1)
        same = (problems[:, None] == problems).astype(float)
        products = inputs @ inputs.T / self._columns
        vague = Hyperpriors.vague(inputs.shape[1])
        self._centre = np.concatenate([np.log(MEDIANS), np.log(vague.lengths)])
        self._spread = np.concatenate([np.ones(_SCALARS), np.full(len(vague.lengths), vague.spread_lengths)])
        self.theta = self._fit(Differences(inputs, ROUGH_TAUGHT), same, products, targets)
        self._shared2, own2, noise2, self._linear2 = np.exp(2.0 * self.theta[:_SCALARS])
        self.own, self.noise = float(np.sqrt(own2)), float(np.sqrt(noise2))
        self.lengths = np.exp(self.theta[_SCALARS:])
        kernel = correlation(inputs, inputs, self.lengths, ROUGH_TAUGHT)
        covariance = (self._shared2 + own2 * same) * kernel + self._linear2 * products + _OFFSET_VARIANCE * same
        covariance[np.diag_indices_from(covariance)] += noise2 + JITTER
        lower, _ = dpotrf(covariance, lower=1)
        white, _ = dtrtrs(lower, targets, lower=1)
        self._solved, _ = dtrtrs(lower, self._covariance(inputs, points), lower=1)
        self.mean: Array = white @ self._solved
        norms = np.einsum("ij,ij->i", points, points) / self._columns
        known = np.einsum("ij,ij->j", self._solved, self._solved)
        self.variance: Array = np.maximum(self._shared2 + self._linear2 * norms - known, 0.0)
        self._rows: dict[int, Array] = {}

    def _covariance(self, X: Array, Z: Array) -> Array:
        """Covariance of g before the histories."""
        kernel = correlation(X, Z, self.lengths, ROUGH_TAUGHT)
        return np.asarray(self._shared2 * kernel + (self._linear2 / self._columns) * (X @ Z.T))

    def between(self, points: Indices, others: Indices) -> Array:
        """Covariance of g given the histories, ``[len(points), len(others)]``.

        Tried points are asked for again and again with all that is untried: their rows are computed once.
        """
        if len(others) * FEW < len(self._points):
            block = self._covariance(self._points[points], self._points[others])
            return np.asarray(block - self._solved[:, points].T @ self._solved[:, others])
        for point in map(int, points):
            if point not in self._rows:
                row = self._covariance(self._points[[point]], self._points)[0]
                self._rows[point] = row - self._solved[:, point] @ self._solved
        return np.stack([self._rows[int(point)][others] for point in points])

    def priors(self) -> Hyperpriors:
        """What a new study may expect of its own hyperparameters."""
        return Hyperpriors(
            self.lengths,
            amplitude=self.own,
            noise=self.noise,
            rough=ROUGH_TAUGHT,
            spread_lengths=0.3,
            spread_amplitude=0.7,
            spread_noise=0.5,
        )

    def _fit(self, apart: Differences, same: Array, products: Array, targets: Array) -> Array:
        found = minimize(
            self._objective,
            self._centre,
            args=(apart, same, products, targets),
            jac=True,
            method="L-BFGS-B",
            bounds=[(centre - 6.0, centre + 6.0) for centre in self._centre],
            options={"maxiter": _STEPS},
        )
        return np.asarray(found.x)

    def _objective(
        self, theta: Array, apart: Differences, same: Array, products: Array, targets: Array
    ) -> tuple[float, Array]:
        """Negative log posterior of log a_g, log a, log s, log c, log l, and its gradient."""
        n = len(targets)
        shared2, own2, noise2, linear2 = np.exp(2.0 * theta[:_SCALARS])
        lengths = np.exp(theta[_SCALARS:])
        correlated = apart.correlate(lengths)
        kernel = correlated.kernel
        amplitude2 = shared2 + own2 * same
        covariance = amplitude2 * kernel + linear2 * products + _OFFSET_VARIANCE * same
        covariance[np.diag_indices(n)] += noise2 + JITTER
        solved = invert(covariance)
        if solved is None:
            return FAILED, np.zeros_like(theta)
        inverse, log_root = solved
        alpha = inverse @ targets
        outer = inverse - np.outer(alpha, alpha)
        weighted = outer * kernel
        gradient = np.empty_like(theta)
        gradient[0] = shared2 * weighted.sum()
        gradient[1] = own2 * (weighted * same).sum()
        gradient[2] = noise2 * np.trace(outer)
        gradient[3] = linear2 * (outer * products).sum()
        gradient[_SCALARS:] = apart.gradient(outer * amplitude2, correlated, lengths)
        beyond = (theta - self._centre) / self._spread
        value = 0.5 * float(targets @ alpha) + log_root + 0.5 * float(beyond @ beyond)
        return value, gradient + beyond / self._spread
