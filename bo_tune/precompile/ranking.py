"""Ranks the binaries that studies are likely to want, so that the most wanted are compiled first.

A search tries dozens of configs of every problem, and each config without a binary costs a compile. The configs of each
problem are ranked, and a binary is wanted as much as its best-ranked config. Configs are judged by the same prior from
which the sampler starts (``search.prior``): by the mean of their log times, less a standard deviation. Without
histories, the prior knows no config to be better than another. They then come in random order, which fills the space.
"""

from collections import defaultdict
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import inf
from typing import Protocol, cast

import numpy as np
from numpy.typing import NDArray

from bo_tune.core.problem import Problem
from bo_tune.core.space import Config
from bo_tune.core.study_name import StudyName
from bo_tune.kernels.registry import kernel_spec
from bo_tune.kernels.spec import AnySpec
from bo_tune.search import Grid, HistoryPrior, StudyHistory
from bo_tune.search.gp.model import Points
from bo_tune.tuning.candidates import Asked, candidates
from bo_tune.tuning.history import descriptor

ALIKE = 1e-9
"""Log times that differ by less than this are equal except for rounding."""


class Compiling(Asked, Protocol):
    """The target to compile for."""

    def kernel_source(self, kernel: str) -> str:
        """Return which code of a kernel is compiled."""

    def key(self, problem: Problem, config: Config) -> Hashable:
        """Return the compile key, which is equal for configs that share one binary."""


@dataclass(frozen=True, slots=True)
class Wanted:
    """A binary to compile: its compile key, and a problem and a config that use it."""

    key: Hashable
    problem: Problem
    config: dict[str, int]


class Likely:
    """Orders the binaries of many problems.

    Those that are sure to be wanted come first: the default configs', and all of kernels that decide for others.

    Args:
        target: the target to compile for.
        histories: returns what is known of a problem's kernel, on this problem and on others.
        spaces: ranges that replace the kernels' own, by kernel.
        exhaustive: whether binaries that are not worth compiling are wanted too.
        seed: of the order of equally promising configs.
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
        self._rank: defaultdict[Hashable, float] = defaultdict(lambda: inf)

    def __len__(self) -> int:
        return len(self._wanted)

    def __iter__(self) -> Iterator[Wanted]:
        """Yield every binary once, most wanted first."""
        return iter(sorted(self._wanted.values(), key=lambda wanted: self._rank[wanted.key]))

    def add(self, problem: Problem) -> None:
        """Add a problem's binaries."""
        spec = kernel_spec(problem.kernel)
        space = spec.search_space.override(self._spaces.get(problem.kernel, {}))
        found = candidates(spec, problem, space, self._target, exhaustive=self._exhaustive)
        self._note(problem, self._target.default_config(spec, problem), rank=-1)
        grid = Grid(space.ranges, found.__contains__)
        configs = found.configs
        for rank, at in enumerate(self._order(spec, problem, grid, configs)):
            self._note(problem, configs[at], rank=-1 if spec.decides else rank)  # deciders are searched exhaustively

    def _note(self, problem: Problem, config: Config, rank: int) -> None:
        key = self._target.key(problem, config)
        self._wanted.setdefault(key, Wanted(key, problem, dict(config)))
        self._rank[key] = min(self._rank[key], rank)

    def _order(self, spec: AnySpec, problem: Problem, grid: Grid, configs: Sequence[Config]) -> NDArray[np.intp]:
        """Return the positions of configs, the most promising first, as a sampler of this problem would judge them."""
        if not configs:
            return np.empty(0, dtype=np.intp)
        gpu, known = self._target.gpu, self._histories(problem)
        place = StudyName(problem, gpu.name, self._target.kernel_source(problem.kernel)).place
        points = Points(
            grid,
            [],
            lambda configs: spec.features(cast(Sequence[Config], configs), problem, gpu),
            HistoryPrior(known, descriptor=descriptor(problem, gpu), place=place) if known else None,
        )
        at = np.array([grid.index(config) for config in configs], dtype=np.intp)
        promise = points.surrogate.mean(at) - np.sqrt(points.surrogate.variance(at))
        shuffled = np.random.default_rng(self._seed).permutation(len(configs))
        return np.lexsort((shuffled, np.round(promise / ALIKE)))
