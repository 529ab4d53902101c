"""A worker: searches the studies that sessions left in a database, as those sessions want them searched.

It takes whatever is free and fits what it measures with (GPU, kernel source, conditions, toolchain), until nothing is
left to do. Leases alone settle which worker does what.
"""

import json
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

from bo_tune.core.activity import SessionActivity
from bo_tune.core.events import Listener, ignore
from bo_tune.core.study_name import StudyName
from bo_tune.core.surroundings import Layer, layer_from_json
from bo_tune.files import shown
from bo_tune.kernels.registry import IN_ORDER
from bo_tune.measure.compile.host import CompileHost
from bo_tune.measure.described import source_of
from bo_tune.measure.devices import Job, job_of, replay_jobs, together
from bo_tune.measure.gpu.device import GpuDevice
from bo_tune.processes.fork_server import ForkServer
from bo_tune.session.session import Session
from bo_tune.session.settings import SessionSettings
from bo_tune.session.workers.measuring import Measured, at_once, opened
from bo_tune.store.attributes import DONE_ATTR, JOB_ATTR
from bo_tune.store.storage import StudyStore, StudySummary
from bo_tune.tuning.tuner import InterruptedSearch

MOST_STUDIES = 10_000
"""Stands for a number of studies that is not known: only the compilers bound those in flight."""

Fitting = Callable[[StudyName], Job | None]
"""Returns the job of a study, or None if it cannot be measured here."""


def fitting(jobs: Sequence[Job]) -> Fitting:
    """Return a function that finds the job of a study among these jobs: the recorded ones, for a replay."""
    found = {
        (
            job.problem,
            job.device.gpu.name,
            job.device.kernel_source(job.problem.kernel),
            job.device.conditions.label,
            job.device.toolchain,
        ): job
        for job in jobs
    }
    return lambda name: found.get((name.problem, name.gpu, name.kernel_source, name.conditions, name.toolchain))


@contextmanager
def fitting_of(
    measured: Measured, seed: int, host: CompileHost | None
) -> "Iterator[tuple[Sequence[GpuDevice], Fitting, SessionSettings]]":
    """Open what measures for the duration of the context.

    Yields the GPUs, a function that finds the jobs of studies, and settings with what this host does at once.
    """
    folder = measured.recordings
    if folder is not None:
        yield [], fitting(replay_jobs(folder, seed=seed)), SessionSettings()
        return
    with opened(measured, host) as devices:

        def fits(name: StudyName) -> Job | None:
            equal = [device for device in devices if device.gpu.name == name.gpu]
            if not equal or (name.conditions, name.toolchain) != (equal[0].conditions.label, equal[0].toolchain):
                return None
            if name.kernel_source != source_of(equal[0], name.problem.kernel):
                return None
            return job_of(name.problem, equal[0], equal[1:])

        yield devices, fits, at_once(SessionSettings(), devices, MOST_STUDIES)


def _alike(name: StudyName, wants: Mapping[str, Any]) -> str:
    """Return what studies of one session have in common. Those searched together may each have own ranges."""
    ranges = None if wants["together"] or not wants["space"] else [name.problem.kernel, wants["space"]]
    return json.dumps({**wants, "space": ranges, "together": None, "in_place": None}, sort_keys=True)


def _layer(name: StudyName, wants: Mapping[str, Any]) -> Layer | None:
    """Return the layer in which a study's finalists race. Raises ValueError if it is another problem's layer."""
    if not wants.get("in_place"):
        return None
    layer = layer_from_json(wants["in_place"])
    if not layer.holds(name.problem):
        raise ValueError(f"in_place: expected a layer of {name.problem}, got {shown(layer.to_json())}")
    return layer


@dataclass(frozen=True, slots=True)
class _Wanted:
    """A study that a session wants, and that could be searched here.

    Attributes:
        wants: how it is to be searched, as the session has stored it.
        settings: the same, as settings.
        is_open: whether it is not done, and was not tried here before.
    """

    name: StudyName
    job: Job
    wants: Mapping[str, Any]
    settings: SessionSettings
    is_open: bool


