"""``bo-tune tune`` and ``bo-tune grid``."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from bo_tune.cli import options as o
from bo_tune.conditions import Conditions, Timing, Tokens
from bo_tune.devices import Job, cuda_device, kernel_source, replay_jobs
from bo_tune.errors import InputError
from bo_tune.kernels.registry import kernel_spec
from bo_tune.ladder import Ladder, refine
from bo_tune.models.engine import M_LADDER
from bo_tune.record import record
from bo_tune.report.console import activity_lines, results_tables, session_lines, terminal
from bo_tune.report.ladder import ladder_lines, ladder_table
from bo_tune.report.progress import Progressing
from bo_tune.sampler_names import GRID, GRID_GP
from bo_tune.search import StopRule
from bo_tune.session import Session, SessionSettings, Tuned
from bo_tune.storage import StudyStore
from bo_tune.study_file import Budget, Stop, StudyFile, load_study_file
from bo_tune.tables import check_writable, missing_lookups, read_table, table_file_name, write_tables
from bo_tune.tuner import InterruptedSearch

DEFAULT_BUDGET = 40

STUDIES_PER_COMPILER = 2
"""Studies in flight for each compile process: while one waits for the GPU or thinks, another has work for it."""

AUTO = "auto"
"""Value of ``--m`` that has keys added where they are worth it."""


@dataclass(frozen=True, slots=True)
class Measured:
    """What measures, and how: a device by name, whose kernels, the conditions, the number of compile processes."""

    device: str
    source: str
    conditions: Conditions
    jobs: int | None


@dataclass(frozen=True, slots=True)
class Written:
    """Where results go: the folder of the JSON files, that of recordings, the file of the session's figures."""

    tables: Path
    recordings: Path | None
    figures: Path | None


@dataclass(frozen=True, slots=True)
class Arguments:
    """What the command line said, the same for both commands."""

    study: StudyFile | None
    kernels: Sequence[str]
    measured: Measured
    storage: str
    written: Written
    settings: SessionSettings
    compile_deadline_s: float | None
    verbose: bool
    choose_m: bool = False


def tune_command(
    study: o.Study = None,
    model: o.Model = None,
    tp: o.TensorParallel = None,
    max_loras: o.MaxLoras = None,
    rank: o.Rank = None,
    m: o.Tokens = None,
    fully_sharded: o.FullySharded = False,
    target_modules: o.TargetModules = None,
    adapter: o.AdapterPath = None,
    kernel: o.Kernel = None,
    device: o.DeviceName = o.DEFAULT_DEVICE,
    kernels: o.KernelSource = "auto",
    timing: o.TimingKind = Timing.COLD,
    tokens: o.TokenSpread = Tokens.UNIFORM,
    storage: o.Storage = o.DEFAULT_STORAGE,
    out: o.Out = Path("tuned"),
    budget: o.Budget = None,
    seed: o.Seed = None,
    sampler: o.Sampler = None,
    stop: o.Stop = None,
    jobs: o.Jobs = None,
    json_file: o.JsonFile = None,
    verbose: o.Verbose = False,
) -> None:
    """Tune a study's kernels and write the JSON that vLLM loads.

    Example: bo-tune tune --model Llama-3.1-8B/config.json --tp 1 --max-loras 4 --rank 16 --m 16,256
    """
    served = o.Served(model, tp, max_loras, rank, fully_sharded, target_modules, adapter)
    choose_m = m == [AUTO]
    loaded = _study(study, served, None if choose_m else m)
    name = o.sampler_name(sampler or (loaded.sampler if loaded else GRID_GP))
    measured = Measured(device, kernels, Conditions(timing, tokens), jobs)
    written = Written(out, None, json_file)
    arguments = _arguments(loaded, name, kernel, measured, storage, written, budget, seed, stop, verbose)
    _run(replace(arguments, choose_m=choose_m))


