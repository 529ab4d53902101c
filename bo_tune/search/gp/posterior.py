"""A process conditioned on observations, kept up to date from trial to trial.

Notation
    C, n        points asked about; observations, at points I [n] among them
    K, s²       covariance of the noiseless values (see ``surrogate``); variance of the noise, v_i of an observation
    L           [n, n], lower Cholesky factor of K(I, I) + s² 1 + diag(v)
    T           [n, C] = L⁻¹ K(I, ·), the table: with it, for residuals r and z = L⁻¹ r,
                mean = m + zᵀ T,  covariance = K - Tᵀ T  (Rasmussen & Williams 2006, algorithm 2.1)

A further observation adds a row to L and to T, which costs n·C instead of the n²·C (and n·C covariances) of starting
again: the proposal and the certificate of a trial share one table, and the next trial's is that with one row more. The
rows of T have room for more below them, so that it is not copied each time.
Neither L nor T depends on the observed values, so those may be rescaled freely.
"""

from dataclasses import dataclass
from typing import Protocol

import numpy as np

from bo_tune.processes.importing import LateModule
from bo_tune.search.gp.correlation import Array, Indices

_lapack = LateModule("scipy.linalg.lapack")
_blas = LateModule("scipy.linalg.blas")

JITTER = 1e-8
SMALLEST_VARIANCE = 1e-12


class Process(Protocol):
    """A Gaussian process over points, before any observation."""

    @property
    def noise(self) -> float:
        """Standard deviation of the noise, s."""

    @property
    def taught(self) -> bool:
        """Whether other studies taught it."""

    @property
    def described(self) -> bool:
        """Whether features that were made for this kernel describe its points."""

    def mean(self, points: Indices) -> Array:
        """Return m at points."""

    def variance(self, points: Indices) -> Array:
        """Return the diagonal of K at points."""

    def covariance(self, points: Indices, others: Indices) -> Array:
        """Return K between points."""

    def covariance_among(self, points: Indices) -> Array:
        """Return K among points."""


