"""Tuning as the command line asks for it: jobs opened, a session shown while it runs, results written and told."""

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from threading import Thread
from typing import Any

import typer

from bo_tune.analysis.listing import reused_figures, study_figures
from bo_tune.analysis.observed_time import ObservedTime
from bo_tune.cli.arguments import Arguments, problems_of
from bo_tune.cli.output import Output
from bo_tune.cli.resume import kept_lines, next_lines
from bo_tune.cli.start import Start, worker_count
from bo_tune.cli.version import program_version
from bo_tune.core.activity import SessionActivity
from bo_tune.core.choices import MEMORY, MoePathChoice
from bo_tune.display.ladder import ladder_lines, ladder_table
from bo_tune.display.results import activity_lines, observed_lines, results_tables, session_lines
from bo_tune.display.reuse import reuse_lines, unreadable_lines
from bo_tune.display.running.json_lines import JsonLines
from bo_tune.display.running.progress import Progressing
from bo_tune.engines.base import Address, Completion
from bo_tune.engines.folder import check_writable, missing_lines, write_placed
from bo_tune.engines.provenance import is_own
from bo_tune.engines.registry import ENGINES, address_of, engine_of, folder_variables
from bo_tune.engines.tuned_with import check_mix
from bo_tune.errors import InputError
from bo_tune.formats.study_file import StudyFile
from bo_tune.measure.described import DescribedDevice
from bo_tune.measure.devices import OWN_INSTEAD, Job, engine_notes, fallback_warning, job_of, replay_jobs, with_deciding
from bo_tune.processes import exit_codes
from bo_tune.processes.fork_server import ForkServer
from bo_tune.session.exchange import record
from bo_tune.session.m_ladder import Ladder, refine
from bo_tune.session.session import Session, SessionSettings, Tuned
from bo_tune.session.workers.host import HostWorkers
from bo_tune.session.workers.measuring import at_once, jobs_on, opened
from bo_tune.session.workers.ray import RayCluster
from bo_tune.store.connection.url import shown as shown_url
from bo_tune.store.storage import StudyStore, silence_optuna
from bo_tune.tuning.bundled import bundled_grids
from bo_tune.tuning.tuner import InterruptedSearch

Workers = HostWorkers | RayCluster
"""The workers that tune a session's studies in its place."""


@contextmanager
def _workers(arguments: Arguments) -> Iterator[Workers | None]:
    """Tune with workers on the named Ray cluster, or with processes of this host, if any are wanted."""
    count = worker_count(arguments) if arguments.ray is None else arguments.workers
    if arguments.ray is None and count == 1:
        yield None
        return
    if arguments.choose_m:
        raise InputError("--m auto does not work with several workers")
    if arguments.storage == MEMORY:
        raise InputError(
            "--storage memory is private to one process; workers need a database that all of them can reach"
        )
    common = arguments.measured, arguments.storage, arguments.lease_s, arguments.settings.seed
    workers: Workers = (
        HostWorkers(count or 1, *common) if arguments.ray is None else RayCluster(arguments.ray, count, *common)
    )
    try:
        yield workers
    finally:
        workers.close()


@contextmanager
def _jobs(
    arguments: Arguments, workers: Workers | None, start: Start
) -> Iterator[tuple[list[Job], SessionSettings, ForkServer | None]]:
    """Open what measures, settle how many studies it can have in flight, and have what forks search processes, if the
    session will have any."""
    problems = problems_of(arguments.study, arguments.kernels) if arguments.study else None
    measured, settings = arguments.measured, arguments.settings
    folder = measured.recordings
    if folder is not None:
        kernels, path = arguments.kernels, measured.path
        yield replay_jobs(folder, problems=problems, kernels=kernels, seed=settings.seed, path=path), settings, None
        return
    assert problems is not None  # ``begun`` has seen to it
    if workers is not None:
        elsewhere = [DescribedDevice(description) for description in workers.descriptions(problems)]
        layers = arguments.layers
        jobs = [job_of(p, device, layer=layers.get(p)) for device in elsewhere for p in problems]
        yield with_deciding(jobs, measured.path), settings, None
        return
    if start.done is not None:
        yield start.done, settings, None
        return
    if settings.bundled and not settings.exhaustive:
        Thread(target=bundled_grids, name="bundled", daemon=True).start()  # while the GPU's processes import
    with opened(measured, start.forks.host) as devices:
        jobs = jobs_on(problems, devices, arguments.layers)
        jobs = jobs if arguments.choose_m else with_deciding(jobs, measured.path)
        yield jobs, at_once(settings, devices, len(jobs)), start.forks.searches


def _with_layers(jobs: Sequence[Job], study: StudyFile | None) -> list[Job]:
    """Return the jobs with the names of the layers that they serve, where these are known."""
    names = study.problems_by_layer() if study else {}
    return [replace(job, serves=tuple(names.get(job.problem, ()))) for job in jobs]