def grid_command(
    study: o.Study = None,
    model: o.Model = None,
    tp: o.TensorParallel = None,
    max_loras: o.MaxLoras = None,
    rank: o.Rank = None,
    m: o.Tokens = None,
    fully_sharded: o.FullySharded = False,
    target_modules: o.TargetModules = None,
    adapter: o.AdapterPath = None,
    kernel: o.Kernel = None,
    device: o.DeviceName = o.DEFAULT_DEVICE,
    kernels: o.KernelSource = "auto",
    timing: o.TimingKind = Timing.COLD,
    tokens: o.TokenSpread = Tokens.UNIFORM,
    storage: o.Storage = o.DEFAULT_STORAGE,
    out: o.Out = Path("grid"),
    budget: o.Budget = None,
    seed: o.Seed = None,
    sampler: o.Sampler = None,
    jobs: o.Jobs = None,
    record: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Also write one T4 recording of each problem.")
    ] = None,
    json_file: o.JsonFile = None,
    verbose: o.Verbose = False,
) -> None:
    """Search exhaustively and write the same JSON: every config, or --budget of them in order.

    Example: bo-tune grid studies/recorded.toml --device replay:studies/recordings --storage memory
    """
    if sampler not in (None, GRID):
        raise InputError(f"--sampler: an exhaustive search takes no other than {GRID!r}, got {sampler!r}")
    served = o.Served(model, tp, max_loras, rank, fully_sharded, target_modules, adapter)
    loaded = _study(study, served, m)
    measured = Measured(device, kernels, Conditions(timing, tokens), jobs)
    written = Written(out, record, json_file)
    _run(_arguments(loaded, GRID, kernel, measured, storage, written, budget, seed, None, verbose))


def _study(study: Path | None, served: o.Served, m: list[str] | None) -> StudyFile | None:
    """Return the study of the file, or of the model, or None where neither is named."""
    if study is not None:
        given = served.given()
        if given:
            raise InputError(f"{given[0]}: give a study file or a model, not both")
        loaded = load_study_file(study)
        return _with_tokens(loaded, o.integers(m, "--m")) if m else loaded
    if served.model is None:
        given = [*served.given(), *(["--m"] if m else [])]
        if given:
            raise InputError(f"{given[0]}: needs a model; name one with --model")
        return None
    return StudyFile.from_model(served.study(o.integers(m, "--m") or M_LADDER))


def _with_tokens(study: StudyFile, ms: list[int]) -> StudyFile:
    if study.model is None:
        raise InputError("--m: this study file names its problems one by one, with their m")
    return replace(study, model=replace(study.model, ms=tuple(ms)))


def _arguments(
    study: StudyFile | None,
    sampler: str,
    kernels: list[str] | None,
    measured: Measured,
    storage: str,
    written: Written,
    budget: int | None,
    seed: int | None,
    stop: bool | None,
    verbose: bool,
) -> Arguments:
    for name in kernels or ():
        kernel_spec(name)
    limits = study.budget if study else Budget()
    chosen = budget or (None if sampler == GRID else limits.launched_configs or DEFAULT_BUDGET)
    settings = SessionSettings(
        sampler=sampler,
        budget=chosen,
        seed=seed if seed is not None else study.seed if study else 0,
        stop_rule=_stop_rule(study, stop),
        spaces=study.space if study else {},
    )
    if limits.finalists is not None:
        settings = replace(settings, finalists=replace(settings.finalists, count=limits.finalists))
    deadline = limits.compile_deadline_s
    return Arguments(study, kernels or (), measured, storage, written, settings, deadline, verbose)


def _stop_rule(study: StudyFile | None, wanted: bool | None) -> StopRule | None:
    """Return the rule of the study file, unless the command line says that there be none, or one after all."""
    stop = study.stop if study else Stop()
    if wanted is not None:
        stop = (stop or Stop()) if wanted else None
    return StopRule(tolerance=stop.tolerance, risk=stop.risk) if stop else None


