"""A small Gaussian process over the configs of a grid.

Notation
    n, C, D     observations, candidates, columns of the inputs
    X, Z        [n, D] and [C, D], inputs standardised over the valid grid
    y           [n], log time (or the objective itself), shifted so that the incumbent is near 0
    m           [n] or [C], mean the prior from other studies predicts; zeros without one
    a           amplitude; s noise (standard deviations, in units of y)
    l           [D], length scales
    r²          Σ_d (x_d - z_d)² / l_d²

Model
    y = b + w·m(x) + f(x) + e,   f ~ GP(0, a² M(r)),   e_i ~ N(0, s² + v_i)
    M(r) = (1 + √5 r + 5/3 r²) exp(-√5 r)                        Matérn-5/2, Rasmussen & Williams 2006, eq. 4.17
    b ~ N(0, B²) and w ~ N(w₀, W²) are integrated out: they add B² + W² m(x) m(z) to the covariance
    (R & W, section 2.7), so a misleading m loses its weight as the data speak against it.
    v_i is the variance that the repetitions of a trial show.

    log a, log s, log l_d have independent normal priors, and are set to the maximum of the posterior (R & W, section
    5.4.1) by a bounded number of L-BFGS steps. The priors of the length scales grow with √D, as Hvarfner et al.
    ("Vanilla Bayesian optimization performs great in high dimensions", ICML 2024) advise.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.linalg.lapack import dpotrf, dpotri, dtrtrs
from scipy.optimize import minimize

Array = NDArray[np.float64]

_SQRT5 = np.sqrt(5.0)
_JITTER = 1e-8
_FAILED = 1e10


@dataclass(frozen=True, slots=True)
class Priors:
    """Normal priors of the logarithms of the hyperparameters, and of the linear part.

    Attributes:
        amplitude: median of a.
        noise: median of s.
        length: median of l, over √D.
        spread_amplitude: standard deviation of log a.
        spread_noise: standard deviation of log s.
        spread_length: standard deviation of log l_d.
        offset: B.
        weight: w₀.
        spread_weight: W.
    """

    amplitude: float = 0.5
    noise: float = 0.02
    length: float = 2.0
    spread_amplitude: float = 1.0
    spread_noise: float = 1.0
    spread_length: float = 0.8
    offset: float = 0.4
    weight: float = 1.0
    spread_weight: float = 0.4


@dataclass(frozen=True, slots=True)
class Data:
    """Observations.

    Attributes:
        inputs: X ``[n, D]``.
        targets: y ``[n]``.
        noise: v ``[n]``, variances known beforehand.
        mean: m ``[n]``.
    """

    inputs: Array
    targets: Array
    noise: Array
    mean: Array

    def head(self, count: int) -> "Data":
        """The first observations."""
        return Data(self.inputs[:count], self.targets[:count], self.noise[:count], self.mean[:count])

    def with_fantasies(self, inputs: Array, targets: Array, mean: Array) -> "Data":
        """The observations and made-up ones without noise of their own."""
        return Data(
            np.concatenate([self.inputs, inputs]),
            np.concatenate([self.targets, targets]),
            np.concatenate([self.noise, np.zeros(len(targets))]),
            np.concatenate([self.mean, mean]),
        )


def squared_distances(X: Array, Z: Array, scales: Array) -> Array:
    """``[len(X), len(Z)]`` of r², with length scales ``[D]``."""
    Xs, Zs = X / scales, Z / scales
    products = Xs @ Zs.T
    products *= -2.0
    products += (Xs * Xs).sum(axis=1)[:, None]
    products += (Zs * Zs).sum(axis=1)
    return np.maximum(products, 0.0, out=products)


def matern(squared: Array) -> Array:
    """M(r) from r²."""
    root = np.sqrt(5.0 * squared)
    decay = np.exp(-root)
    root += 1.0
    root += (5.0 / 3.0) * squared
    root *= decay
    return root


class GaussianProcess:
    """The process with its hyperparameters; see the notation at the head of the module.

    Args:
        columns: D.
        priors: of the hyperparameters.
    """

    def __init__(self, columns: int, priors: Priors = Priors()) -> None:
        self.priors = priors
        self._centre = np.concatenate(
            [
                np.log([priors.amplitude, priors.noise]),
                np.full(columns, np.log(priors.length * np.sqrt(max(columns, 1)))),
            ]
        )
        self._spread = np.concatenate(
            [[priors.spread_amplitude, priors.spread_noise], np.full(columns, priors.spread_length)]
        )
        self.theta = self._centre.copy()

    @property
    def amplitude(self) -> float:
        """a."""
        return float(np.exp(self.theta[0]))

    @property
    def noise(self) -> float:
        """s."""
        return float(np.exp(self.theta[1]))

    @property
    def lengths(self) -> Array:
        """l ``[D]``."""
        return np.asarray(np.exp(self.theta[2:]), dtype=float)

    def linear(self, mean: Array, other: Array) -> Array:
        """Covariance of the linear part: B² + W² m mᵀ."""
        return self.priors.offset**2 + self.priors.spread_weight**2 * np.outer(mean, other)

    def fit(self, data: Data, steps: int = 12) -> None:
        """Set the hyperparameters to the maximum of their posterior, from the centre of their priors."""
        differences = (data.inputs.T[:, :, None] - data.inputs.T[:, None, :]) ** 2
        flat = differences.reshape(len(differences), -1)
        linear = self.linear(data.mean, data.mean)
        residual = data.targets - self.priors.weight * data.mean
        found = minimize(
            self._objective,
            self._centre,
            args=(flat, linear, residual, data.noise),
            jac=True,
            method="L-BFGS-B",
            options={"maxiter": steps},
        )
        self.theta = found.x

    def _objective(self, theta: Array, flat: Array, linear: Array, y: Array, noise: Array) -> tuple[float, Array]:
        """Negative log posterior of the hyperparameters and its gradient. flat: ``[D, n·n]`` squared differences."""
        n = len(y)
        a2, s2 = np.exp(2.0 * theta[:2])
        weights = np.exp(-2.0 * theta[2:])
        squared = (weights @ flat).reshape(n, n) if len(weights) else np.zeros((n, n))
        root = np.sqrt(5.0 * squared)
        decay = a2 * np.exp(-root)
        kernel = decay * (1.0 + root + (5.0 / 3.0) * squared)
        lower, failed = dpotrf(kernel + linear + np.diag(noise + s2 + _JITTER), lower=1)
        if failed:
            return _FAILED, np.zeros_like(theta)
        inverse, _ = dpotri(lower, lower=1)
        inverse = np.tril(inverse) + np.tril(inverse, -1).T
        alpha = inverse @ y
        outer = inverse - np.outer(alpha, alpha)
        slope = outer * decay * (5.0 / 3.0) * (1.0 + root)
        gradient = np.empty_like(theta)
        gradient[0] = (outer * kernel).sum()
        gradient[1] = s2 * np.trace(outer)
        gradient[2:] = 0.5 * weights * (flat @ slope.ravel())
        apart = (theta - self._centre) / self._spread
        value = 0.5 * float(y @ alpha) + float(np.log(np.diag(lower)).sum()) + 0.5 * float(apart @ apart)
        return value, gradient + apart / self._spread

    def condition(self, data: Data) -> "Posterior":
        """Condition the process on observations."""
        kernel = self.amplitude**2 * matern(squared_distances(data.inputs, data.inputs, self.lengths))
        kernel += self.linear(data.mean, data.mean)
        kernel[np.diag_indices_from(kernel)] += data.noise + self.noise**2 + _JITTER
        lower, _ = dpotrf(kernel, lower=1)
        white, _ = dtrtrs(lower, data.targets - self.priors.weight * data.mean, lower=1)
        return Posterior(self, data, lower, white)


@dataclass(frozen=True, slots=True)
class Posterior:
    """A process conditioned on observations.

    Attributes:
        process: the process.
        data: the observations.
        lower: Cholesky factor of their covariance, ``[n, n]``.
        white: whitened residuals, ``[n]``.
    """

    process: GaussianProcess
    data: Data
    lower: Array
    white: Array

    def predict(self, Z: Array, mean: Array) -> tuple[Array, Array]:
        """Predict the noiseless value at candidates.

        Args:
            Z: ``[C, D]``.
            mean: m of the candidates, ``[C]``.

        Returns:
            Mean and standard deviation, ``[C]`` each.
        """
        process = self.process
        cross = process.amplitude**2 * matern(squared_distances(self.data.inputs, Z, process.lengths))
        cross += process.linear(self.data.mean, mean)
        solved, _ = dtrtrs(self.lower, cross, lower=1)
        prior = process.amplitude**2 + process.priors.offset**2 + (process.priors.spread_weight * mean) ** 2
        variance = prior - np.einsum("ij,ij->j", solved, solved)
        return process.priors.weight * mean + self.white @ solved, np.sqrt(np.maximum(variance, 1e-12))
