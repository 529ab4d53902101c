"""How alike the times of two configs are: a correlation that is partly smooth and partly rough.

Notation
    X, Z        inputs, ``[n, D]`` and ``[m, D]``
    l           [D], length scales
    r², r₁      Σ_d (x_d - z_d)² / l_d², Σ_d |x_d - z_d| / l_d
    ρ           share of the rough part

    κ = (1 - ρ) M(r) + ρ exp(-r₁ / c)
    M(r) = (1 + √5 r + 5/3 r²) exp(-√5 r)     Matérn-5/2 (Rasmussen & Williams 2006, eq. 4.17)
    exp(-r₁ / c)                              continuous, nowhere smooth: what forests of random cuts across the axes
                                              converge to (Balog et al., "The Mondrian kernel", UAI 2016)

Times of kernels are trends with cliffs (a tile size, a spill, one wave more): the smooth part alone takes a cliff for
noise or a short length scale, and is far too sure of what lies beyond it. c = 0.75 √D, since r₁ grows with D and r
with √D, so that both parts reach equally far for the same l.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from bo_tune.processes.importing import LateModule

_distance = LateModule("scipy.spatial.distance")

Array = NDArray[np.float64]
Indices = NDArray[np.intp]

CITY = 0.75
"""c over √D."""


def correlation(X: Array, Z: Array, lengths: Array, rough: float) -> Array:
    """κ between the rows of X and of Z, ``[len(X), len(Z)]``, for length scales ``[D]`` and ρ."""
    Xs, Zs = X / lengths, Z / lengths
    squared = Xs @ Zs.T
    squared *= -2.0
    squared += (Xs * Xs).sum(axis=1)[:, None]
    squared += (Zs * Zs).sum(axis=1)
    root = np.sqrt(5.0 * np.maximum(squared, 0.0, out=squared))
    kernel = np.exp(-root)
    root += 1.0
    root += (5.0 / 3.0) * squared
    kernel *= root
    kernel *= 1.0 - rough
    city = _distance.cdist(Xs, Zs, "cityblock")
    city *= -1.0 / city_length(X.shape[1])
    np.exp(city, out=city)
    city *= rough
    kernel += city
    return kernel


def city_length(columns: int) -> float:
    """Length scales of the rough part over those of the smooth one: the distances r₁ grow with D, r with √D."""
    return CITY * float(np.sqrt(max(columns, 1)))


class Differences:
    """Differences between the rows of X ``[n, D]``, from which κ follows for any length scales.

    Args:
        X: the rows.
        rough: ρ.
    """

    def __init__(self, X: Array, rough: float) -> None:
        columns = X.T
        self._count, self._rough = len(X), rough
        self._city = city_length(len(columns))
        self._absolute = np.abs(columns[:, :, None] - columns[:, None, :]).reshape(len(columns), -1)
        self._squared = self._absolute**2

    def correlate(self, lengths: Array) -> "Correlated":
        """κ between the rows."""
        shape = (self._count, self._count)
        squared = (lengths**-2.0 @ self._squared).reshape(shape)
        root = np.sqrt(5.0 * squared)
        decay = (1.0 - self._rough) * np.exp(-root)
        city = self._rough * np.exp((-1.0 / (self._city * lengths)) @ self._absolute).reshape(shape)
        kernel = decay * (1.0 + root + (5.0 / 3.0) * squared) + city
        return Correlated(kernel, (5.0 / 3.0) * decay * (1.0 + root), city)

    def gradient(self, outer: Array, correlated: "Correlated", lengths: Array) -> Array:
        """Gradient of a negative log likelihood by log l.

        Args:
            outer: ``[n, n]``, (K⁻¹ - α αᵀ) times the variances that κ is multiplied by, elementwise.
        """
        by_smooth = self._squared @ (outer * correlated.by_squared).ravel() * lengths**-2.0
        by_rough = self._absolute @ (outer * correlated.by_city).ravel() / (self._city * lengths)
        return np.asarray(0.5 * (by_smooth + by_rough))


class Correlated(NamedTuple):
    """κ and its derivatives, each ``[n, n]``.

    Attributes:
        kernel: κ.
        by_squared: by -r²/2.
        by_city: by -r₁.
    """

    kernel: Array
    by_squared: Array
    by_city: Array
