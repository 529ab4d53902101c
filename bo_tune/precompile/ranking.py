"""Which binaries a study is likely to want, most wanted first: what to compile before a GPU is seen.

Notation
    q, c, r      a problem; one of its configs; a draw
    f_q(c)       log time of a config on a problem, ``[R, K]`` draws of it from what other studies teach
    b            a binary: what the kernel makes of (q, c) when it is compiled, shared by many (q, c)
    S            the binaries chosen so far, to begin with those of the default configs
    F_q(S)       min f_q(c) over the configs whose binary is in S: what a search that knew all could reach

Each step takes the binary that shortens the expected times most,
    gain(b) = Σ_q E[F_q(S) - F_q(S ∪ {b})],
the greedy solution of a facility-location problem, within 1 - 1/e of the best choice of as many binaries (Nemhauser,
Wolsey & Fisher 1978). Gains only shrink as S grows, so that most need no second look (Minoux 1978).

A search tries dozens of configs of every problem to find the best, and each without a binary costs a compile. So every
second binary is taken for breadth instead: the one that ranks highest, by promise, among the configs of any problem.

The draws come from the very prior that the sampler starts from (``search.prior``). Without histories it knows no
config to be better than another, and the gain is highest for binaries unlike all others: the space is filled.
"""

import heapq
from collections import defaultdict
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import inf
from typing import Protocol, cast

import numpy as np
from numpy.typing import NDArray
from scipy.linalg.lapack import dpotrf

from bo_tune.core.problem import Problem
from bo_tune.core.space import Config
from bo_tune.core.study_name import StudyName
from bo_tune.kernels.registry import kernel_spec
from bo_tune.kernels.spec import AnySpec
from bo_tune.search import Grid, HistoryPrior, StudyHistory
from bo_tune.search.gp.model import Points
from bo_tune.tuning.candidates import Asked, candidates
from bo_tune.tuning.history import descriptor

DRAWS = 48
"""R: of each problem's times."""

LOOKED_AT = 300
"""K: of a problem's configs, the most promising ones; the cost of drawing grows with its cube."""

PROMISE = 1.0
"""Standard deviations below its mean by which a config is judged promising."""

JITTER = 1e-6

Array = NDArray[np.float64]
Indices = NDArray[np.intp]


class Compiling(Asked, Protocol):
    """What is compiled for."""

    def kernel_source(self, kernel: str) -> str:
        """Return which code of a kernel is compiled."""

    def key(self, problem: Problem, config: Config) -> Hashable:
        """Return the compile key: equal for what shares one binary."""


@dataclass(frozen=True, slots=True)
class Wanted:
    """A binary to compile: its compile key, and a problem and a config that use it."""

    key: Hashable
    problem: Problem
    config: dict[str, int]


@dataclass(frozen=True, slots=True)
class _Draws:
    """The draws of one problem.

    Attributes:
        keys: compile key of each config drawn.
        times: f ``[K, R]``.
        default: f of the default config ``[R]``.
    """

    keys: list[Hashable]
    times: Array
    default: Array


