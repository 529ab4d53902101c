"""Many studies tuned together, over shared devices and one database."""

import secrets
import threading
import time
import uuid
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from contextlib import nullcontext

from bo_tune.core.activity import SessionActivity, by_gpu, with_workers
from bo_tune.core.choices import MEMORY
from bo_tune.core.conclusion import Decision
from bo_tune.core.events import Listener, StudyFailed, StudyLost, StudyStarted, ignore
from bo_tune.core.study_name import StudyName
from bo_tune.engines.base import TunedEntry
from bo_tune.errors import DeviceError, LeaseLostError, UnreadableStudyError, UnusableDeviceError
from bo_tune.measure.devices import Job, together
from bo_tune.processes.fork_server import ForkServer
from bo_tune.processes.garbage import less_frequent_gc
from bo_tune.processes.threads import one_blas_thread, short_switch_interval
from bo_tune.session.claims import Claims
from bo_tune.session.disturbed import Disturbed
from bo_tune.session.finished import Searched, Tuned, finished_event, session_wall_s, table_entries
from bo_tune.session.opening import StudyOpener
from bo_tune.session.recalled import said_of
from bo_tune.session.settings import SessionSettings
from bo_tune.session.work_queue import Pending
from bo_tune.store.attributes import DISTURBED_ATTR, FIGURES_ATTR, ORIGIN_ATTR, RESULT_ATTR
from bo_tune.store.result import note_of
from bo_tune.store.results import StudyResult, figures_of
from bo_tune.store.storage import StudyStore
from bo_tune.store.trials import State
from bo_tune.tuning.conclude import Asked, choose_results, current_results, have_ended
from bo_tune.tuning.history import Histories
from bo_tune.tuning.joint.decision import decision_of, split_deciding
from bo_tune.tuning.tuner import InterruptedSearch, Tuner

__all__ = ["Session", "SessionSettings", "Tuned", "session_wall_s"]


