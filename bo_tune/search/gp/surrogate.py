"""A small Gaussian process over the configs of a grid, on its own or on top of what other studies taught.

Notation
    P, D        points (the configs of the grid, and the few tried off it), columns of their inputs
    X           [P, D], inputs, standardised
    n           observations; I [n], the points they were made at
    y           [n], log time (or the objective itself), shifted so that the incumbent is near 0
    a, s        amplitude of f; noise (standard deviations, in units of y)
    l           [D], length scales
    κ, ρ        correlation of f; share of its rough part, fixed

Model
    y_i = b + t(x_i) + w·g(x_i) + f(x_i) + e_i
    f ~ GP(0, a² κ)          κ partly smooth and partly rough: see ``correlation``
    b ~ N(0, B²), integrated out: it adds B² to the covariance (R & W, section 2.7)
    e_i ~ N(0, s² + v_i), v_i the variance that the repetitions of a trial show
    t, what is expected before anything is known (see ``model``); 0 where others teach
    g ~ GP(m, S), what all problems of the kernel share, as other studies left it (see ``prior``); absent without them.
    w scales it: a g that misleads loses its weight, and f takes over.

    log a, log s, log w, log l_d have independent normal priors and are set to the maximum of the posterior (R & W,
    section 5.4.1) by a bounded number of L-BFGS steps. Without other studies the medians of l grow with √D, as Hvarfner
    et al. ("Vanilla Bayesian optimization performs great in high dimensions", ICML 2024) advise; with them they are
    those found best for them.
"""

from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

from bo_tune.search.gp.correlation import Array, Differences, Indices, Pairs, Scaled
from bo_tune.search.gp.fitting import Hyperpriors, Objective, least, solve, with_priors
from bo_tune.search.gp.posterior import JITTER, Posterior, Table
from bo_tune.search.gp.shared import SharedPart


def rung(count: int) -> int:
    """The largest rung of the ladder 1, 2, … 16, 18, … 32, 36, … that is at most count."""
    step = 1
    while step * 16 <= count:
        step *= 2
    return count - count % step


@dataclass(frozen=True, slots=True)
class Data:
    """Observations.

    Attributes:
        points: I ``[n]``.
        targets: y ``[n]``.
        noise: v ``[n]``.
    """

    points: Indices
    targets: Array
    noise: Array


