"""What problems of a kernel have in common, as the trials of other studies show it.

Notation
    X, D        rows of the histories, ``[H, D]``: inputs of trials of other problems, in the columns of the new study's
    q, p        the problem of a row, and its place: what was measured where (GPU, kernel source, conditions)
    y           log(time / best time of the row's problem), squeezed

Model (a multi-task Gaussian process with shared and own parts; Bonilla, Chai & Williams, NIPS 2007)
    y = b_q + g(x) + h_p(x) + f_q(x) + e
    g ~ GP(0, a_g² κ + c² x·z / D)           shared by all problems; the linear part carries trends beyond the data
    h_p ~ GP(0, a_h² κ)                      shared by those of one place: GPUs and kernel sources differ alike for all
    f_q ~ GP(0, a² κ)                        a problem's own, independent of the others'
    b_q ~ N(0, 1/4), e ~ N(0, s²)
    log a_g, log a_h, log a, log s, log c, log l_d are set to the maximum of their posterior.

The new study takes g + h given y as its shared part, and a, s, l as the medians of its own hyperparameters: it starts
with how such problems vary, not only with where their optimum lies. Of what was learnt elsewhere it takes g alone, and
is as much less sure as places were found to differ.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from bo_tune.processes.importing import LateModule
from bo_tune.search.gp.correlation import Array, Differences, Indices, Scaled
from bo_tune.search.gp.fitting import Hyperpriors, Objective, least, solve, with_priors
from bo_tune.search.gp.posterior import JITTER

_lapack = LateModule("scipy.linalg.lapack")

HERE = 0
"""The place of the new study."""

MEDIANS = (0.6, 0.3, 0.5, 0.02, 0.2)
"""Of a_g, a_h, a, s and c."""

ROUGH_TAUGHT = 0.6
"""ρ (see ``correlation``) where others teach: with the trends known, what is left to learn is rougher."""

ROWS_FITTED = 200
"""Rows that the hyperparameters are fitted to: a fit takes the cube of their number, again and again."""

FEW = 4
"""Fewer than one in so many points are few."""

_OFFSET_VARIANCE = 0.25
_STEPS = 30
_SCALARS = len(MEDIANS)


@dataclass(frozen=True, slots=True)
class Rows:
    """What histories say.

    Attributes:
        inputs: X.
        targets: y ``[H]``.
        problems: q ``[H]``.
        places: p ``[H]``; ``HERE`` at the place of the new study.
    """

    inputs: Array
    targets: Array
    problems: NDArray[np.intp]
    places: NDArray[np.intp]

    def thinned(self, count: int) -> "Rows":
        """At most count rows, as many of each problem, evenly from its fastest to its slowest."""
        kept, problems = [], np.unique(self.problems)
        for problem in problems:
            rows = np.flatnonzero(self.problems == problem)
            in_order = rows[np.argsort(self.targets[rows], kind="stable")]
            of_each = np.linspace(0, len(rows) - 1, count // len(problems))
            kept.append(in_order[np.unique(of_each.round().astype(int))])
        chosen = np.sort(np.concatenate(kept))
        return Rows(self.inputs[chosen], self.targets[chosen], self.problems[chosen], self.places[chosen])


def _split(theta: Array) -> tuple[list[float], Array]:
    """Return a_g², a_h², a², s² and c², and l ``[D]``, of their logarithms."""
    return np.exp(2.0 * theta[:_SCALARS]).tolist(), np.asarray(np.exp(theta[_SCALARS:]))


def posterior_of(rows: Rows) -> tuple[Array, Objective]:
    """Return the medians of log a_g, log a_h, log a, log s, log c, log l_d, and their negative log posterior."""
    columns = rows.inputs.shape[1]
    vague = Hyperpriors.vague(columns)
    centre = np.concatenate([np.log(MEDIANS), np.log(vague.lengths)])
    spread = np.concatenate([np.ones(_SCALARS), np.full(columns, vague.spread_lengths)])
    apart = Differences(rows.inputs, ROUGH_TAUGHT)
    one_place = apart.pairs((rows.places[:, None] == rows.places).astype(float))
    one_problem = apart.pairs((rows.problems[:, None] == rows.problems).astype(float))
    linear = rows.inputs @ rows.inputs.T / max(columns, 1)
    linear_pairs, linear_alone = apart.pairs(linear), linear.diagonal()

    def likelihood(theta: Array) -> tuple[float, Array] | None:
        (everywhere2, place2, own2, noise2, linear2), lengths = _split(theta)
        correlated = apart.correlate(lengths)
        amplitude2 = everywhere2 + place2 * one_place + own2 * one_problem
        pairs = amplitude2 * correlated.kernel + linear2 * linear_pairs + _OFFSET_VARIANCE * one_problem
        alone = (everywhere2 + place2 + own2) + linear2 * linear_alone + (_OFFSET_VARIANCE + noise2 + JITTER)
        solved = solve(apart.upper(pairs, alone), rows.targets)
        if solved is None:
            return None
        alpha = solved.alpha
        # K⁻¹ - α αᵀ, of the pairs, which count twice, and of the diagonal.
        outer = apart.pairs(solved.inverse) - apart.products(alpha)
        outer_alone = solved.inverse.diagonal() - alpha * alpha
        trace = outer_alone.sum()
        weighted = outer * correlated.kernel
        gradient = np.empty_like(theta)
        gradient[0] = everywhere2 * (2.0 * weighted.sum() + trace)
        gradient[1] = place2 * (2.0 * (weighted @ one_place) + trace)
        gradient[2] = own2 * (2.0 * (weighted @ one_problem) + trace)
        gradient[3] = noise2 * trace
        gradient[4] = linear2 * (2.0 * (outer @ linear_pairs) + outer_alone @ linear_alone)
        gradient[_SCALARS:] = apart.gradient(outer * amplitude2, correlated, lengths)
        return 0.5 * float(rows.targets @ alpha) + solved.log_root, gradient

    return centre, with_priors(likelihood, centre, spread)


class SharedPart:
    """g + h at the place of a new study, given the histories, at its points.

    Args:
        rows: of the histories.
        points: inputs of the new study's points, ``[P, D]``.
    """

    def __init__(self, rows: Rows, points: Array) -> None:
        self._points = points
        columns = max(rows.inputs.shape[1], 1)
        centre, posterior = posterior_of(rows.thinned(ROWS_FITTED))
        theta, _ = least(posterior, centre, _STEPS)
        (everywhere2, place2, own2, noise2, linear2), self.lengths = _split(theta)
        self.own, self.noise = float(np.sqrt(own2)), float(np.sqrt(noise2))
        self._shared2, self._linear2 = everywhere2 + place2, linear2 / columns
        self._scaled = Scaled(points, self.lengths, ROUGH_TAUGHT)
        self._told, self._told_inputs = Scaled(rows.inputs, self.lengths, ROUGH_TAUGHT), rows.inputs
        self._told2 = everywhere2 + place2 * (rows.places == HERE)
        one_place, one_problem = rows.places[:, None] == rows.places, rows.problems[:, None] == rows.problems
        covariance = (everywhere2 + place2 * one_place + own2 * one_problem) * self._told.to(self._told)
        covariance += self._linear2 * (rows.inputs @ rows.inputs.T) + _OFFSET_VARIANCE * one_problem
        covariance[np.diag_indices_from(covariance)] += noise2 + JITTER
        self._lower, _ = _lapack.dpotrf(covariance, lower=1)
        white, _ = _lapack.dtrtrs(self._lower, rows.targets, lower=1)
        self._all, self._places = np.arange(len(points)), np.full(len(points), -1)
        self._keep(self._all)
        self.mean: Array = self._known @ white
        norms = np.einsum("ij,ij->i", points, points)
        explained = np.einsum("ij,ij->i", self._known, self._known)
        self.variance: Array = np.maximum(self._shared2 + self._linear2 * norms - explained, 0.0)
        self._others: Indices | None = None
        self._rows: dict[int, Array] = {}

    def _keep(self, kept: Indices) -> None:
        """Keep what the histories tell of these points, in their order: most of what a study's surrogate occupies."""
        places = np.full(len(self._points), -1)
        places[kept] = np.arange(len(kept))
        self._known, self._places = self._told_of(kept), places

    def _told_of(self, points: Indices) -> Array:
        """L⁻¹ times the covariance of histories and points, by points, for L the factor of the histories'."""
        at = self._places[points]
        if (at >= 0).all():
            return np.asarray(self._known[at])
        cross = self._told.to(self._scaled[points])
        cross *= self._told2[:, None]
        cross += self._linear2 * (self._told_inputs @ self._points[points].T)
        solved: Array = _lapack.dtrtrs(self._lower, cross, lower=1)[0].T
        return solved

    def between(self, points: Indices, others: Indices) -> Array:
        """Covariance of g + h given the histories, ``[len(points), len(others)]``.

        Tried points are asked for again and again with all that is untried: their rows are computed once.
        """
        if len(others) * FEW < len(self._points):
            return self.block(points, others)
        if self._others is not others:
            if self._others is None or not np.array_equal(self._others, others):
                # Of others than the first ones it is not known that they are the last.
                self._keep(others if self._others is None else self._all)
                self._rows.clear()
            self._others = others
        for point in map(int, points):
            if point not in self._rows:
                self._rows[point] = self._row(point, others)
        return np.stack([self._rows[int(point)] for point in points])

    def block(self, points: Indices, others: Indices) -> Array:
        """The same, of few points and others."""
        block = self._scaled.block(points, others)
        block *= self._shared2
        block += self._linear2 * (self._points[points] @ self._points[others].T)
        block -= self._told_of(points) @ self._told_of(others).T
        return block

    def _row(self, point: int, others: Indices) -> Array:
        row = self._scaled.between(np.array([point]), others)[0]
        row *= self._shared2
        row += self._linear2 * (self._points @ self._points[point])[others]
        row -= (self._known @ self._told_of(np.array([point]))[0])[self._places[others]]
        return np.asarray(row)

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