class Likely:
    """Orders the binaries of many problems.

    Those that are sure to be wanted come first: of the default configs, and all of kernels that decide for others.

    Args:
        target: what is compiled for.
        histories: of a problem, what is known of its kernel on it and on others.
        spaces: ranges that replace the kernels' own, by kernel.
        exhaustive: whether what is not worth compiling is wanted too.
        seed: of the draws.
    """

    def __init__(
        self,
        target: Compiling,
        histories: Callable[[Problem], Sequence[StudyHistory]],
        *,
        spaces: Mapping[str, Mapping[str, tuple[int, ...]]],
        exhaustive: bool = False,
        seed: int = 0,
    ) -> None:
        self._target, self._histories, self._spaces = target, histories, spaces
        self._exhaustive, self._seed = exhaustive, seed
        self._wanted: dict[Hashable, Wanted] = {}
        self._defaults: dict[Hashable, None] = {}
        self._rank: defaultdict[Hashable, float] = defaultdict(lambda: inf)
        self._draws: list[_Draws] = []

    def __len__(self) -> int:
        return len(self._wanted)

    def __iter__(self) -> Iterator[Wanted]:
        """Yield every binary once, most wanted first."""
        chosen = _Chosen(self._draws)
        for key in self._defaults:
            chosen.take(key)
            yield self._wanted[key]
        for key in sorted(self._wanted, key=self._rank.__getitem__):
            best = None if key in chosen else chosen.best()
            for one in (best, key):
                if one is not None and one not in chosen:
                    chosen.take(one)
                    yield self._wanted[one]

    def add(self, problem: Problem) -> None:
        """Take a problem's binaries into account."""
        spec = kernel_spec(problem.kernel)
        space = spec.search_space.override(self._spaces.get(problem.kernel, {}))
        found = candidates(spec, problem, space, self._target, exhaustive=self._exhaustive)
        default = self._target.default_config(spec, problem)
        self._defaults[self._note(problem, default)] = None
        keys = [self._note(problem, config) for config in found.configs]
        if spec.decides:  # searched exhaustively
            self._defaults |= dict.fromkeys(keys)
        if not keys:
            return
        grid = Grid(space.ranges, found.__contains__)
        points = self._points(spec, problem, grid, default)
        places = np.array([grid.index(config) for config in found.configs], dtype=np.intp)
        mean, deviation = points.surrogate.mean(places), np.sqrt(points.surrogate.variance(places))
        promise = mean - PROMISE * deviation
        for rank, place in enumerate(np.argsort(promise, kind="stable")):
            self._rank[keys[place]] = min(self._rank[keys[place]], rank)
        at = grid.index(default)
        self._draw(keys, promise, points, places, len(grid) if at is None else at)

    def _note(self, problem: Problem, config: Config) -> Hashable:
        key = self._target.key(problem, config)
        if key not in self._wanted:
            self._wanted[key] = Wanted(key, problem, dict(config))
        return key

    def _points(self, spec: AnySpec, problem: Problem, grid: Grid, default: Config) -> Points:
        """The model that a sampler of this problem starts with, at every config of the grid and at the default."""
        gpu = self._target.gpu
        known = self._histories(problem)
        place = StudyName(problem, gpu.name, self._target.kernel_source(problem.kernel)).place
        return Points(
            grid,
            [] if grid.index(default) is not None else [dict(default)],
            lambda configs: spec.features(cast(Sequence[Config], configs), problem, gpu),
            HistoryPrior(known, descriptor=descriptor(problem, gpu), place=place) if known else None,
        )

    def _draw(self, keys: Sequence[Hashable], promise: Array, points: Points, places: Indices, default: int) -> None:
        """Draw times of the most promising configs; equally promising ones are taken at random."""
        rng = np.random.default_rng(self._seed)
        chosen = np.lexsort((rng.permutation(len(keys)), promise))[:LOOKED_AT]
        asked = np.append(places[chosen], default)
        covariance = points.surrogate.covariance(asked, asked)
        covariance[np.diag_indices_from(covariance)] += JITTER
        lower, failed = dpotrf(covariance, lower=1, clean=1)
        assert not failed
        times = points.surrogate.mean(asked)[:, None] + lower @ rng.standard_normal((len(asked), DRAWS))
        self._draws.append(_Draws([keys[i] for i in chosen], times[:-1], times[-1]))


class _Chosen:
    """S, and what its problems can reach with it."""

    def __init__(self, draws: Sequence[_Draws]) -> None:
        self._draws = draws
        self._rows: defaultdict[Hashable, list[tuple[int, int]]] = defaultdict(list)
        for q, drawn in enumerate(draws):
            for row, key in enumerate(drawn.keys):
                self._rows[key].append((q, row))
        self._reached = [drawn.default.copy() for drawn in draws]
        self._keys: set[Hashable] = set()
        self._heap = [(-self._gain(key), number, key) for number, key in enumerate(self._rows)]
        heapq.heapify(self._heap)

    def __contains__(self, key: Hashable) -> bool:
        return key in self._keys

    def take(self, key: Hashable) -> None:
        """Add a binary."""
        self._keys.add(key)
        for q, row in self._rows.get(key, ()):
            np.minimum(self._reached[q], self._draws[q].times[row], out=self._reached[q])

    def best(self) -> Hashable | None:
        """Return the binary of most gain; None where there is no gain left."""
        while self._heap and self._heap[0][0] < 0.0:
            _, number, key = heapq.heappop(self._heap)
            gain = self._gain(key)
            if self._heap and -gain > self._heap[0][0]:
                heapq.heappush(self._heap, (-gain, number, key))
            elif gain > 0.0:
                return key
        return None

    def _gain(self, key: Hashable) -> float:
        rows = self._rows[key]
        return sum(float(np.maximum(self._reached[q] - self._draws[q].times[row], 0.0).sum()) for q, row in rows)
