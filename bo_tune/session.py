"""Many studies tuned together, over shared devices and one database."""

import threading
import time
import uuid
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import FIRST_EXCEPTION, Future, ThreadPoolExecutor, wait
from contextlib import AbstractContextManager, contextmanager
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from typing import cast

import numpy as np
from threadpoolctl import threadpool_limits

from bo_tune.activity import DeviceActivity, SessionActivity
from bo_tune.candidates import Candidates, candidates
from bo_tune.devices import Job
from bo_tune.errors import DeviceError
from bo_tune.events import Listener, StudyFailed, StudyFinished, StudyStarted, ignore
from bo_tune.finalists import Finalists
from bo_tune.history import Histories, descriptor
from bo_tune.kernels.registry import kernel_spec
from bo_tune.kernels.spec import KernelSpec
from bo_tune.measure.device import Device
from bo_tune.outcome import Launches
from bo_tune.problem import Problem
from bo_tune.provenance import Provenance
from bo_tune.results import StudyResult, costs_of, covered_s, intervals_of
from bo_tune.sampler_names import GRID, GRID_GP
from bo_tune.search import Cost, HistoryPrior, StopRule, make_sampler
from bo_tune.space import Config
from bo_tune.storage import RESULT_ATTR, SPACE_ATTR, StoredStudy, StudyName, StudyStore
from bo_tune.tables import TunedEntry
from bo_tune.tuner import InterruptedSearch, Tuner, TunerSettings

LEARNING = (GRID_GP,)
"""Samplers that learn from other studies."""

COST_OF_COMPILED = 0.1
"""Cost of a config whose binary exists over one to be compiled: 2 to 5 ms of GPU against 40 to 70 ms of compilers."""

EXHAUSTIVE_FINALISTS = Finalists(count=48, rounds=60)
"""The best of thousands is partly the luckiest: more of them are looked at again, and for longer."""

EXHAUSTIVE_LOOKAHEAD = 64
"""An exhaustive search compiles this many configs ahead: it knows them all beforehand."""

MOST_LOOKAHEAD = 8
"""A search that learns proposes at most this many configs at once, however many compilers idle."""


@dataclass(frozen=True, slots=True)
class SessionSettings:
    """How the studies of a session are searched.

    Attributes:
        sampler: name of a sampler; ``grid`` searches exhaustively.
        budget: configs to launch in each study; None for every candidate.
        seed: of samplers; with the study's content it determines every proposal.
        in_flight: studies worked on at once.
        compilers: compile processes that the studies share.
        stop_rule: when a study may end before its budget; None for never.
        spaces: ranges that replace the kernels' own, by kernel.
    """

    sampler: str = GRID_GP
    budget: int | None = 40
    seed: int = 0
    finalists: Finalists = Finalists()
    in_flight: int = 1
    compilers: int = 1
    stop_rule: StopRule | None = None
    spaces: Mapping[str, Mapping[str, tuple[int, ...]]] = field(default_factory=dict)

    @property
    def exhaustive(self) -> bool:
        """Whether every candidate is tried."""
        return self.sampler == GRID

    def tuner(self) -> TunerSettings:
        """Return the settings of each study's tuner."""
        if self.exhaustive:
            return TunerSettings(self.budget, EXHAUSTIVE_FINALISTS, stop_slow=False)
        return TunerSettings(self.budget, self.finalists, stop_rule=self.stop_rule)


@dataclass(frozen=True, slots=True)
class Tuned:
    """One finished study of a session: its result, and the tuner that holds its trials."""

    job: Job
    name: StudyName
    result: StudyResult | None
    tuner: Tuner


