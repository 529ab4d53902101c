"""What a proposal is worth: expected improvement, and what it may cost.

Notation: μ, σ predicted mean and standard deviation of a candidate, t the value to improve on, u = (t - μ) / σ.
"""

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtr

Array = NDArray[np.float64]

_LOG_SQRT_2PI = 0.5 * np.log(2.0 * np.pi)


def log_expected_improvement(mean: Array, deviation: Array, target: float | Array) -> Array:
    """log E[max(t - y, 0)] for y ~ N(μ, σ²), stable where the improvement is hopeless.

    Jones, Schonlau & Welch 1998, eq. 15, in logarithms as Ament et al. ("Unexpected improvements to expected
    improvement", NeurIPS 2023) advise; below u = -5 by the expansion φ(u) / u² · (1 - 3 / u²).
    """
    u = (target - mean) / deviation
    near = np.maximum(u, -5.0)
    density = np.exp(-0.5 * near * near - _LOG_SQRT_2PI)
    far = np.minimum(u, -5.0)
    tail = -0.5 * far * far - _LOG_SQRT_2PI - 2.0 * np.log(-far) + np.log1p(-3.0 / (far * far))
    ratio = np.where(u > -5.0, np.log(np.maximum(near * ndtr(near) + density, 1e-300)), tail)
    return np.asarray(ratio + np.log(deviation), dtype=float)