@contextmanager
def _jobs(arguments: Arguments) -> Iterator[tuple[list[Job], SessionSettings]]:
    """Open what measures, and settle how many studies it can have in flight."""
    problems = arguments.study.problems() if arguments.study else None
    if problems is not None and arguments.kernels:
        problems = [p for p in problems if p.kernel in arguments.kernels]
        if not problems:
            raise InputError(f"--kernel: the study has no problem of {', '.join(arguments.kernels)}")
    measured = arguments.measured
    name, _, place = measured.device.partition(":")
    settings = arguments.settings
    if name == "replay" and place and arguments.choose_m:
        raise InputError("--m auto: needs a GPU; recordings hold no other m than their own")
    if name == "replay" and place:
        yield replay_jobs(Path(place), problems=problems, kernels=arguments.kernels, seed=settings.seed), settings
    elif name == "cuda" and (not place or place.isdecimal()):
        if problems is None:
            raise InputError("nothing to tune: name a study file, or a model with --model")
        device = cuda_device(
            int(place or 0),
            source=kernel_source(measured.source),
            conditions=measured.conditions,
            compile_workers=measured.jobs,
            compile_deadline_s=arguments.compile_deadline_s,
        )
        try:
            compilers = device.compile_workers
            in_flight = min(len(problems), STUDIES_PER_COMPILER * compilers)
            yield [Job(p, device) for p in problems], replace(settings, in_flight=in_flight, compilers=compilers)
        finally:
            device.close()
    else:
        raise InputError(f"--device: expected cuda, cuda:N or replay:DIR, got {measured.device!r}")


def _run(arguments: Arguments) -> None:
    console, written = terminal(), arguments.written
    with _jobs(arguments) as (jobs, settings):
        check_writable(written.tables, {_file_name(job) for job in jobs})
        if written.recordings is not None:
            check_writable(written.recordings)
        store = StudyStore(arguments.storage)  # the last: what is wrong above leaves no database behind
        _announce(console, jobs, arguments)
        with Progressing(console, len(jobs), verbose=arguments.verbose) as progress:
            session = Session(store, settings, listener=progress)
            progress.watch(lambda: session.activity)
            try:
                ladder = refine(session.run, jobs) if arguments.choose_m else None
                tuned = ladder.tuned if ladder else session.run(jobs)
            except (InterruptedSearch, KeyboardInterrupt):
                progress.interrupted()
                raise typer.Exit(130) from None
        activity = session.activity
        paths = write_tables(written.tables, session.entries(tuned))
        recorded = [record(t, written.recordings) for t in tuned] if written.recordings is not None else []
    store.close()
    if written.figures is not None:
        o.write_json(written.figures, activity.to_json())
    _show(console, tuned, ladder, arguments.study)
    for line in activity_lines(activity):
        console.print(line, markup=False, highlight=False, soft_wrap=True)
    for path in [*paths, *recorded]:
        console.print(f"wrote {path}", markup=False, highlight=False, soft_wrap=True)
    for path in paths:
        for lookup in missing_lookups(read_table(path)):
            note = f"note: {path.name}: {lookup}: an engine that asks for it stops"
            console.print(note, markup=False, highlight=False, soft_wrap=True)
    if any(t.result is None for t in tuned):
        raise typer.Exit(1)


def _show(console: Console, tuned: Sequence[Tuned], ladder: Ladder | None, study: StudyFile | None) -> None:
    for table in results_tables(tuned):
        console.print(table)
    if ladder is not None:
        console.print(ladder_table(ladder, study.problems_by_layer() if study else {}))
    lines = [*session_lines(tuned), *(ladder_lines(ladder) if ladder else [])]
    if study and study.model and study.model.note:
        lines.append(f"note: {study.model.note}")
    for line in lines:
        console.print(line, markup=False, highlight=False, soft_wrap=True)


def _announce(console: Console, jobs: Sequence[Job], arguments: Arguments) -> None:
    sources = {f"{job.device.gpu.name}, {job.device.kernel_source(job.problem.kernel)}" for job in jobs}
    layers = f" ({arguments.study.layer_problem_count} with layers apart)" if arguments.study else ""
    console.print(
        f"{len(jobs)} problems{layers} on {'; '.join(sorted(sources))}; sampler {arguments.settings.sampler}; "
        f"studies in {arguments.storage}",
        markup=False,
        highlight=False,
        soft_wrap=True,
    )


def _file_name(job: Job) -> str:
    return table_file_name(job.device.gpu.file_name, kernel_spec(job.problem.kernel).file_stem(job.problem))