class Session:
    """Tunes problems, several at a time.

    Args:
        history: the database whose finished studies teach the sampler; the same database by default.
        fresh: whether to begin its studies anew. Existing ones are set aside. But studies that an interrupted session
            like this one began are its own and go on.
        joins: whether it does what other sessions want, and leaves it to them to collect what is done.
        begins_at: where among the studies it begins, 0 to 1. By default at the first, but if it joins, at a random
            place, so that workers do not get in each other's way.
        workers: returns what workers that do its studies elsewhere have done so far.
        searches: forks its search processes (``search_server``). By default it starts a server when it runs.
        listener: called for every study and trial, from several threads.
    """

    def __init__(
        self,
        store: StudyStore,
        settings: SessionSettings,
        *,
        history: StudyStore | None = None,
        listener: Listener = ignore,
        fresh: bool = False,
        joins: bool = False,
        begins_at: float | None = None,
        workers: Callable[[], Sequence[Sequence[SessionActivity]]] = list,
        searches: ForkServer | None = None,
    ) -> None:
        self.id = uuid.uuid4().hex[:12]
        self.settings = settings
        self._store = store
        self._histories = Histories(history or store, bundled=settings.bundled)
        self._teaches_itself = history is None
        self._listener = listener
        self._claims = Claims(store, listener)
        self._disturbed = Disturbed(listener)
        self._joins, self._fresh = joins, fresh
        self._workers = workers
        self._begins_at = (secrets.SystemRandom().random() if joins else 0.0) if begins_at is None else begins_at
        self._elsewhere: threading.Event | None = None
        self._stop = threading.Event()
        self.opener = StudyOpener(self._claims, settings, self._histories, listener, self._stop, searches)
        self._jobs: Sequence[Job] = ()
        self._begun_at, self._begun_cpu_s = time.perf_counter(), time.process_time()
        self._ended_at: float | None = None
        self._searching: list[Tuner] = []
        self._searched = Searched()
        self._counting = threading.Lock()
        self._done = 0

    def run(self, jobs: Sequence[Job], *, elsewhere: threading.Event | None = None) -> list[Tuned]:
        """Tune the problems and return them in order. Unless the session joins, include those that others finished.

        Args:
            elsewhere: given if other workers do all the work. It is set once they have ended; what is not done by then
                cannot be done.

        Raises:
            InterruptedSearch: after ``stop``. Everything recorded stays in the database.
        """
        self._jobs, self._elsewhere, self._ended_at = jobs, elsewhere, None
        self.register(jobs)
        self._disturbed.begin(device for job in jobs for device in job.devices)
        groups = together(jobs)
        pending = Pending(len(groups), self._stop.is_set, first=int(self._begins_at * len(groups)))
        tuned: dict[int, Tuned] = {}
        lanes = max(1, min(self.settings.in_flight, len(groups)))
        threads = ThreadPoolExecutor(lanes, thread_name_prefix="study")
        blas = one_blas_thread() if self._computes(groups) else nullcontext()
        with self.opener.searching(), blas, short_switch_interval(), less_frequent_gc(), threads:
            futures = [threads.submit(self._work, lane, groups, pending, tuned) for lane in range(lanes)]
            try:
                wait(futures, return_when=FIRST_EXCEPTION)
            finally:
                if not all(f.done() and f.exception() is None for f in futures):
                    self.stop()
        self._ended_at = time.perf_counter()
        failed = [e for f in futures if (e := f.exception()) is not None]
        for error in failed:
            if not isinstance(error, InterruptedSearch):
                raise error
        if pending.left:
            raise InterruptedSearch
        return [tuned[id(job)] for job in jobs if id(job) in tuned]

    def _computes(self, groups: Sequence[Sequence[Job]]) -> bool:
        """Say whether a study's model may be computed in this process."""
        here = [group for group in groups if len(group) > 1 or not self.settings.searchers]
        left = (job for group in here for job in group if not self._claims.were_done(self.settings.name_of(job)))
        return self._elsewhere is None and not self.settings.exhaustive and any(left)

    def register(self, jobs: Sequence[Job]) -> None:
        """Put the studies into the database, with how they are to be searched, for workers that may join."""
        gpus = {self.settings.name_of(job): job.device.gpu for job in jobs}
        self._claims.register(gpus, self.settings.wanted(jobs), write=not self._joins, fresh=self._fresh)
        if not self._joins:
            self._store.note_layers({self.settings.name_of(job): job.serves for job in jobs})

    def settle(self) -> None:
        """Note that everything is done and written.

        From now on, a session that begins these studies anew begins from nothing, and one that asks for them again on
        this host finds them without a GPU.
        """
        self._claims.settle()
        said = {self.settings.name_of(job): (job.device.host, said_of(job)) for job in self._jobs}
        for host in {host for host, _ in said.values() if host is not None}:
            of_host = {name: told for name, (where, told) in said.items() if where == host and told is not None}
            self._store.note_host(host.digest, of_host)

    def _work(self, lane: int, groups: Sequence[Sequence[Job]], pending: Pending, tuned: dict[int, Tuned]) -> None:
        """Tune what nobody else does until everything is done. Each lane keeps to one of several equal GPUs."""
        while (piece := pending.take()) is not None:
            found = self._tune([job.on(lane) for job in groups[piece]])
            if found is None:
                pending.put_back(piece)
            else:
                tuned.update((id(job), one) for job, one in zip(groups[piece], found, strict=not self._joins))
                pending.done()

    def stop(self) -> None:
        """Ask every study to end after the trial under way."""
        self._stop.set()

    @property
    def stopping(self) -> bool:
        """Whether it was asked to stop."""
        return self._stop.is_set()

    @property
    def activity(self) -> SessionActivity:
        """The work that the session and its workers have done so far. May be read at any time, from any thread."""
        return with_workers(self._own_activity, self._workers())

    @property
    def _own_activity(self) -> SessionActivity:
        with self._counting:
            done = sum(map(Searched.of, self._searching), self._searched)
        devices = {id(device): device for job in self._jobs for device in job.devices}.values()
        return SessionActivity(
            wall_s=round((self._ended_at or time.perf_counter()) - self._begun_at, 3),
            studies=len(self._jobs),
            studies_done=self._done,
            studies_begun=done.studies,
            trials=done.trials,
            launches={purpose.value: count for purpose, count in done.launches.items()},
            tuner_s=done.tuner_s,
            store_s=self._store.busy_s,
            cpu_s=round(time.process_time() - self._begun_cpu_s, 3),
            devices=by_gpu((device.gpu.name, device.activity) for device in devices),
        )

    def _tune(self, jobs: Sequence[Job]) -> list[Tuned] | None:
        """Finish studies, or collect what another worker made of them. Returns None while another worker has them."""
        if self._stop.is_set():
            raise InterruptedSearch
        try:
            return self._tune_these(jobs, [self.settings.name_of(job) for job in jobs])
        except UnreadableStudyError as error:  # this costs only these studies
            return self._fail(jobs, str(error))

    def _tune_these(self, jobs: Sequence[Job], names: Sequence[StudyName]) -> list[Tuned] | None:
        ended = self._elsewhere is not None and self._elsewhere.is_set()
        is_done = self._claims.are_done(names, as_of_now=ended)
        if is_done:
            done = [] if self._joins else self._collect(jobs)
            if done is not None:
                return done
        if self._elsewhere is not None:
            return self._fail(jobs, "no worker was able to measure it") if ended else None
        if not self._claims.take(names, done_too=is_done):
            return None
        try:
            return self._search_all(jobs)
        except LeaseLostError as error:
            for name in names:
                self._listener(StudyLost(str(name), name.problem, str(error)))
            return None
        finally:
            self._claims.release(names)

    def _collect(self, jobs: Sequence[Job]) -> list[Tuned] | None:
        """Return studies that are done, or None if a trial came after their results or seems to be under way."""
        tuners = [self.opener.open(job, done=True) for job in jobs]
        if any(State.RUNNING.name in tuner.stored.counts() for tuner in tuners):
            return None
        attributes = [tuner.stored.attributes() for tuner in tuners]
        results: Sequence[StudyResult | None] | None = current_results(tuners, self.settings.of_group(jobs).asked)
        if results is None:
            if any(RESULT_ATTR in found for found in attributes):
                return None
            results = [None] * len(jobs)
        self._begin(tuners)
        tuned = [
            Tuned.of(
                job,
                result,
                tuner,
                origin=found.get(ORIGIN_ATTR, {}),
                disturbed=found.get(DISTURBED_ATTR),
                kept=self._claims.were_done(tuner.stored.study_name),
            )
            for job, tuner, result, found in zip(jobs, tuners, results, attributes, strict=True)
        ]
        for one, tuner in zip(tuned, tuners, strict=True):
            self._end(one, tuner, True)
        self._let_go(tuners)
        return tuned

    def _begin(self, tuners: Sequence[Tuner]) -> None:
        for tuner in tuners:
            with self._counting:
                self._searching.append(tuner)
            counts, times = (len(tuner.trials), len(tuner.candidates)), (tuner.best_us, tuner.default_us)
            self._listener(StudyStarted(tuner.stored.name, tuner.problem, *counts, *times))

    def _let_go(self, tuners: Sequence[Tuner]) -> None:
        """Keep the counts of searches that have ended, but not their models and trials."""
        with self._counting:
            self._searching = [tuner for tuner in self._searching if tuner not in tuners]
            self._searched = sum(map(Searched.of, tuners), self._searched)

    def _search_all(self, jobs: Sequence[Job]) -> list[Tuned]:
        """Search studies together. If some of their kernels decide for the others, these are searched first."""
        deciding, others = split_deciding(jobs, lambda job: job.spec)
        asked = self.settings.of_group(jobs).asked
        first = self._search_group(deciding, asked) if deciding else []
        return [*first, *self._search_group(others, asked, decision_of([one.result for one in first]))]

    def _search_group(self, jobs: Sequence[Job], asked: Asked, decision: Decision | None = None) -> list[Tuned]:
        settings = self.settings.of_study(jobs[0], decision)
        tuners, search = self.opener.open_together(jobs, decision)
        self._begin(tuners)
        try:
            with self._disturbed.noting(jobs[0].device, tuners) as disturbed:
                if not have_ended(tuners, asked, settings.stop_rule, decision):
                    with self.opener.counted():
                        search.search()
                reused = current_results(tuners, asked, decision)
                results = reused or choose_results(search, tuners, asked, settings.sampler, settings.stop_rule)
        except UnusableDeviceError:
            raise
        except DeviceError as error:  # these problems cannot be measured, but others may
            return self._fail(jobs, str(error))
        finally:  # also if the lease was lost: when it is taken again, the study is opened anew
            for tuner in tuners:
                tuner.proposer.close()
            self._let_go(tuners)
        found: Sequence[StudyResult | None] = results or [None] * len(jobs)
        kept = reused is not None
        tuned = [
            Tuned.of(job, result, tuner, disturbed=disturbed[tuner.stored.name], kept=kept)
            for job, tuner, result in zip(jobs, tuners, found, strict=True)
        ]
        for one, tuner in zip(tuned, tuners, strict=True):
            self._note_end(one, tuner, kept)
            self._end(one, tuner, kept)
        return tuned

    def _fail(self, jobs: Sequence[Job], message: str) -> list[Tuned]:
        """Report that problems cannot be measured."""
        self._done += len(jobs)
        failed = []
        for job in jobs:
            try:
                tuner = self.opener.open(job, done=True)
            except UnreadableStudyError:
                nothing = StudyStore(MEMORY).open(self.settings.name_of(job), job.device.gpu)
                tuner = self.opener.open(job, done=True, stored=nothing)
            failed.append(Tuned.of(job, None, tuner, done=False))
            self._listener(StudyFailed(tuner.stored.name, job.problem, message))
        return failed

    def _note_end(self, tuned: Tuned, tuner: Tuner, reused: bool) -> None:
        """Note in the database that a study is done, with what should be known of it without reading its trials."""
        origin = {} if reused else {ORIGIN_ATTR: {**tuned.job.device.provenance, "session": self.id}}
        if tuned.result is not None:
            tuned.stored.set_note(note_of(tuned.result, tuned.job.serves))
        self._claims.finish(tuned.name, {FIGURES_ATTR: figures_of(tuner.trials), **origin})

    def _end(self, tuned: Tuned, tuner: Tuner, reused: bool) -> None:
        """Let other studies learn from a finished study, and tell the listener of it."""
        if tuned.result is not None and self._teaches_itself:
            self._histories.learn(tuned.name, tuned.job.device.gpu, tuned.stored.study_id, tuner.trials)
        self._done += 1
        self._listener(finished_event(tuned, reused=reused))

    def entries(self, tuned: Sequence[Tuned]) -> list[TunedEntry]:
        """Return the table entries of the studies that have a result."""
        return table_entries(tuned, self.id)
