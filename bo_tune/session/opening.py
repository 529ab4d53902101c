"""Opens studies: finds each one's candidates, and builds what proposes its configs and what searches it."""

import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import Future
from contextlib import contextmanager

from bo_tune.core.choices import GRID_GP
from bo_tune.core.conclusion import SHARED, Decision
from bo_tune.core.events import Listener
from bo_tune.core.problem import Problem
from bo_tune.core.study_name import StudyName
from bo_tune.measure.device import Build, Device
from bo_tune.measure.devices import Job
from bo_tune.processes.fork_server import ForkServer
from bo_tune.session.claims import Claims, note_space
from bo_tune.session.settings import SessionSettings
from bo_tune.store.storage import StoredStudy
from bo_tune.store.trials import State
from bo_tune.tuning.candidates import Candidates, candidates
from bo_tune.tuning.conclude import Search
from bo_tune.tuning.cost import cost
from bo_tune.tuning.history import Histories
from bo_tune.tuning.joint.decision import DecidedTuner
from bo_tune.tuning.joint.tuner import JointTuner
from bo_tune.tuning.proposer import InOrderProposer, Proposer, SamplerProposer
from bo_tune.tuning.search_pool import Recipe, SearchPool
from bo_tune.tuning.tuner import Tuner

LEARNING = (GRID_GP,)
"""Samplers that learn from other studies."""


class StudyOpener:
    """Opens or resumes the studies of a session.

    Args:
        histories: finished studies that teach the sampler.
        listener: called for every trial.
        stop: set when every study is to end after the trial under way.
        searches: forks search processes. By default a server is started when they are needed.
    """

    def __init__(
        self,
        claims: Claims,
        settings: SessionSettings,
        histories: Histories,
        listener: Listener,
        stop: threading.Event,
        searches: ForkServer | None,
    ) -> None:
        self._claims, self._settings, self._histories = claims, settings, histories
        self._listener, self._stop, self._searches = listener, stop, searches
        self._search: SearchPool | None = None
        self._active = 0
        self._active_lock = threading.Lock()

    @contextmanager
    def searching(self) -> Iterator[None]:
        """Run search processes for the duration of the context, if the settings want any."""
        count = self._settings.searchers
        self._search = SearchPool(count, self._searches) if count else None
        try:
            yield
        finally:
            if self._search is not None:
                self._search.close()
                self._search = None

    @contextmanager
    def counted(self) -> Iterator[None]:
        """Count a search as under way. How far each search looks ahead depends on their number."""
        with self._active_lock:
            self._active += 1
        try:
            yield
        finally:
            with self._active_lock:
                self._active -= 1

    def open(
        self,
        job: Job,
        *,
        joint: bool = False,
        decision: Decision | None = None,
        done: bool = False,
        stored: StoredStudy | None = None,
    ) -> Tuner:
        """Open or resume the study of a problem.

        Args:
            joint: whether its kernel must agree with others, either on a decision or in a ``JointTuner``.
            done: whether it is only read, and not written to.
            stored: the study, if it is not the one of the problem's name.
        """
        problem, device = job.problem, job.device
        settings = self._settings.of_study(job, decision)
        spec, name = job.spec, self._settings.name_of(job)
        space = device.search_space(spec, problem).override(settings.spaces.get(problem.kernel, {}))
        stored = stored or self._claims.stored(name, device.gpu)
        default = device.default_config(spec, problem)
        ahead = None if done else _begun_ahead(stored, device, problem, default)
        found = candidates(spec, problem, space, device, exhaustive=settings.exhaustive)
        if not done:
            note_space(stored, found, default)
        proposer = self._proposer(name, settings, device, found, default, learns=not done, joint=joint and not decision)
        return Tuner(
            problem,
            spec,
            device,
            stored,
            found,
            default,
            proposer,
            settings.tuner(),
            ahead=ahead,
            apart=SHARED if joint else None,
            layer=job.races_in(decided=decision is not None),
            lookahead=self._lookahead,
            listener=self._listener,
            stop=self._stop,
        )

    def _proposer(
        self,
        name: StudyName,
        settings: SessionSettings,
        device: Device,
        found: Candidates,
        default: dict[str, int],
        *,
        learns: bool,
        joint: bool,
    ) -> Proposer:
        """Return what proposes the study's configs.

        Args:
            learns: whether it will be asked for any proposal at all.
            joint: whether its proposals are made together with others', in this process.
        """
        if settings.exhaustive or not learns:
            return InOrderProposer(found.configs)
        learns = settings.sampler in LEARNING
        recipe = Recipe(
            sampler=settings.sampler,
            ranges=dict(found.space.ranges),
            valid=found.mask,
            default=default,
            problem=name.problem,
            gpu=device.gpu,
            prior=self._histories.prior(name, device.gpu) if learns else None,
            seed=self._settings.seed,
        )
        price = cost(device, name.problem, list(found.space))
        if self._search and learns and not joint:
            return self._search.proposer(recipe, price)
        return SamplerProposer(recipe.build(price), recipe.ranges)

    def open_together(self, jobs: Sequence[Job], decision: Decision | None = None) -> tuple[list[Tuner], Search]:
        """Open or resume the studies of problems that must agree, or of a single one, and build what searches them."""
        tuners = [self.open(job, joint=len(jobs) > 1, decision=decision) for job in jobs]
        settings = self._settings.of_group(jobs).of_study(jobs[0], decision).tuner()
        if decision is not None:
            return tuners, DecidedTuner(tuners, settings, decision)
        if len(jobs) == 1:
            return tuners, tuners[0]
        return tuners, JointTuner(tuners, settings, lookahead=self._lookahead, stop=self._stop)

    def _lookahead(self) -> int:
        return self._settings.lookahead(self._active)


def _begun_ahead(
    stored: StoredStudy, device: Device, problem: Problem, default: dict[str, int]
) -> Future[Build] | None:
    """Make a study ready to go on, and start what a new one needs in any case.

    Finding the candidates takes a moment, so inputs and the default config's binary are started now. Returns the future
    of the binary, or None if the study has trials.
    """
    counts = stored.counts()
    if State.RUNNING.name in counts:
        stored.fail_running()
    if counts:
        return None
    device.expect(problem)
    return device.compile(problem, default)
