"""Collects what is already known of a kernel: the histories from which a sampler's prior learns.

They come from the database and from the grids that come with the package.
"""

import threading
import time
from collections import defaultdict
from collections.abc import Hashable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import cache
from heapq import heapify, heappop
from math import log2

import numpy as np
from optuna.trial import FrozenTrial

from bo_tune.core.problem import GpuInfo, Problem
from bo_tune.core.space import Config
from bo_tune.core.study_name import StudyName
from bo_tune.kernels.registry import is_known, kernel_spec
from bo_tune.search import HistoryPrior, StudyHistory
from bo_tune.search.gp.prior import MOST_STUDIES, distance
from bo_tune.store.storage import StudyStore
from bo_tune.store.trials import time_us
from bo_tune.tuning.bundled import BundledGrid, bundled_grids

FEWEST_TRIALS = 5
"""A study with fewer timed trials than this teaches nothing."""

LISTED_FOR_S = 5.0
"""For how long a listing of the database is used."""

MOST_READ = 300
"""Studies whose trials are kept in memory, some ten KiB each."""


def descriptor(problem: Problem, gpu: GpuInfo) -> dict[str, float]:
    """Describe a problem by numbers in which a difference of 1 matters alike: log2 of its sizes and of the GPU's."""
    return {**problem.numbers, "sm_count": log2(gpu.sm_count)}


@dataclass(frozen=True)
class _Alike:
    """The finished studies of one problem and place. Only the one that knows most teaches.

    Attributes:
        key: orders groups that are equally near.
        members: each study with its number in the database; None for a bundled grid.
    """

    key: str
    descriptor: Mapping[str, float]
    members: dict[StudyName, int | None] = field(default_factory=dict)

    @property
    def is_bundled_search(self) -> bool:
        """Whether nothing but searches that come with the package is known of it."""
        return all(number is None and not name.exhaustive for name, number in self.members.items())


@dataclass
class _Kernel:
    """Lists the finished studies of a kernel, without their content."""

    groups: dict[tuple[Problem, tuple[str, str, str]], _Alike] = field(default_factory=dict)
    numbers: set[int] = field(default_factory=set)
    listed_at: float = float("-inf")

    def add(self, name: StudyName, gpu: GpuInfo, number: int | None) -> None:
        """Add a study."""
        group = self.groups.setdefault((name.problem, name.place), _Alike(str(name), descriptor(name.problem, gpu)))
        group.members[name] = number
        if number is not None:
            self.numbers.add(number)