class Rows:
    """The rows of a growing matrix: those that are there stay where they are.

    Args:
        columns: of the matrix.
        room: rows there is room for.
    """

    def __init__(self, columns: int, room: int) -> None:
        self._all: Array = np.empty((room, columns))
        self._used = 0

    @classmethod
    def of(cls, rows: Array, room: int) -> "Rows":
        """Return a copy of some rows, with room for more."""
        grown = cls(rows.shape[1], max(room, len(rows)))
        grown._all[: len(rows)] = rows
        grown._used = len(rows)
        return grown

    def first(self, count: int) -> Array:
        """Return the first rows, ``[count, columns]``."""
        return self._all[:count]

    def grown(self, count: int, more: Array) -> "Rows":
        """Return the first ``count`` rows with more below them: in place, unless others are there or there is no room.

        Whoever holds the first ``count`` rows still does.
        """
        total = count + len(more)
        fits = self._used == count and total <= len(self._all)
        whole = self if fits else Rows.of(self.first(count), total + total // 4 + 8)
        whole._all[count:total] = more
        whole._used = total
        return whole


@dataclass(frozen=True, slots=True)
class Table:
    """What observing some points says of others, whatever is observed.

    Attributes:
        process: the process.
        asked: the points asked about, ascending, ``[C]``.
        points: I; every one of them is asked about.
        noise: v ``[n]``.
        lower: L.
        rows: those of T.
        variance: of the noiseless values at the points asked about, ``[C]``.
        places: where each point stands among those asked about, up to the last of them.
    """

    process: Process
    asked: Indices
    points: Indices
    noise: Array
    lower: Array
    rows: Rows
    variance: Array
    places: Indices

    @property
    def solved(self) -> Array:
        """T."""
        return self.rows.first(len(self.points))

    @classmethod
    def empty(cls, process: Process, asked: Indices) -> "Table":
        """The table of no observation."""
        none = np.zeros(0)
        places = np.zeros(int(asked[-1]) + 1, dtype=np.intp)
        places[asked] = np.arange(len(asked))
        rows = Rows(len(asked), 0)
        return cls(process, asked, none.astype(np.intp), none, np.zeros((0, 0)), rows, process.variance(asked), places)

    def position(self, points: Indices) -> Indices:
        """Where points stand among those asked about."""
        return self.places[points]

    def extended(self, points: Indices, noise: Array) -> "Table":
        """The table with further observations."""
        at = self.position(points)
        cross = self.process.covariance(points, self.asked)
        carried = self.solved[:, at]
        own = cross[:, at] + np.diag(noise + (self.process.noise**2 + JITTER))
        if len(self.points):
            own -= carried.T @ carried
            cross -= carried.T @ self.solved
        factor, _ = _lapack.dpotrf(own, lower=1, clean=1)
        # Solved from the right, transposed: rows of T stay together, and nothing is copied.
        rows = _blas.dtrsm(1.0, factor, cross.T, side=1, lower=1, trans_a=1, overwrite_b=1).T
        count = len(self.points)
        lower = np.zeros((count + len(points), count + len(points)))
        lower[:count, :count], lower[count:, :count], lower[count:, count:] = self.lower, carried.T, factor
        variance = self.variance - np.einsum("ij,ij->j", rows, rows)
        return Table(
            self.process,
            self.asked,
            np.concatenate([self.points, points]),
            np.concatenate([self.noise, noise]),
            lower,
            self.rows.grown(count, rows),
            variance,
            self.places,
        )

    def given(self, targets: Array) -> "Posterior":
        """Condition on observed values ``[n]``."""
        white, _ = _lapack.dtrtrs(self.lower, targets - self.process.mean(self.points), lower=1)
        mean = self.process.mean(self.asked) + white @ self.solved
        return Posterior(self, targets, mean, np.sqrt(np.maximum(self.variance, SMALLEST_VARIANCE)))


@dataclass(frozen=True, slots=True)
class Posterior:
    """A process conditioned on observations.

    Attributes:
        table: what was observed where.
        targets: observed values ``[n]``.
        mean: of the noiseless values at the points asked about, ``[C]``.
        deviation: standard deviation of the same.
    """

    table: Table
    targets: Array
    mean: Array
    deviation: Array

    def predict(self, points: Indices) -> tuple[Array, Array]:
        """Mean and standard deviation of the noiseless values at points."""
        at = self.table.position(points)
        return self.mean[at], self.deviation[at]

    def joint(self, points: Indices) -> tuple[Array, Array]:
        """Mean and covariance of the noiseless values at points."""
        at = self.table.position(points)
        known = self.table.solved[:, at]
        covariance = self.table.process.covariance_among(points)
        covariance -= known.T @ known
        return self.mean[at], covariance

    def believing(self, points: Indices) -> "Posterior":
        """Condition on further points, taken to come out as predicted (a kriging believer)."""
        believed, _ = self.predict(points)
        return self.table.extended(points, np.zeros(len(points))).given(np.concatenate([self.targets, believed]))


class Tables:
    """Keeps the table of a growing study: the first observations at once, the others one by one.

    That order depends on the observations alone, so that a resumed study computes the very same numbers.
    """

    def __init__(self) -> None:
        self._last: Table | None = None
        self._head = 0

    def table(self, process: Process, asked: Indices, points: Indices, noise: Array, head: int) -> Table:
        """Return the table of observations.

        Args:
            asked: the points asked about, ascending; the observed ones among them.
            head: how many observations are taken at once.
        """
        last = self._last
        if last is None or self._head != head or not _continues(last, process, asked, points, noise):
            last = Table.empty(process, asked).extended(points[:head], noise[:head])
        for row in range(len(last.points), len(points)):
            last = last.extended(points[row : row + 1], noise[row : row + 1])
        self._last, self._head = last, head
        return last


def _continues(table: Table, process: Process, asked: Indices, points: Indices, noise: Array) -> bool:
    """Whether a table is that of the first of these observations."""
    count = len(table.points)
    return (
        table.process is process
        and np.array_equal(table.asked, asked)
        and np.array_equal(table.points, points[:count])
        and np.array_equal(table.noise, noise[:count])
    )