@dataclass(frozen=True, slots=True)
class Done:
    """The outcome of tuning.

    Attributes:
        session: its identifier.
        document: what ``--json`` is to hold of it.
    """

    tuned: Sequence[Tuned]
    session: str
    document: Mapping[str, Any]


def tune(arguments: Arguments, output: Output, start: Start) -> None:
    """Tune, write the results, and report them. Raises typer.Exit if something could not be done."""
    done = tune_one_way(arguments, output, start)
    print_next_steps(arguments, output, done)
    output.json(done.document)
    exit_if_unfinished(done.tuned)


def print_next_steps(arguments: Arguments, output: Output, *done: "Done") -> None:
    """Say what to do next with the files, unless they only serve comparisons."""
    files = [Path(file).name for one in done for file in one.document["written"]]
    variables = folder_variables(files)
    if not variables or arguments.settings.exhaustive:
        return
    model = arguments.study.model if arguments.study and arguments.measured.recordings is None else None
    is_timed = model is not None and len(model.ranks) == len(model.max_loras) == 1
    output.notes(*next_lines(arguments.out, variables, arguments.named, is_timed=is_timed))


def exit_if_unfinished(tuned: Sequence[Tuned]) -> None:
    """Raise typer.Exit if a study has no result."""
    if any(one.result is None for one in tuned):
        raise typer.Exit(exit_codes.FAILED)


def tune_one_way(
    arguments: Arguments,
    output: Output,
    start: Start,
    *,
    but: Collection[Address] = (),
    then: Callable[[Sequence[Tuned]], None] | None = None,
) -> Done:
    """Tune for an engine of one stream or of two, write the results, and report them.

    Args:
        but: entries that are not written.
        then: is called with what was tuned while the devices are still open.

    Raises:
        typer.Exit: it was interrupted.
    """
    silence_optuna()
    with _workers(arguments) as workers, _jobs(arguments, workers, start) as (found, settings, searches):
        jobs = _with_layers(found, arguments.study)
        _check_written(arguments, jobs)
        own_wanted, places = arguments.measured.source == "builtin", _sources(jobs, arguments.out)

        def mix() -> list[str]:
            checked = (check_mix(place, sources, own_wanted=own_wanted) for place, sources in places.items())
            return [line for lines in checked for line in lines]

        warnings = [*_fallback_warnings(jobs, arguments), *mix()]
        # The last: what is wrong above leaves no database behind.
        store = StudyStore(arguments.storage, lease_s=arguments.lease_s)
        output.warn(*warnings)
        _announce(output, jobs, arguments)
        with _shown(output, jobs, arguments) as progress:
            session = Session(
                store,
                settings,
                listener=workers.listener(progress) if workers else progress,
                fresh=arguments.fresh,
                workers=workers.activities if workers else list,
                searches=searches,
            )
            progress.watch(lambda: session)
            try:
                deciding = _Deciding(session, arguments.measured.path)
                ladder = refine(deciding.run, jobs) if arguments.choose_m else None
                tuned = [*ladder.tuned, *deciding.tuned] if ladder else _tuned(session, jobs, workers, progress)
                if then is not None:
                    then(tuned)
            except (InterruptedSearch, KeyboardInterrupt):
                out = arguments.out if progress.done else None
                progress.interrupted(kept_lines(arguments.storage, out=out))
                raise typer.Exit(exit_codes.INTERRUPTED) from None
        activity = session.activity
        mix()  # what others have written meanwhile
        files, notes = _write(arguments, session, jobs, tuned, but)
        session.settle()
        if isinstance(progress, JsonLines):
            progress.tell("written", files=list(map(str, files)))
    store.close()
    observed = arguments.study.observed if arguments.study else None
    time = ObservedTime.of(observed, tuned) if observed else None
    _show(output, tuned, ladder, arguments.study, time)
    told = _told(output, tuned, activity, dict(store.unreadable), files, notes)
    return Done(tuned, session.id, {**told, "observed": time.to_json()} if time else told)


def _shown(output: Output, jobs: Sequence[Job], arguments: Arguments) -> Progressing | JsonLines:
    """Return what shows the session while it runs."""
    if not output.lines_of_json:
        return Progressing(output.console, len(jobs), verbose=arguments.verbose, urgent=output.urgent)
    about = {"command": output.command, "version": program_version(), "studies": len(jobs)}
    return JsonLines({**about, "storage": shown_url(arguments.storage)})


def _check_written(arguments: Arguments, jobs: Sequence[Job]) -> None:
    """Refuse folders that could not be written, before anything is measured. Raises InputError."""
    for place, sources in _sources(jobs, arguments.out).items():
        check_writable(place, sources.keys())
    if arguments.record is not None:
        check_writable(arguments.record)


def _told(
    output: Output,
    tuned: Sequence[Tuned],
    activity: SessionActivity,
    unreadable: Mapping[str, str],
    files: Sequence[Path],
    notes: Sequence[str],
) -> dict[str, Any]:
    """Say below the tables what a session did, what it wrote, and what a reader of that would not expect; return it for
    programs."""
    output.lines(*reuse_lines(tuned))
    output.say(*unreadable_lines(unreadable))
    output.lines(*activity_lines(activity))
    output.notes(*(f"wrote {file}" for file in files), *(f"note: {line}" for line in notes))
    return {
        "studies": [study_figures(one) for one in tuned],
        "session": activity.to_json(),
        "reused": reused_figures(tuned),
        "written": [str(file) for file in files],
        "unreadable": dict(unreadable),
    }


