"""What a proposal with its certificate costs the core that computes it, by the number of trials.

``python benchmarks/latency.py --searches 3`` searches the largest of the bundled grids (3,200 configs) and a made-up
one of 11,130 configs, once with nothing to learn from and once taught, and asks for the certificate after every trial.
Of each trial the least of the repeated searches counts. Printed are ms of the computing thread's CPU time: the median,
and the mean, which has the refits in it.
"""

import argparse
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from math import inf, isfinite, prod
from pathlib import Path

import numpy as np
import optuna
from optuna.trial import FrozenTrial, TrialState

from bo_tune.core.choices import GRID_GP, MEMORY
from bo_tune.core.conclusion import Certificate
from bo_tune.core.space import Config
from bo_tune.formats.recording import read_recordings
from bo_tune.measure.devices import replay_job
from bo_tune.processes.threads import one_blas_thread
from bo_tune.search import FiniteGridSampler, Grid, HistoryPrior, StudyHistory, certify, distributions
from bo_tune.search.grid import Array, Params
from bo_tune.session.session import Session, SessionSettings
from bo_tune.store.storage import StudyStore
from bo_tune.tuning.proposer import Proposal, Proposer
from bo_tune.tuning.tuner import Tuner

BOUNDS = (2, 17, 28, 49, 81, 161)
"""Trials are told of in groups that begin at these numbers: up to 16 the model is fitted anew after every trial."""

DIMENSIONS = {
    "block_x": (1, 2, 4, 8, 16, 32),
    "block_y": tuple(range(32, 257, 8)),
    "tile_x": (1, 2, 3, 4),
    "tile_y": (1, 2, 3, 4, 5, 6, 7, 8),
    "stride_x": (0, 1),
    "stride_y": (0, 1),
}
"""Of the made-up grid: those of a public one."""

CONFIGS = 11_130
"""Of its configs, those that may be proposed."""

TEACHERS = 2

Spent = tuple[int, float]
"""A number of trials, and what proposing the last of them and the certificate after it took, in s."""


@dataclass
class Clocked:
    """A proposer whose answers are timed, in CPU seconds of the calling thread: others store trials meanwhile."""

    proposer: Proposer
    seconds: float = 0.0

    def propose(self, config: Config | None = None) -> Proposal:
        """See ``Proposer``."""
        before = time.thread_time()
        proposal = self.proposer.propose(config)
        self.seconds += time.thread_time() - before
        return proposal

    def certificate(self, tolerance: float, *, with_loss: bool = False) -> Certificate | None:
        """See ``Proposer``."""
        before = time.thread_time()
        certificate = self.proposer.certificate(tolerance, with_loss=with_loss)
        self.seconds += time.thread_time() - before
        return certificate

    def learn(self, trial: FrozenTrial) -> None:
        """See ``Proposer``."""
        self.proposer.learn(trial)

    def finish(self, proposal: Proposal, trial: FrozenTrial) -> None:
        """See ``Proposer``."""
        self.proposer.finish(proposal, trial)

    def forget(self, proposal: Proposal) -> None:
        """See ``Proposer``."""
        self.proposer.forget(proposal)

    def close(self) -> None:
        """See ``Proposer``."""
        self.proposer.close()


def recorded(folder: Path, last: int, *, taught: bool) -> Iterator[Iterator[Spent]]:
    """Yield a search of each of the largest grids of a folder."""
    recordings = read_recordings(folder)
    largest = max(len(r.space) for r in recordings)
    recordings = [r for r in recordings if len(r.space) == largest]
    teachers = StudyStore(MEMORY)
    if taught:
        Session(teachers, SessionSettings(GRID_GP, 40)).run([replay_job(r) for r in recordings])
    for recording in recordings:
        session = Session(StudyStore(MEMORY), SessionSettings(GRID_GP, last, bundled=taught), history=teachers)
        yield tuned(session.opener.open(replay_job(recording)), last)


def tuned(tuner: Tuner, last: int) -> Iterator[Spent]:
    """Tune, and yield what each trial took."""
    clock = tuner.proposer = Clocked(tuner.proposer)
    for budget in range(2, last + 1):
        before = clock.seconds
        tuner.search(budget)
        assert tuner.certificate is not None
        yield budget, clock.seconds - before


