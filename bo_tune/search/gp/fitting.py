"""Hyperparameters set to the maximum of their posterior: normal priors of their logarithms, some steps of L-BFGS.

See ``surrogate`` for the notation.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from bo_tune.processes.importing import LateModule
from bo_tune.search.gp.correlation import Array

_lapack = LateModule("scipy.linalg.lapack")
_optimize = LateModule("scipy.optimize")

Objective = Callable[[Array], tuple[float, Array]]

ROUGH = 0.4
"""ρ of a study without others to learn from."""

ROUGH_UNDESCRIBED = 0.7
"""The same where nothing describes configs but their own values: what is smooth in waves or in shared memory is a cliff
in a block size."""

FAILED = 1e10
"""Value of a negative log posterior where the covariance is not positive definite."""


class Solved(NamedTuple):
    """What a likelihood needs of a covariance K and residuals.

    Attributes:
        alpha: K⁻¹ times the residuals.
        inverse: the upper triangle of K⁻¹.
        log_root: half the log determinant of K.
    """

    alpha: Array
    inverse: Array
    log_root: float


def solve(upper: Array, residuals: Array) -> Solved | None:
    """Solve for residuals, given the upper triangle of a covariance, which is spent; None if it is not positive
    definite."""
    lower, failed = _lapack.dpotrf(upper.T, lower=1, clean=0, overwrite_a=1)
    if failed:
        return None
    alpha, _ = _lapack.dpotrs(lower, residuals, lower=1)
    log_root = float(np.log(np.diag(lower)).sum())
    inverse, _ = _lapack.dpotri(lower, lower=1, overwrite_c=1)
    return Solved(alpha, inverse.T, log_root)


def with_priors(likelihood: Callable[[Array], tuple[float, Array] | None], centre: Array, spread: Array) -> Objective:
    """Return the negative log posterior of the logarithms of hyperparameters, and its gradient, as a function of them.

    Args:
        likelihood: their negative log likelihood and its gradient; None where the covariance is not positive definite.
        centre: means of their independent normal priors.
        spread: standard deviations of the same.
    """

    def objective(theta: Array) -> tuple[float, Array]:
        found = likelihood(theta)
        if found is None:
            return FAILED, np.zeros_like(theta)
        beyond = (theta - centre) / spread
        return found[0] + 0.5 * float(beyond @ beyond), found[1] + beyond / spread

    return objective


def least(objective: Objective, start: Array, steps: int) -> tuple[Array, float]:
    """Return where an objective of logarithms is least, sought from a start by some steps, and its value there."""
    bounds = [(value - 6.0, value + 6.0) for value in start]
    last: tuple[bytes, Array] | None = None

    # SciPy asks for the gradient where it has just asked for the value. To find that out it takes longer itself.
    def value(theta: Array) -> float:
        nonlocal last
        found, gradient = objective(theta)
        last = theta.tobytes(), gradient
        return found

    def gradient(theta: Array) -> Array:
        return last[1] if last is not None and last[0] == theta.tobytes() else objective(theta)[1]

    found = _optimize.minimize(value, start, jac=gradient, method="L-BFGS-B", bounds=bounds, options={"maxiter": steps})
    return np.asarray(found.x), float(found.fun)


@dataclass(frozen=True, slots=True)
class Hyperpriors:
    """Normal priors of the logarithms of the hyperparameters: medians, and standard deviations of the logarithms.

    Attributes:
        lengths: of l ``[D]``.
        amplitude: of a.
        noise: of s.
        offset: B, fixed.
        rough: ρ, fixed.
    """

    lengths: Array
    amplitude: float = 1.0
    noise: float = 0.02
    offset: float = 1.0
    rough: float = ROUGH
    spread_lengths: float = 0.8
    spread_amplitude: float = 1.0
    spread_noise: float = 1.0
    spread_weight: float = 0.5

    @classmethod
    def vague(cls, columns: int, rough: float = ROUGH) -> "Hyperpriors":
        """What is assumed of a study without others to learn from."""
        return cls(np.full(columns, 2.0 * np.sqrt(max(columns, 1))), rough=rough)

    @property
    def centre(self) -> Array:
        """Medians of log a, log s, log w, log l."""
        return np.concatenate([np.log([self.amplitude, self.noise, 1.0]), np.log(self.lengths)])

    @property
    def spread(self) -> Array:
        """Standard deviations of the same."""
        scalars = [self.spread_amplitude, self.spread_noise, self.spread_weight]
        return np.concatenate([scalars, np.full(len(self.lengths), self.spread_lengths)])