def _write(
    arguments: Arguments, session: Session, jobs: Sequence[Job], tuned: Sequence[Tuned], but: Collection[Address]
) -> tuple[list[Path], list[str]]:
    """Write tables and recordings. Return their paths, and lines on anything a reader would not expect."""
    notes = list[str]()
    completions = _completions(jobs, arguments)
    more = [entry for completion in completions for entry in completion.entries]
    entries = [entry for entry in session.entries(tuned) if (entry.file_name, entry.keys) not in but]
    paths = write_placed(arguments.out, [*entries, *more], notes.append)
    recorded = [record(one, arguments.record) for one in tuned] if arguments.record is not None else []
    return [*paths, *recorded], [
        *notes,
        *missing_lines(paths),
        *dict.fromkeys(note for one in completions for note in one.notes),
    ]


def _completions(jobs: Sequence[Job], arguments: Arguments) -> list[Completion]:
    """Return what engines need in the folder besides the tuned entries, so that the folder slows no kernel down."""
    asked = arguments.study.looked_up() if arguments.study else {}
    tuned = {job.problem.kernel for job in jobs}
    gpus = {job.device.gpu.name: job.device.gpu for job in jobs}
    return [engine.completion(asked, tuned, gpu, arguments.out) for gpu in gpus.values() for engine in ENGINES]


class _Deciding:
    """Runs problems together with those of the kernels that decide for them.

    Attributes:
        tuned: what came of the latter.
    """

    def __init__(self, session: Session, path: MoePathChoice) -> None:
        self._session, self._path = session, path
        self.tuned: list[Tuned] = []

    def run(self, jobs: Sequence[Job]) -> list[Tuned]:
        """Return the results of the problems themselves."""
        tuned = self._session.run(with_deciding(jobs, self._path))
        self.tuned += [one for one in tuned if one.job.spec.decides]
        return [one for one in tuned if not one.job.spec.decides]


def _tuned(
    session: Session, jobs: Sequence[Job], workers: Workers | None, progress: Progressing | JsonLines
) -> list[Tuned]:
    if workers is None:
        return session.run(jobs)
    session.register(jobs)
    with workers.at_work(progress.note, progress) as ended:
        return session.run(jobs, elsewhere=ended)


def _show(
    output: Output,
    tuned: Sequence[Tuned],
    ladder: Ladder | None,
    study: StudyFile | None,
    time: ObservedTime | None,
) -> None:
    output.tables(*results_tables(tuned))
    if ladder is not None:
        output.tables(ladder_table(ladder, study.problems_by_layer() if study else {}))
    output.lines(*session_lines(tuned), *observed_lines(time), *(ladder_lines(ladder) if ladder else []))
    if study and study.note:
        output.lines(f"note: {study.note}")


def _announce(output: Output, jobs: Sequence[Job], arguments: Arguments) -> None:
    sources = {f"{job.device.gpu.name}, {job.device.kernel_source(job.problem.kernel)}" for job in jobs}
    problems = sum(not job.spec.decides for job in jobs)
    layers = f" ({arguments.study.layer_problem_count} if each layer counts)" if arguments.study else ""
    output.notes(
        f"{problems} problems{layers} on {'; '.join(sorted(sources))}; sampler {arguments.settings.sampler}; "
        f"studies in {shown_url(arguments.storage)}",
        *(f"note: {note}" for note in engine_notes(jobs)),
    )


def _sources(jobs: Sequence[Job], out: Path) -> dict[Path, dict[str, set[str]]]:
    """Return whose kernels are tuned for each file, by folder. There is the one, at least."""
    found: dict[Path, dict[str, set[str]]] = {}
    for job in jobs:
        if not job.spec.decides:
            kernel = job.problem.kernel
            place = out / engine_of(kernel).subfolder(job.device.provenance.get("triton") or None)
            files = found.setdefault(place, {})
            files.setdefault(_file_name(job), set()).add(job.device.kernel_source(kernel))
    return found or {out: {}}


def _fallback_warnings(jobs: Sequence[Job], arguments: Arguments) -> list[str]:
    """Return a warning if the project's own kernels are tuned although nobody chose them."""
    measured = arguments.measured
    files = [sources for place in _sources(jobs, arguments.out).values() for sources in place.values()]
    own = any(is_own(source) for sources in files for source in sources)
    if not own or measured.recordings is not None or measured.source != "auto":
        return []
    return [
        fallback_warning(measured.source) or f"no vLLM that can be tuned is installed where the GPU is: {OWN_INSTEAD}"
    ]


def _file_name(job: Job) -> str:
    return address_of(job.problem, job.device.gpu).file_name