@dataclass(frozen=True)
class MadeUp:
    """A grid with times for as many GPUs as one likes: alike, with a cliff and a few configs that cannot run."""

    grid: Grid

    @classmethod
    def standard(cls) -> "MadeUp":
        """The one that is timed."""
        size = prod(map(len, DIMENSIONS.values()))
        kept = np.zeros(size, dtype=bool)
        kept[np.random.default_rng(0).choice(size, CONFIGS, replace=False)] = True
        return cls(Grid(DIMENSIONS, kept))

    @cached_property
    def _encoded(self) -> Array:
        raw = self.grid.encode(self.grid.configs)
        return np.asarray((raw - raw.mean(axis=0)) / raw.std(axis=0))

    def times(self, gpu: int) -> Array:
        """Return the time of each config on a GPU, ``[C]``; NaN where it does not run."""
        x, own = self._encoded, np.random.default_rng([1, gpu])
        all_alike = np.random.default_rng(1).normal(0.0, 0.3, x.shape[1])
        tilt = all_alike + own.normal(0.0, 0.1, x.shape[1])
        log_time = x @ tilt + 0.1 * (x * x).sum(axis=1) + 0.4 * (x[:, 0] + x[:, 1] > 1.0)
        return np.where(x[:, 0] + x[:, 4] > 3.0, np.nan, np.exp(log_time + own.normal(0.0, 0.01, len(x))))

    def taught(self) -> HistoryPrior:
        """What the grids of two other GPUs teach."""
        histories = []
        for gpu in range(1, 1 + TEACHERS):
            times = self.times(gpu)
            ran = np.flatnonzero(np.isfinite(times) & self.grid.valid)
            configs = [self.grid[int(index)] for index in ran]
            histories.append(StudyHistory(undescribed(configs), times[ran], configs, place=gpu))
        return HistoryPrior(histories, place=0)

    def searched(self, last: int, *, taught: bool) -> Iterator[Spent]:
        """Search, and yield what each trial took."""
        times = self.times(0)
        sampler = FiniteGridSampler(self.grid, features=undescribed, prior=self.taught() if taught else None)
        study, ranges = optuna.create_study(sampler=sampler), distributions(DIMENSIONS)
        for trials in range(1, last + 1):
            before = time.thread_time()
            trial = study.ask(ranges)
            seconds = time.thread_time() - before
            index = self.grid.index(trial.params)
            assert index is not None
            found = float(times[index])
            study.tell(trial, found, state=None) if isfinite(found) else study.tell(trial, state=TrialState.PRUNED)
            before = time.thread_time()
            certify(sampler, study)
            yield trials, seconds + time.thread_time() - before


def undescribed(configs: Sequence[Params]) -> Array:
    """Features that say nothing."""
    return np.zeros((len(configs), 0))


def least(searches: Iterable[Iterable[Iterable[Spent]]]) -> dict[int, list[float]]:
    """Return by number of trials what each search took, in ms: of searches that are alike, the least."""
    found: dict[tuple[int, int], float] = {}
    for again in searches:
        for which, search in enumerate(again):
            for trials, seconds in search:
                found[which, trials] = min(1e3 * seconds, found.get((which, trials), inf))
    grouped: dict[int, list[float]] = {}
    for (_, trials), ms in found.items():
        grouped.setdefault(trials, []).append(ms)
    return grouped


def table(name: str, ms: Mapping[int, Sequence[float]]) -> Iterator[str]:
    """Yield a row for each group of trials."""
    for first, beyond in pairwise(BOUNDS):
        group = [one for trials, found in ms.items() if first <= trials < beyond for one in found]
        if group:
            rung = f"{first}-{min(beyond - 1, max(ms))}"
            yield f"| {name} | {rung} | {np.median(group):.2f} | {np.mean(group):.2f} |"


def main() -> None:
    """Run what the command line says."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--recordings", type=Path, default=Path("studies/recordings"))
    parser.add_argument("--trials", type=int, default=80)
    parser.add_argument("--searches", type=int, default=3, help="how often each search is repeated")
    options = parser.parse_args()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    last, again = options.trials, range(options.searches)
    print("| search | trials | median ms | mean ms |", "|---|---|---|---|", sep="\n")
    with one_blas_thread():
        for taught in (False, True):
            knows = "taught" if taught else "cold"
            ms = least(recorded(options.recordings, last, taught=taught) for _ in again)
            print(*table(f"3,200 configs, {knows}", ms), sep="\n", flush=True)
        made_up = MadeUp.standard()
        for taught in (False, True):
            knows = "taught" if taught else "cold"
            ms = least([made_up.searched(last, taught=taught)] for _ in again)
            print(*table(f"{CONFIGS:,} configs, {knows}", ms), sep="\n", flush=True)


if __name__ == "__main__":
    main()