@dataclass(frozen=True)
class Surrogate:
    """The process with its hyperparameters.

    Attributes:
        inputs: X.
        priors: of the hyperparameters.
        shared: g, or None.
        theta: log a, log s, log w, log l; the medians of their priors before a fit.
        evidence: log posterior of theta, up to a constant, given the data it was fitted to.
        trend: t ``[P]``, or None for 0.
        described: whether features that were made for this kernel describe configs.
    """

    inputs: Array
    priors: Hyperpriors
    shared: SharedPart | None = None
    theta: Array | None = None
    evidence: float = 0.0
    trend: Array | None = None
    described: bool = True

    @property
    def _theta(self) -> Array:
        return self.priors.centre if self.theta is None else self.theta

    @property
    def amplitude(self) -> float:
        """a."""
        return float(np.exp(self._theta[0]))

    @property
    def noise(self) -> float:
        """s."""
        return float(np.exp(self._theta[1]))

    @property
    def taught(self) -> bool:
        """Whether g is there."""
        return self.shared is not None

    @property
    def weight(self) -> float:
        """w; 0 without g."""
        return 0.0 if self.shared is None else float(np.exp(self._theta[2]))

    @property
    def lengths(self) -> Array:
        """l ``[D]``."""
        return np.asarray(np.exp(self._theta[3:]))

    def fit(self, data: Data, steps: int = 12) -> "Surrogate":
        """Return the process with the hyperparameters at the maximum of their posterior, sought from their medians."""
        theta, value = least(self.objective(data), self.priors.centre, steps)
        return replace(self, theta=theta, evidence=-value)

    def objective(self, data: Data) -> Objective:
        """Return the negative log posterior of log a, log s, log w, log l, given observations."""
        points, n = data.points, len(data.points)
        apart = Differences(self.inputs[points], self.priors.rough)
        common = np.zeros((n, n)) if self.shared is None else self.shared.block(points, points)
        common_pairs, common_alone = apart.pairs(common), common.diagonal()
        mean = np.zeros(n) if self.shared is None else self.shared.mean[points]
        targets = data.targets if self.trend is None else data.targets - self.trend[points]
        alone = data.noise + (self.priors.offset**2 + JITTER)

        def likelihood(theta: Array) -> tuple[float, Array] | None:
            a2, s2 = np.exp(2.0 * theta[:2])
            w = float(np.exp(theta[2]))
            lengths = np.exp(theta[3:])
            correlated = apart.correlate(lengths)
            pairs = a2 * correlated.kernel + (w * w) * common_pairs + self.priors.offset**2
            residual = targets - w * mean
            solved = solve(apart.upper(pairs, alone + (a2 + s2) + (w * w) * common_alone), residual)
            if solved is None:
                return None
            alpha = solved.alpha
            # K⁻¹ - α αᵀ, of the pairs, which count twice, and of the diagonal.
            outer = apart.pairs(solved.inverse) - apart.products(alpha)
            outer_alone = solved.inverse.diagonal() - alpha * alpha
            trace = outer_alone.sum()
            gradient = np.empty_like(theta)
            gradient[0] = a2 * (2.0 * (outer @ correlated.kernel) + trace)
            gradient[1] = s2 * trace
            by_common = 2.0 * (outer @ common_pairs) + outer_alone @ common_alone
            gradient[2] = w * w * by_common - w * float(alpha @ mean)
            gradient[3:] = apart.gradient(a2 * outer, correlated, lengths)
            return 0.5 * float(residual @ alpha) + solved.log_root, gradient

        return with_priors(likelihood, self.priors.centre, self.priors.spread)

    def covariance(self, points: Indices, others: Indices) -> Array:
        """Covariance of the noiseless values at points and at others, ``[len(points), len(others)]``."""
        kernel = self._scaled.between(points, others)
        return self._with_shared(kernel, None if self.shared is None else self.shared.between(points, others))

    def covariance_among(self, points: Indices) -> Array:
        """Covariance of the noiseless values at points, ``[len(points), len(points)]``; few, and mostly those of the
        last call."""
        return self._pairs.among(points)

    @cached_property
    def _scaled(self) -> Scaled:
        return Scaled(self.inputs, self.lengths, self.priors.rough)

    @cached_property
    def _pairs(self) -> Pairs:
        return Pairs(self._block)

    def _block(self, points: Indices, others: Indices) -> Array:
        kernel = self._scaled.block(points, others)
        return self._with_shared(kernel, None if self.shared is None else self.shared.block(points, others))

    def _with_shared(self, kernel: Array, shared: Array | None) -> Array:
        """Covariance, given κ and the covariance of g; both are spent."""
        kernel *= self.amplitude**2
        kernel += self.priors.offset**2
        if shared is not None:
            shared *= self.weight**2
            kernel += shared
        return kernel

    def variance(self, points: Indices) -> Array:
        """Variance of the noiseless values at points before any observation."""
        flat = self.amplitude**2 + self.priors.offset**2
        if self.shared is None:
            return np.full(len(points), flat)
        return np.asarray(flat + self.weight**2 * self.shared.variance[points])

    def mean(self, points: Indices) -> Array:
        """Mean of the values at points before any observation."""
        mean = np.zeros(len(points)) if self.shared is None else self.weight * self.shared.mean[points]
        return mean if self.trend is None else mean + self.trend[points]

    def condition(self, data: Data, asked: Indices | None = None) -> Posterior:
        """Condition the process on observations, to ask about some points, ascending (all by default)."""
        asked = np.arange(len(self.inputs)) if asked is None else asked
        return Table.empty(self, asked).extended(data.points, data.noise).given(data.targets)
