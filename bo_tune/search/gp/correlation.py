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

from collections.abc import Callable
from copy import copy
from math import inf, log
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from bo_tune.processes.importing import LateModule

_distance = LateModule("scipy.spatial.distance")

Array = NDArray[np.float64]
Indices = NDArray[np.intp]

CITY = 0.75
"""c over √D."""

BLOCK = 2**14
"""Correlations that are computed at a time: what they need fits into a core's cache."""


def correlation(X: Array, Z: Array, lengths: Array, rough: float) -> Array:
    """κ between the rows of X and of Z, ``[len(X), len(Z)]``, for length scales ``[D]`` and ρ."""
    return Scaled(X, lengths, rough).to(Scaled(Z, lengths, rough))


class Scaled:
    """Rows of X in units of the length scales, of which κ is asked again and again.

    Args:
        X: the rows.
        lengths: l.
        rough: ρ.
    """

    def __init__(self, X: Array, lengths: Array, rough: float) -> None:
        self._rows, self._rough = X * (np.sqrt(5.0) / lengths), rough
        self._norms: Array = np.einsum("ij,ij->i", self._rows, self._rows)
        self._last: tuple[Indices, Scaled] | None = None

    def __getitem__(self, which: Indices) -> "Scaled":
        """Return some of the rows."""
        some = copy(self)
        some._rows, some._norms, some._last = self._rows[which], self._norms[which], None
        return some

    def between(self, points: Indices, others: Indices) -> Array:
        """κ between some of the rows and others, ``[len(points), len(others)]``.

        Trial by trial the others are the same: those of the last call are kept.
        """
        last = self._last
        if last is None or last[0] is not others:
            last = self._last = others, self[others]
        return self[points].to(last[1])

    def block(self, points: Indices, others: Indices) -> Array:
        """The same, for others that are not asked for again."""
        return self[points].to(self[others])

    def to(self, others: "Scaled") -> Array:
        """κ between these rows and others of the same scales, ``[len(self), len(others)]``."""
        count, columns = len(self._rows), len(others._rows)
        kernel = np.empty((count, columns))
        block = max(1, BLOCK // max(columns, 1))
        for start in range(0, count, block):
            rows, part = self._rows[start : start + block], kernel[start : start + block]
            np.matmul(rows, others._rows.T, out=part)
            part *= -2.0
            part += self._norms[start : start + block, None]
            part += others._norms
            np.maximum(part, 0.0, out=part)
            self._decay(part, _distance.cdist(rows, others._rows, "cityblock"))
        return kernel

    def _decay(self, squared: Array, city: Array) -> None:
        """Turn 5 r² into κ where it stands, given √5 r₁, which is spent."""
        root = np.sqrt(squared)
        squared *= 1.0 / 3.0
        squared += root
        squared += 1.0
        np.subtract(_log(1.0 - self._rough), root, out=root)
        squared *= np.exp(root, out=root)
        city *= -1.0 / (np.sqrt(5.0) * city_length(self._rows.shape[1]))
        city += _log(self._rough)
        squared += np.exp(city, out=city)


def _log(share: float) -> float:
    return log(share) if share > 0 else -inf


class Pairs:
    """A function of pairs of points, symmetric, that is asked again and again of points which are mostly the same.

    Args:
        of: ``(points, others) -> [len(points), len(others)]``.
    """

    def __init__(self, of: Callable[[Indices, Indices], Array]) -> None:
        self._of = of
        self._points: list[int] = []
        self._values: Array = np.zeros((0, 0))

    def among(self, points: Indices) -> Array:
        """Return its values, ``[len(points), len(points)]``: those of the last call are not computed again."""
        known = {point: at for at, point in enumerate(self._points)}
        self._points = points.tolist()
        before = np.array([known.get(point, -1) for point in self._points], dtype=np.intp)
        fresh = np.flatnonzero(before < 0)
        if len(fresh) == len(points):
            self._values = self._of(points, points)
        else:
            self._values = self._values.take(before, axis=0, mode="wrap").take(before, axis=1, mode="wrap")
            if len(fresh):
                rows = self._of(points[fresh], points)
                self._values[fresh], self._values[:, fresh] = rows, rows.T
        return self._values.copy()


def city_length(columns: int) -> float:
    """Length scales of the rough part over those of the smooth one: the distances r₁ grow with D, r with √D."""
    return CITY * float(np.sqrt(max(columns, 1)))


class Differences:
    """Differences between the rows of X ``[n, D]``, from which κ follows for any length scales.

    What is symmetric is kept of each pair of rows once: m = n (n - 1) / 2 values, row by row of the upper triangle.

    Args:
        X: the rows.
        rough: ρ.
    """

    def __init__(self, X: Array, rough: float) -> None:
        self._count, self._rough = len(X), rough
        self._city = city_length(X.shape[1])
        self._first, self._second = np.triu_indices(len(X), 1)
        self._at = self._first * len(X) + self._second
        self._absolute = np.abs((X[self._first] - X[self._second]).T)
        self._squared = self._absolute**2

    def pairs(self, symmetric: Array) -> Array:
        """The values of the pairs in a matrix, ``[m]``."""
        return np.asarray(symmetric.ravel()[self._at])

    def products(self, vector: Array) -> Array:
        """The products of the pairs in a vector, ``[m]``."""
        return np.asarray(vector[self._first] * vector[self._second])

    def upper(self, pairs: Array, diagonal: Array | float) -> Array:
        """The upper triangle of a matrix, ``[n, n]``."""
        matrix = np.zeros((self._count, self._count))
        matrix.ravel()[self._at] = pairs
        matrix.ravel()[:: self._count + 1] = diagonal
        return matrix

    def correlate(self, lengths: Array) -> "Correlated":
        """κ of the pairs."""
        squared = lengths**-2.0 @ self._squared
        root = np.sqrt(5.0 * squared)
        decay = np.exp(-root)
        decay *= 1.0 - self._rough
        city = np.exp((-1.0 / (self._city * lengths)) @ self._absolute)
        city *= self._rough
        root += 1.0
        squared *= 5.0 / 3.0
        squared += root
        squared *= decay
        squared += city
        decay *= root
        decay *= 5.0 / 3.0
        return Correlated(squared, decay, city)

    def gradient(self, outer: Array, correlated: "Correlated", lengths: Array) -> Array:
        """Gradient of a negative log likelihood by log l.

        Args:
            outer: ``[m]``, of K⁻¹ - α αᵀ times the variances that κ is multiplied by.
        """
        by_smooth = self._squared @ (outer * correlated.by_squared) * lengths**-2.0
        by_rough = self._absolute @ (outer * correlated.by_city) / (self._city * lengths)
        return np.asarray(by_smooth + by_rough)


class Correlated(NamedTuple):
    """κ and its derivatives, each ``[m]``.

    Attributes:
        kernel: κ.
        by_squared: by -r²/2.
        by_city: by -r₁.
    """

    kernel: Array
    by_squared: Array
    by_city: Array