class StudyWorker:
    """Searches studies of a database until none is left that fits.

    Args:
        fitting: finds the jobs that it can measure.
        settings: of this host: studies in flight, compilers, searchers. The rest comes with each study.
        listener: called for every study and trial, from several threads.
        begins_at: where among the studies it begins, see ``Session``.
        searches: forks its search processes, see ``Session``.

    Attributes:
        session: the session under way, or the last one.
    """

    def __init__(
        self,
        store: StudyStore,
        fitting: Fitting,
        settings: SessionSettings,
        *,
        listener: Listener = ignore,
        begins_at: float | None = None,
        searches: ForkServer | None = None,
    ) -> None:
        self._store, self._fitting, self._settings, self._listener = store, fitting, settings, listener
        self._begins_at, self._searches = begins_at, searches
        self._tried: dict[StudyName, Any] = {}
        self._before: tuple[SessionActivity, ...] = ()
        self.session: Session | None = None
        self._stopped = False

    def run(self) -> int:
        """Work until nothing is left to do, and return how many studies could not be measured here.

        Raises:
            InterruptedSearch: after ``stop``. Everything recorded stays in the database.
        """
        failed = 0
        while todo := self._todo():
            for settings, jobs in todo:
                if self._stopped:
                    raise InterruptedSearch
                self._before = self.activities
                self.session = Session(
                    self._store,
                    settings,
                    listener=self._listener,
                    joins=True,
                    begins_at=self._begins_at,
                    searches=self._searches,
                )
                failed += sum(not tuned.done for tuned in self.session.run(jobs))
        return failed

    @property
    def activities(self) -> tuple[SessionActivity, ...]:
        """The work that it has done so far, session by session. May be read at any time, from any thread."""
        before, session = self._before, self.session
        return (*before, session.activity) if session is not None else before

    def stop(self) -> None:
        """Ask for an end after the trials under way."""
        self._stopped = True
        if self.session is not None:
            self.session.stop()

    def _todo(self) -> list[tuple[SessionSettings, list[Job]]]:
        """Return what is not done and was not tried here before, in the order in which sessions want it."""
        summaries = sorted(self._store.summaries(), key=lambda summary: summary.study_id)
        parts: defaultdict[str, list[_Wanted]] = defaultdict(list)
        for one in _open_groups([one for summary in summaries if (one := self._wanted(summary)) is not None]):
            self._tried[one.name] = one.wants
            parts[_alike(one.name, one.wants)].append(one)
        return [(self._merged([one.settings for one in part]), [one.job for one in part]) for part in parts.values()]

    def _wanted(self, summary: StudySummary) -> _Wanted | None:
        """Return a study as it is wanted. None if it is unwanted, cannot be measured here, or its job is invalid."""
        name, wants = summary.name, summary.attributes.get(JOB_ATTR)
        job = self._fitting(name) if name.problem.kernel in IN_ORDER else None
        if job is None or wants is None:
            return None
        try:
            settings = SessionSettings.of_job(name.problem.kernel, wants)
            if (settings.search, settings.exhaustive) != (name.search, name.exhaustive):
                raise ValueError("expected the search that is in the study's name")
            job = replace(job, layer=_layer(name, wants))
        except ValueError as error:
            self._store.leave_out(name, f"{JOB_ATTR}: {error}")
            return None
        is_open = summary.attributes.get(DONE_ATTR) != wants and self._tried.get(name) != wants
        return _Wanted(name, job, wants, settings, is_open)

    def _merged(self, each: Sequence[SessionSettings]) -> SessionSettings:
        """Return the settings of studies that differ in their kernels' ranges at most."""
        spaces = {kernel: space for settings in each for kernel, space in settings.spaces.items()}
        mine = self._settings
        return replace(
            each[0], spaces=spaces, in_flight=mine.in_flight, compilers=mine.compilers, searchers=mine.searchers
        )


def _open_groups(wanted: Sequence[_Wanted]) -> list[_Wanted]:
    """Return the open studies with those searched together with them, leaving out incomplete groups."""
    searches: defaultdict[tuple[str, bool], dict[int, _Wanted]] = defaultdict(dict)
    for one in wanted:  # several searches may want the same problem
        searches[one.name.search, one.name.exhaustive][id(one.job)] = one
    found = []
    for of_job in searches.values():
        for group in together([one.job for one in of_job.values()]):
            members = [of_job[id(job)] for job in group]
            kernels = [job.problem.kernel for job in group]
            if kernels == (members[0].wants["together"] or kernels[:1]) and any(one.is_open for one in members):
                found += members
    return found