class Histories:
    """The finished studies of a database, and the grids that come with the package. Safe to use from several threads.

    There may be tens of thousands. Only those that teach are read: the nearest of the same kernel. Loading the trials
    of hundreds of studies anew for each study that begins would take longer than tuning, so what was read last is kept.
    """

    def __init__(self, store: StudyStore, *, bundled: bool) -> None:
        self._store = store
        self._kernels: defaultdict[str, _Kernel] = defaultdict(_Kernel)
        self._read: dict[StudyName, StudyHistory | None] = {}
        self._lock = threading.Lock()
        for grid in bundled_grids() if bundled else ():
            self._kernels[grid.name.problem.kernel].add(grid.name, grid.gpu, None)

    def of(self, problem: Problem, gpu: GpuInfo, place: Hashable = None) -> list[StudyHistory]:
        """Return what is known of the same kernel on other problems or GPUs: the nearest, of the same place first.

        A study of this very problem on this GPU is left out, whatever measured it: an exhaustive one would give away
        what a search is to find. Of several studies of one problem and place, the one that knows most is taken. A study
        that another process has finished is found after a few seconds. The searches that come with the package teach
        elsewhere than at their own place only if there are too few grids: with them in the place of grids, eight H100
        problems were at 0.9 % after 20 configs instead of 0.3 %.
        """
        here = descriptor(problem, gpu)
        with self._lock:
            self._list(problem.kernel)
            ranked = [
                (
                    there != place,
                    there != place and alike.is_bundled_search,
                    distance(alike.descriptor, here),
                    alike.key,
                    number,
                    alike,
                )
                for number, ((theirs, there), alike) in enumerate(self._kernels[problem.kernel].groups.items())
                if (theirs, there[0]) != (problem, gpu.name)
            ]
            heapify(ranked)
            found: list[StudyHistory] = []
            while ranked and len(found) < MOST_STUDIES:
                history = self._best(heappop(ranked)[-1])
                found += [] if history is None else [history]
            return found

    def prior(self, name: StudyName, gpu: GpuInfo) -> HistoryPrior | None:
        """Return what a new study is taught, or None if nothing is known of its kernel."""
        known = self.of(name.problem, gpu, name.place)
        return HistoryPrior(known, descriptor=descriptor(name.problem, gpu), place=name.place) if known else None

    def learn(self, name: StudyName, gpu: GpuInfo, number: int, trials: Iterable[FrozenTrial]) -> None:
        """Add a study that has just finished, without reading it from the database.

        Args:
            number: its number in the database.
        """
        history = history_of(trials, name, gpu)
        with self._lock:
            self._kernels[name.problem.kernel].add(name, gpu, number)
            self._keep(name, history)

    def _list(self, kernel: str) -> None:
        """List the studies that have been finished since the last listing."""
        known, now = self._kernels[kernel], time.monotonic()
        if now - known.listed_at >= LISTED_FOR_S and is_known(kernel):
            for number, (name, gpu) in self._store.finished(kernel, known.numbers).items():
                known.add(name, gpu, number)
            known.listed_at = now

    def _best(self, alike: _Alike) -> StudyHistory | None:
        """Return the history of the study that knows most of these, or None if all know too little."""
        new = {number: name for name, number in alike.members.items() if name not in self._read and number is not None}
        summaries = self._store.summaries(ids=list(new)) if new else []
        trials = self._store.trials_of(summaries)
        for name in new.values():
            self._keep(name, None)
        for summary in summaries:
            if summary.name in trials:
                self._keep(summary.name, history_of(trials[summary.name], summary.name, summary.gpu))
        found = [
            (name.exhaustive, len(history.times), str(name), history)
            for name, number in alike.members.items()
            if (history := self._read.get(name) if number is not None else bundled_history(name)) is not None
        ]
        return max(found, key=lambda one: one[:3])[-1] if found else None

    def _keep(self, name: StudyName, history: StudyHistory | None) -> None:
        """Keep what was read. If there is too much, drop what was read first."""
        self._read.pop(name, None)
        self._read[name] = history
        if len(self._read) > MOST_READ:
            del self._read[next(iter(self._read))]


def history_of(trials: Iterable[FrozenTrial], name: StudyName, gpu: GpuInfo) -> StudyHistory | None:
    """Return what the trials of a study teach, or None if they are too few."""
    timed = [(dict(t.params), time_us(t)) for t in trials]
    return history_from([(config, took) for config, took in timed if took is not None], name, gpu)


def history_from(timed: Iterable[tuple[Config, float]], name: StudyName, gpu: GpuInfo) -> StudyHistory | None:
    """Return what configs and their times in us teach, or None if they are too few."""
    spec = kernel_spec(name.problem.kernel)
    known = [(config, took) for config, took in timed if spec.understands(config, name.problem)]
    if len(known) < FEWEST_TRIALS:
        return None
    configs = [config for config, _ in known]
    features = spec.features(configs, name.problem, gpu)
    times = np.array([took for _, took in known], dtype=float)
    return StudyHistory(features, times, configs, descriptor(name.problem, gpu), name.place)


@cache
def bundled_history(name: StudyName) -> StudyHistory | None:
    """Return what a study that comes with the package teaches."""
    grid = _bundled()[name]
    return history_from(zip(grid.configs, grid.times_us, strict=True), grid.name, grid.gpu)


@cache
def _bundled() -> Mapping[StudyName, BundledGrid]:
    return {grid.name: grid for grid in bundled_grids()}
