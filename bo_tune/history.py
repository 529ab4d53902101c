"""What is known of a kernel already, in the database and from grids that come with the package: the histories that a
sampler's prior learns from."""

import threading
import time
from collections.abc import Hashable, Iterable, Mapping
from functools import cache
from math import log2

import numpy as np
from optuna.trial import FrozenTrial

from bo_tune.bundled import bundled_grids
from bo_tune.kernels.registry import is_known, kernel_spec
from bo_tune.problem import AnyProblem, GpuInfo
from bo_tune.search import HistoryPrior, StudyHistory
from bo_tune.space import Config
from bo_tune.store.attributes import RESULT_ATTR
from bo_tune.store.storage import StudyStore
from bo_tune.store.study_name import StudyName
from bo_tune.store.trials import time_us

FEWEST_TRIALS = 5
"""A study with fewer trials that have a time teaches nothing."""

LISTED_FOR_S = 5.0
"""For how long a listing of the database serves."""


def descriptor(problem: AnyProblem, gpu: GpuInfo) -> dict[str, float]:
    """Describe a problem by numbers of which a difference of 1 matters alike: log2 of its sizes and of the GPU's."""
    return {**problem.numbers, "sm_count": log2(gpu.sm_count)}


class Histories:
    """The finished studies of a database, and the grids that come with the package. Safe to use from several threads.

    Each study is read once: loading the trials of hundreds of studies anew for each that begins would take longer than
    tuning.
    """

    def __init__(self, store: StudyStore, *, bundled: bool) -> None:
        self._store = store
        self._known: dict[StudyName, StudyHistory | None] = dict(bundled_histories()) if bundled else {}
        self._listed_at: float | None = None
        self._lock = threading.Lock()

    def of(self, problem: AnyProblem, gpu: GpuInfo) -> list[StudyHistory]:
        """Return what is known of the same kernel on other problems, or on other GPUs, in order of name.

        A study of this very problem on this GPU is left out, whatever measured it: an exhaustive one would give
        away what a search is to find. Of several of one problem and place the one that knows most is taken. A study
        that another process finished is found after a few seconds.
        """
        with self._lock:
            self._read_new()
            found = [
                (name, history)
                for name, history in self._known.items()
                if history is not None
                and name.problem.kernel == problem.kernel
                and (name.problem, name.gpu) != (problem, gpu.name)
            ]
        best: dict[Hashable, tuple[StudyName, StudyHistory]] = {}
        for name, history in sorted(found, key=lambda one: (one[0].exhaustive, len(one[1].times), str(one[0]))):
            best[name.problem, name.place] = name, history
        return [history for _, history in sorted(best.values(), key=lambda one: str(one[0]))]

    def prior(self, name: StudyName, gpu: GpuInfo) -> HistoryPrior | None:
        """Return what a new study is taught; None where nothing is known of its kernel."""
        known = self.of(name.problem, gpu)
        return HistoryPrior(known, descriptor=descriptor(name.problem, gpu), place=name.place) if known else None

    def learn(self, name: StudyName, gpu: GpuInfo, trials: Iterable[FrozenTrial]) -> None:
        """Take in a study that has just finished, without reading it."""
        history = history_of(trials, name, gpu)
        with self._lock:
            self._known[name] = history

    def _read_new(self) -> None:
        now = time.monotonic()
        if self._listed_at is not None and now - self._listed_at < LISTED_FOR_S:
            return
        new = [
            summary
            for summary in self._store.summaries()
            if RESULT_ATTR in summary.attributes
            and summary.name not in self._known
            and is_known(summary.name.problem.kernel)
        ]
        trials = self._store.trials_of(new)
        for summary in new:
            readable = trials.get(summary.name)
            known = None if readable is None else history_of(readable, summary.name, summary.gpu)
            self._known[summary.name] = known
        self._listed_at = now


def history_of(trials: Iterable[FrozenTrial], name: StudyName, gpu: GpuInfo) -> StudyHistory | None:
    """Return what the trials of a study teach, or None where they are too few."""
    timed = [(dict(t.params), time_us(t)) for t in trials]
    return history_from([(config, took) for config, took in timed if took is not None], name, gpu)


def history_from(timed: Iterable[tuple[Config, float]], name: StudyName, gpu: GpuInfo) -> StudyHistory | None:
    """Return what configs and their times in us teach, or None where they are too few."""
    spec = kernel_spec(name.problem.kernel)
    known = [(config, took) for config, took in timed if spec.speaks_of(config, name.problem)]
    if len(known) < FEWEST_TRIALS:
        return None
    configs = [config for config, _ in known]
    features = spec.features(configs, name.problem, gpu)
    times = np.array([took for _, took in known], dtype=float)
    return StudyHistory(features, times, configs, descriptor(name.problem, gpu), name.place)


@cache
def bundled_histories() -> Mapping[StudyName, StudyHistory | None]:
    """Return what the grids that come with the package teach."""
    grids = bundled_grids()
    return {g.name: history_from(zip(g.configs, g.times_us, strict=True), g.name, g.gpu) for g in grids}