class Session:
    """Tunes problems, several at a time.

    Args:
        history: where finished studies teach the sampler from; the same database by default.
        listener: is told of every study and trial, from several threads.
    """

    def __init__(
        self,
        store: StudyStore,
        settings: SessionSettings,
        *,
        history: StudyStore | None = None,
        listener: Listener = ignore,
    ) -> None:
        self.id = uuid.uuid4().hex[:12]
        self.settings = settings
        self._store = store
        self._histories = Histories(history or store)
        self._teaches_itself = history is None
        self._listener = listener
        self._stop = threading.Event()
        self._jobs: Sequence[Job] = ()
        self._begun_at = time.perf_counter()
        self._tuners: list[Tuner] = []
        self._done = 0
        self._active = 0
        self._active_lock = threading.Lock()

    def run(self, jobs: Sequence[Job]) -> list[Tuned]:
        """Tune the problems and return them in the order given.

        Raises:
            InterruptedSearch: after ``stop``; everything recorded stays in the database.
        """
        in_flight = max(1, self.settings.in_flight)
        self._jobs, self._begun_at = jobs, time.perf_counter()
        with one_blas_thread(), ThreadPoolExecutor(in_flight, thread_name_prefix="study") as threads:
            futures: list[Future[Tuned]] = [threads.submit(self._tune, job) for job in jobs]
            try:
                wait(futures, return_when=FIRST_EXCEPTION)
            finally:
                if not all(f.done() and not f.cancelled() and f.exception() is None for f in futures):
                    self.stop()
                    threads.shutdown(wait=True, cancel_futures=True)
        failed = [e for f in futures if not f.cancelled() and (e := f.exception()) is not None]
        for error in failed:
            if not isinstance(error, InterruptedSearch):
                raise error
        if failed:
            raise failed[0]
        return [future.result() for future in futures]

    def stop(self) -> None:
        """Ask every study to end after the trial under way."""
        self._stop.set()

    @property
    def activity(self) -> SessionActivity:
        """What the session has done so far; may be asked for at any time, from any thread."""
        tuners = list(self._tuners)
        devices = {id(job.device): job.device for job in self._jobs}.values()
        found = {device.gpu.name: device.activity for device in devices}
        launches: Launches = sum((tuner.launches for tuner in tuners), Counter())
        return SessionActivity(
            wall_s=round(time.perf_counter() - self._begun_at, 3),
            studies=len(self._jobs),
            studies_done=self._done,
            studies_begun=len(tuners),
            trials=sum(len(tuner.trials) - tuner.resumed for tuner in tuners),
            launches={purpose.value: count for purpose, count in launches.items()},
            tuner_s=sum(tuner.tuner_s for tuner in tuners),
            store_s=self._store.busy_s,
            devices={name: activity for name, activity in found.items() if activity != DeviceActivity()},
        )

    def _lookahead(self) -> int:
        """Share the compilers among the studies under way."""
        if self.settings.exhaustive:
            return EXHAUSTIVE_LOOKAHEAD
        return max(1, min(MOST_LOOKAHEAD, self.settings.compilers // max(1, self._active)))

    @contextmanager
    def _counted(self) -> Iterator[None]:
        with self._active_lock:
            self._active += 1
        try:
            yield
        finally:
            with self._active_lock:
                self._active -= 1

    def prepare(self, job: Job) -> tuple[StudyName, Tuner]:
        """Open or resume the study of a problem."""
        problem, device = job.problem, job.device
        spec = kernel_spec(problem.kernel)
        source, conditions = device.kernel_source(problem.kernel), device.conditions.label
        name = StudyName(problem, device.gpu.name, source, self.settings.exhaustive, conditions)
        found = self._candidates(spec, problem, device)
        stored = self._store.open(name, device.gpu)
        stored.fail_running()
        _note_space(stored, found)
        default = spec.default_config(problem)
        learns = self.settings.sampler in LEARNING
        known = self._histories.of(problem, device.gpu) if learns else []
        sampler = make_sampler(
            self.settings.sampler,
            found.space.ranges,
            default=default,
            valid=found.__contains__,
            features=lambda configs: spec.features(cast(Sequence[Config], configs), problem, device.gpu),
            cost=_cost(device, problem, list(found.space)),
            prior=HistoryPrior(known, descriptor=descriptor(problem, device.gpu)) if known else None,
            seed=self.settings.seed,
        )
        tuner = Tuner(
            problem,
            device,
            stored,
            found,
            default,
            sampler,
            self.settings.tuner(),
            lookahead=self._lookahead,
            listener=self._listener,
            stop=self._stop,
        )
        return name, tuner

    def _candidates(self, spec: KernelSpec, problem: Problem, device: Device) -> Candidates:
        space = device.search_space(spec, problem).override(self.settings.spaces.get(problem.kernel, {}))
        return candidates(spec, problem, space, device, exhaustive=self.settings.exhaustive)

    def _tune(self, job: Job) -> Tuned:
        if self._stop.is_set():
            raise InterruptedSearch
        name, tuner = self.prepare(job)
        self._tuners.append(tuner)
        self._listener(StudyStarted(str(name), job.problem, len(tuner.trials), len(tuner.candidates)))
        try:
            if not self._has_ended(tuner):
                with self._counted():
                    tuner.search()
            result, reused = self._finish(tuner)
        except DeviceError as error:  # this problem cannot be measured; the others may
            self._done += 1
            self._listener(StudyFailed(str(name), job.problem, str(error)))
            return Tuned(job, name, None, tuner)
        if result is not None and self._teaches_itself:
            self._histories.learn(name, job.device.gpu, tuner.trials)
        self._done += 1
        self._listener(
            StudyFinished(
                str(name),
                job.problem,
                result.time_us if result else None,
                result.default_time_us if result else None,
                len(tuner.trials),
                tuner.launched_configs,
                reused,
            )
        )
        return Tuned(job, name, result, tuner)

    def _has_ended(self, tuner: Tuner) -> bool:
        """Say whether the stop rule in force ended the study before. What other studies have taught since might make
        its model less sure; that does not open it again."""
        stored, rule = tuner.stored.attribute(RESULT_ATTR), self.settings.stop_rule
        if stored is None or rule is None or stored["trials"] != len(tuner.trials):
            return False
        return bool(stored["ended_by"] == asdict(rule))

    def _finish(self, tuner: Tuner) -> tuple[StudyResult | None, bool]:
        """Choose the result, or take the stored one where no trial came after it."""
        stored = tuner.stored.attribute(RESULT_ATTR)
        if stored is not None and stored["trials"] == len(tuner.trials):
            return StudyResult.from_json(stored), True
        choice = tuner.choose()
        if choice is None:
            return None, False
        certificate, rule = tuner.certificate, self.settings.stop_rule
        result = StudyResult(
            config=choice.config,
            time_us=choice.time_us,
            default_time_us=choice.default_time_us,
            finalists=[(dict(key), time_us) for key, time_us in choice.times_us.items()],
            trials=len(tuner.trials),
            sampler=self.settings.sampler,
            date=datetime.now(UTC).isoformat(timespec="seconds"),
            certificate=certificate.to_json() if certificate else None,
            ended_by=asdict(rule) if rule is not None and tuner.is_sure() else None,
            costs=costs_of(tuner.trials, choice.launches),
        )
        tuner.stored.set_attribute(RESULT_ATTR, result.to_json())
        return result, False

    def entries(self, tuned: Sequence[Tuned]) -> list[TunedEntry]:
        """Return the table entries of the studies that have a result."""
        wall_s = session_wall_s(tuned)
        return [self._entry(t, t.result, wall_s) for t in tuned if t.result is not None]

    def _entry(self, tuned: Tuned, result: StudyResult, wall_s: float) -> TunedEntry:
        problem, device = tuned.job.problem, tuned.job.device
        versions = device.provenance
        provenance = Provenance(
            problem=problem,
            config=result.config,
            time_us=result.time_us,
            default_time_us=result.default_time_us,
            gpu=device.gpu.name,
            driver=versions.get("driver", ""),
            torch=versions.get("torch", ""),
            triton=versions.get("triton", ""),
            kernel_source=tuned.name.kernel_source,
            date=result.date,
            study=str(tuned.name),
            sampler=result.sampler,
            session=self.id,
            certificate=result.certificate,
            costs={**result.costs.flat(), "session_wall_s": wall_s},
        )
        spec = kernel_spec(problem.kernel)
        stem, keys = spec.file_stem(problem), spec.table_key(problem)
        return TunedEntry(device.gpu.file_name, stem, keys, result.config, provenance)


def one_blas_thread() -> AbstractContextManager[object]:
    """Keep linear algebra on the caller's core while it lasts: studies are the parallelism, and the other cores
    compile. A surrogate's matrices are small."""
    limits: AbstractContextManager[object] = threadpool_limits(limits=1, user_api="blas")
    return limits


def session_wall_s(tuned: Sequence[Tuned]) -> float:
    """Return the seconds during which any trial of the studies was under way, those of earlier sessions included."""
    return round(covered_s(interval for t in tuned for interval in intervals_of(t.tuner.trials)), 3)


def _cost(device: Device, problem: Problem, configs: Sequence[Config]) -> Cost:
    """Return what says of configs, by index, what trying each costs, as a share of one that must be compiled."""
    have = device.binaries(problem, configs)
    return lambda indices: np.where(have()[indices], COST_OF_COMPILED, 1.0)


def _note_space(stored: StoredStudy, found: Candidates) -> None:
    """Keep with the study what was left out before any trial, for those who read it later."""
    note = {"size": len(found.space), "candidates": len(found), "excluded": dict(found.excluded)}
    if stored.attribute(SPACE_ATTR) != note:
        stored.set_attribute(SPACE_ATTR, note)
