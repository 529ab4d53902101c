"""Computes proposals in separate processes.

A session on a GPU has dozens of studies in flight. If their surrogates were all computed under one interpreter lock,
they would hold up the threads that feed the compilers and the GPU. So each study's sampler lives in one of a few search
processes. An ``OffloadedProposer`` in this process tells it what is new and asks for the next config. The same sampler
would have given the same answer here: it depends only on the seed, the study's content and the prices.
"""

import itertools
import threading
from collections import Counter
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from functools import singledispatchmethod
from typing import cast

import numpy as np
import optuna
from numpy.typing import NDArray
from optuna.study import Study
from optuna.trial import FrozenTrial, TrialState

from bo_tune.core.problem import GpuInfo, Problem
from bo_tune.core.space import Config
from bo_tune.errors import WorkerError
from bo_tune.kernels.registry import kernel_spec
from bo_tune.processes.fork_server import ForkServer
from bo_tune.processes.importing import LateModule
from bo_tune.processes.worker import Worker, serve
from bo_tune.search import (
    Certificate,
    Cost,
    FiniteGridSampler,
    Grid,
    GridExhaustedError,
    GridSampler,
    HistoryPrior,
    make_sampler,
)
from bo_tune.search.study_log import Observation, StudyLog, observed
from bo_tune.tuning.proposer import Proposal, certificate_of
from bo_tune.tuning.settings import SEARCH_MODULE, search_server

ANSWER_TIMEOUT_S = 300.0
"""A proposal takes milliseconds. A machine that needs this long is of no use for tuning."""


@dataclass(frozen=True, slots=True)
class Recipe:
    """Everything needed to build a study's sampler, here or in another process.

    Attributes:
        ranges: parameter name to values: the grid.
        valid: ``[C]``, the configs of the grid that may be proposed.
        default: the kernel's default config.
        prior: what other studies teach; None for a sampler that does not learn, or if there are none.
    """

    sampler: str
    ranges: Mapping[str, tuple[int, ...]]
    valid: NDArray[np.bool_]
    default: Mapping[str, int]
    problem: Problem
    gpu: GpuInfo
    prior: HistoryPrior | None
    seed: int

    def build(self, cost: Cost) -> GridSampler:
        """Build the sampler."""
        spec = kernel_spec(self.problem.kernel)
        return make_sampler(
            self.sampler,
            Grid(self.ranges, self.valid),
            default=self.default,
            features=lambda configs: spec.features(configs, self.problem, self.gpu),  # type: ignore[arg-type]
            is_generic=spec.is_generic,
            prior=self.prior,
            cost=cost,
            seed=self.seed,
        )


@dataclass(frozen=True, slots=True)
class _Open:
    study: int
    recipe: Recipe


@dataclass(frozen=True, slots=True)
class _News:
    """The part of a study that its search process does not know yet."""

    study: int
    observations: tuple[Observation, ...]
    pending: list[int]


@dataclass(frozen=True, slots=True)
class _Choose:
    """Asks for the next config. ``free`` and ``cost`` are of the whole grid, ``[C]``."""

    news: _News
    trial_number: int
    free: NDArray[np.bool_]
    cost: NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class _Certify:
    news: _News
    tolerance: float
    with_loss: bool


@dataclass(frozen=True, slots=True)
class _Prepare:
    study: int


@dataclass(frozen=True, slots=True)
class _Close:
    study: int


def before_forking() -> None:
    """Load once what every search process computes with."""
    LateModule.import_all()


class SearchPool:
    """A few search processes.

    Args:
        processes: how many.
        server: forks them. By default the pool has its own.
    """

    def __init__(self, processes: int, server: ForkServer | None = None) -> None:
        forks = server or search_server()
        self._own_server = None if server else forks
        self._workers = [Worker(forks, SEARCH_MODULE, []) for _ in range(processes)]
        self._threads = ThreadPoolExecutor(processes, thread_name_prefix="search-ahead")
        self._locks = [threading.Lock() for _ in range(processes)]
        self._places: dict[int, int] = {}
        self._numbers = itertools.count()
        self._lock = threading.Lock()

    def proposer(self, recipe: Recipe, cost: Cost) -> "OffloadedProposer":
        """Open a study in the process with the fewest studies, and return a proposer that asks that process."""
        with self._lock:
            number, busy = next(self._numbers), Counter(self._places.values())
            self._places[number] = min(range(len(self._workers)), key=lambda place: busy[place])
        self.ask(number, _Open(number, recipe))
        self._threads.submit(self._prepare, number)
        return OffloadedProposer(self, number, recipe, cost)

    def _prepare(self, study: int) -> None:
        """Build a study's model before its first config is measured. It takes some tenths of a second."""
        with suppress(WorkerError, KeyError):  # the next request reports it; the study may have been closed meanwhile
            self.ask(study, _Prepare(study))

    def ask(self, study: int, message: object) -> object:
        """Send a message to a study's process and return the answer. Raises WorkerError."""
        place = self._places[study]
        with self._locks[place]:
            return self._workers[place].request(message, ANSWER_TIMEOUT_S)

    def forget(self, study: int) -> None:
        """Have a study's process forget it. Raises WorkerError."""
        self.ask(study, _Close(study))
        del self._places[study]

    def close(self) -> None:
        """End the processes."""
        self._threads.shutdown(wait=False, cancel_futures=True)
        for worker in self._workers:
            worker.interrupt()
        self._threads.shutdown(wait=True)
        for worker in self._workers:
            worker.kill()
        if self._own_server is not None:
            self._own_server.close()


