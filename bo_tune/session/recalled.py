"""Finds studies that are all done again without starting a GPU.

A study's name holds what a GPU and its toolchain say about themselves. Their answers are stored with the study under a
digest of the host's state (``measure.host_state``). In the same state they would be the same. So a command whose
studies are all done can be answered from the database, and starts nothing.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from bo_tune.core.choices import MoePathChoice
from bo_tune.core.conditions import Conditions
from bo_tune.core.problem import Problem
from bo_tune.core.surroundings import Layer, asked_of
from bo_tune.errors import DeviceError
from bo_tune.kernels.registry import is_known, kernel_spec
from bo_tune.measure.described import DescribedDevice, Description
from bo_tune.measure.devices import Job, job_of, together, with_deciding
from bo_tune.session.settings import SessionSettings
from bo_tune.store.attributes import DONE_ATTR, HOSTS_ATTR, ORIGIN_ATTR, SPACE_ATTR
from bo_tune.store.reader import StudyReader, StudySummary
from bo_tune.store.trials import State


def said_of(job: Job) -> dict[str, Any] | None:
    """Return, as JSON, what a host in this state says about a study besides its name; None if that is not known."""
    if job.device.host is None:
        return None
    try:
        joint = job.spec.joint_group(job.problem) is not None
        decided_by = list(job.device.decided_by(job.problem)) if joint else []
        note = job.device.note(job.problem) if joint else None
    except DeviceError:  # the compilers are gone
        return None
    return {"gpus": list(job.device.host.gpus), "decided_by": decided_by, "note": note}


def recalled_jobs(
    reader: StudyReader[Any],
    digest: Callable[[], str | None],
    problems: Sequence[Problem],
    settings: SessionSettings,
    conditions: Conditions,
    *,
    layers: Mapping[Problem, Layer],
    path: MoePathChoice,
    times_in_place: bool,
) -> list[Job] | None:
    """Return the jobs of problems if their studies are all done as these settings want them, else None.

    It also returns None if a GPU is needed to tell.

    Args:
        digest: returns the digest of this host's state. It is called only if the problems' studies exist.
        layers: the layers in which finalists race, by problem.
        path: which path the engine is assumed to take.
        times_in_place: whether this host's GPUs time kernels where an engine runs them.

    Raises:
        StorageError: the database fails.
    """
    ids = _ids(reader, problems)
    state = digest() if ids else None
    found = _in_state(reader.summaries(ids=ids), state, settings, conditions) if state is not None else []
    devices = _devices(found, state, conditions, times_in_place=times_in_place) if state is not None else None
    if not devices:
        return None
    try:
        jobs = [job_of(p, device, layer=layers.get(p)) for device in devices for p in problems]
        jobs = with_deciding(jobs, path)
        names = [settings.name_of(job) for job in jobs]
    except DeviceError:  # nothing is stored of one of the kernels
        return None
    by_name = {summary.name: summary for summary in found}
    if not all(name in by_name for name in names) or not _all_done(reader, by_name, jobs, settings):
        return None
    return jobs


def _ids(reader: StudyReader[Any], problems: Sequence[Problem]) -> list[int]:
    """Return the numbers of studies that may be these problems' or decide for them; none if one is missing."""
    wanted = {(problem.kernel, problem.label) for problem in problems}
    parts = {number: tuple(name.split(" | ")[:2]) for number, name in reader.names().items()}
    if not wanted <= {*parts.values()}:
        return []
    return [
        number
        for number, (kernel, *label) in parts.items()
        if (kernel, *label) in wanted or (is_known(kernel) and kernel_spec(kernel).decides)
    ]


def _in_state(
    summaries: Sequence[StudySummary], state: str, settings: SessionSettings, conditions: Conditions
) -> list[StudySummary]:
    """Return the studies of such a search that a host in this state has named."""
    search = settings.exhaustive, settings.search, conditions.label
    return [
        one
        for one in summaries
        if state in (one.attributes.get(HOSTS_ATTR) or {})
        and (one.name.exhaustive, one.name.search, one.name.conditions) == search
    ]


def _devices(
    found: Sequence[StudySummary], state: str, conditions: Conditions, *, times_in_place: bool
) -> list[DescribedDevice] | None:
    """Return a device for each of the host's GPU types as described by studies, or None if the studies disagree."""
    told = [one.attributes[HOSTS_ATTR][state] for one in found]
    if not found or {one.name.gpu for one in found} != set(told[0]["gpus"]):
        return None
    devices = []
    for gpu in told[0]["gpus"]:
        own = [(one, said) for one, said in zip(found, told, strict=True) if one.name.gpu == gpu]
        description = Description(
            gpu=own[0][0].gpu,
            sources={one.name.problem.kernel: one.name.kernel_source for one, _ in own},
            conditions=conditions,
            provenance=own[0][0].attributes.get(ORIGIN_ATTR) or {},
            decided_by={one.name.problem: tuple(said["decided_by"]) for one, said in own},
            notes={one.name.problem: said["note"] for one, said in own},
            defaults={one.name.problem: dict(known) for one, _ in own if (known := _default(one)) is not None},
            times_in_place=times_in_place,
        )
        devices.append(DescribedDevice(description))
    return devices


def _default(summary: StudySummary) -> Mapping[str, int] | None:
    """Return the default config that is stored with a study."""
    noted: Mapping[str, Any] = summary.attributes.get(SPACE_ATTR) or {}
    return noted.get("default")


def _all_done(
    reader: StudyReader[Any], by_name: Mapping[Any, StudySummary], jobs: Sequence[Job], settings: SessionSettings
) -> bool:
    """Say whether studies were finished as the settings want them, with no trial since."""
    wanted = settings.wanted(jobs)
    counts = reader.counts([by_name[name].study_id for name in wanted])
    for group in together(jobs):
        asked, has_deciding = settings.of_group(group).asked, any(job.spec.decides for job in group)
        for job in group:
            name = settings.name_of(job)
            summary, result = by_name[name], by_name[name].result
            layer = job.races_in(decided=has_deciding and not job.spec.decides)
            states = counts.get(summary.study_id, {})
            if (
                result is None
                or summary.attributes.get(DONE_ATTR) != wanted[name]
                or result.asked != {**asked(job.problem.kernel), **asked_of(layer)}
                or State.RUNNING.name in states
                or sum(states.values()) != result.trials
            ):
                return False
    return True