class OffloadedProposer:
    """A study's proposals, made in another process.

    It keeps only a log of the study, not an Optuna study: asking one for a config and telling it the result took a
    quarter of the core that a study takes here.
    """

    def __init__(self, pool: SearchPool, study: int, recipe: Recipe, cost: Cost) -> None:
        self._pool, self._study, self._cost = pool, study, cost
        self._grid = Grid(recipe.ranges, recipe.valid)
        self._log = StudyLog(self._grid)
        self._all = np.arange(len(self._grid))
        self._numbers = itertools.count()
        self._under_way: dict[int, int] = {}
        self._news: list[Observation] = []

    def learn(self, trial: FrozenTrial) -> None:
        self._observe(next(self._numbers), trial)

    def propose(self, config: Config | None = None) -> Proposal:
        number = next(self._numbers)
        index = self._choose(number) if config is None else self._grid.index(config)
        assert index is not None
        self._under_way[number] = index
        self._log.adopt((), tuple(self._under_way.values()))
        return Proposal(number, cast("dict[str, int]", self._grid[index]))

    def _choose(self, number: int) -> int:
        free = self._grid.valid & ~self._log.taken
        if not free.any():
            raise GridExhaustedError("all candidates have been tried")
        cost = self._cost(self._all).astype(np.float32)
        answer = self._pool.ask(self._study, _Choose(self._take_news(), number, free, cost))
        assert isinstance(answer, int)
        return answer

    def finish(self, proposal: Proposal, trial: FrozenTrial) -> None:
        del self._under_way[proposal.number]
        self._observe(proposal.number, trial)

    def forget(self, proposal: Proposal) -> None:
        self._log.fail(self._under_way.pop(proposal.number))
        self._log.adopt((), tuple(self._under_way.values()))

    def certificate(self, tolerance: float, *, with_loss: bool = False) -> Certificate | None:
        answer = self._pool.ask(self._study, _Certify(self._take_news(), tolerance, with_loss))
        assert answer is None or isinstance(answer, Certificate)
        return answer

    def close(self) -> None:
        """Have the other process forget the study."""
        self._pool.forget(self._study)

    def _observe(self, number: int, trial: FrozenTrial) -> None:
        observation = observed(self._grid, number, trial)
        self._news.append(observation)
        self._log.adopt((observation,), tuple(self._under_way.values()))

    def _take_news(self) -> _News:
        fresh, self._news = tuple(self._news), []
        return _News(self._study, fresh, self._log.pending)


@dataclass
class _Served:
    """A study in its search process."""

    recipe: Recipe
    study: Study = field(default_factory=optuna.create_study)

    def __post_init__(self) -> None:
        # Not a method, because then the study would be in a reference cycle and stay until the next garbage collection.
        cost = self._cost_of_all = np.ones(len(self.recipe.valid), dtype=np.float32)
        self._sampler = self.recipe.build(lambda indices: cost[indices].astype(float))
        self._log = self._sampler.adopt(self.study)

    def prepare(self) -> None:
        """Build the sampler's model, if any. Skipped for a default config off the grid, which would force a rebuild."""
        sampler = self._sampler
        if isinstance(sampler, FiniteGridSampler) and sampler.grid.index(self.recipe.default) is not None:
            sampler.model(self.study).points(())

    def take(self, news: _News) -> None:
        """Take in what is new."""
        self._log.adopt(news.observations, news.pending)

    def choose(self, request: _Choose) -> int:
        """Return the index of the config to try next."""
        self._cost_of_all[:] = request.cost
        trial = optuna.trial.create_trial(state=TrialState.RUNNING)
        trial.number = request.trial_number
        return self._sampler.choose(self.study, trial, self._log, request.free)

    def certificate(self, request: _Certify) -> Certificate | None:
        """Return how sure the model is."""
        return certificate_of(self._sampler, self.study, request.tolerance, with_loss=request.with_loss)


class _Server:
    """Answers the requests of a search process."""

    def __init__(self) -> None:
        self._studies: dict[int, _Served] = {}

    @singledispatchmethod
    def answer(self, request: object) -> object:
        """Answer one request."""
        raise TypeError(f"unknown request: {request!r}")

    @answer.register
    def _(self, request: _Open) -> None:
        self._studies[request.study] = _Served(request.recipe)

    @answer.register
    def _(self, request: _Prepare) -> None:
        if request.study in self._studies:  # comes from another thread, perhaps after the study's end
            self._studies[request.study].prepare()

    @answer.register
    def _(self, request: _Choose) -> int:
        served = self._studies[request.news.study]
        served.take(request.news)
        return served.choose(request)

    @answer.register
    def _(self, request: _Certify) -> Certificate | None:
        served = self._studies[request.news.study]
        served.take(request.news)
        return served.certificate(request)

    @answer.register
    def _(self, request: _Close) -> None:
        self._studies.pop(request.study, None)


def main(_arguments: list[str], fd: int) -> None:
    """Serve one parent."""
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    serve(fd, _Server().answer)
