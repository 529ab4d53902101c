"""``bo-tune tune`` and ``bo-tune grid``."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from bo_tune.cli import options as o
from bo_tune.cli.measuring import Measured, at_once, jobs_on, opened
from bo_tune.cli.ray_workers import RayCluster
from bo_tune.conditions import Routing, Timing, Tokens
from bo_tune.devices import Job, engine_notes, replay_jobs
from bo_tune.errors import InputError
from bo_tune.kernels.registry import kernel_spec
from bo_tune.ladder import Ladder, refine
from bo_tune.measure.described import DescribedDevice
from bo_tune.models.engine import M_LADDER
from bo_tune.problem import Problem
from bo_tune.record import record
from bo_tune.report.console import activity_lines, results_tables, session_lines, terminal
from bo_tune.report.ladder import ladder_lines, ladder_table
from bo_tune.report.progress import Progressing
from bo_tune.sampler_names import GRID, GRID_GP
from bo_tune.search import StopRule
from bo_tune.session import Session, SessionSettings, Tuned
from bo_tune.store.database import without_password
from bo_tune.store.leases import LEASE_S
from bo_tune.store.storage import MEMORY, StudyStore
from bo_tune.study_file import Budget, Stop, StudyFile, load_study_file
from bo_tune.tables import check_writable, missing_lookups, read_table, table_file_name, write_tables
from bo_tune.tuner import InterruptedSearch

DEFAULT_BUDGET = 40

AUTO = "auto"
"""Value of ``--m`` that has keys added where they are worth it."""


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
    lease_s: float = LEASE_S
    ray: str | None = None
    workers: int | None = None


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
    expert_parallel: o.ExpertParallel = False,
    kernel: o.Kernel = None,
    device: o.DeviceName = o.DEFAULT_DEVICE,
    gpus: o.Gpus = None,
    ray: o.Ray = None,
    workers: o.Workers = None,
    kernels: o.KernelSource = "auto",
    timing: o.TimingKind = Timing.COLD,
    tokens: o.TokenSpread = Tokens.UNIFORM,
    active_loras: o.ActiveLoras = None,
    experts: o.ExpertSpread = Routing.UNIFORM.value,
    storage: o.Storage = o.DEFAULT_STORAGE,
    lease: o.Lease = LEASE_S,
    out: o.Out = Path("tuned"),
    budget: o.Budget = None,
    seed: o.Seed = None,
    sampler: o.Sampler = None,
    stop: o.Stop = None,
    jobs: o.Jobs = None,
    pack: o.Packs = None,
    json_file: o.JsonFile = None,
    verbose: o.Verbose = False,
) -> None:
    """Tune a study's kernels and write the JSON that vLLM loads.

    Example: bo-tune tune --model Llama-3.1-8B/config.json --tp 1 --max-loras 4 --rank 16 --m 16,256
    """
    served = o.Served(model, tp, max_loras, rank, fully_sharded, target_modules, adapter, expert_parallel)
    choose_m = m == [AUTO]
    loaded = study_of(study, served, None if choose_m else m)
    name = o.sampler_name(sampler or (loaded.sampler if loaded else GRID_GP))
    conditions = o.conditions(timing, tokens, active_loras, experts)
    measured = Measured(device, kernels, conditions, jobs, tuple(pack or ()), gpus)
    written = Written(out, None, json_file)
    arguments = _arguments(loaded, name, kernel, measured, storage, written, budget, seed, stop, verbose)
    _run(replace(arguments, choose_m=choose_m, lease_s=lease, ray=ray, workers=workers))


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
    expert_parallel: o.ExpertParallel = False,
    kernel: o.Kernel = None,
    device: o.DeviceName = o.DEFAULT_DEVICE,
    gpus: o.Gpus = None,
    kernels: o.KernelSource = "auto",
    timing: o.TimingKind = Timing.COLD,
    tokens: o.TokenSpread = Tokens.UNIFORM,
    active_loras: o.ActiveLoras = None,
    experts: o.ExpertSpread = Routing.UNIFORM.value,
    storage: o.Storage = o.DEFAULT_STORAGE,
    lease: o.Lease = LEASE_S,
    out: o.Out = Path("grid"),
    budget: o.Budget = None,
    seed: o.Seed = None,
    sampler: o.Sampler = None,
    jobs: o.Jobs = None,
    pack: o.Packs = None,
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
    served = o.Served(model, tp, max_loras, rank, fully_sharded, target_modules, adapter, expert_parallel)
    loaded = study_of(study, served, m)
    conditions = o.conditions(timing, tokens, active_loras, experts)
    measured = Measured(device, kernels, conditions, jobs, tuple(pack or ()), gpus)
    written = Written(out, record, json_file)
    arguments = _arguments(loaded, GRID, kernel, measured, storage, written, budget, seed, None, verbose)
    _run(replace(arguments, lease_s=lease))


def study_of(study: Path | None, served: o.Served, m: list[str] | None) -> StudyFile | None:
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


def problems_of(study: StudyFile, kernels: Sequence[str]) -> list[Problem]:
    """Return a study's problems of some kernels, of all where none is named. Raises InputError where there are none."""
    for name in kernels:
        kernel_spec(name)
    problems = [p for p in study.problems() if not kernels or p.kernel in kernels]
    if not problems:
        raise InputError(f"--kernel: the study has no problem of {', '.join(kernels)}")
    return problems


@contextmanager
def _cluster(arguments: Arguments) -> Iterator[RayCluster | None]:
    """Have workers on the Ray cluster that was named, if one was."""
    if arguments.ray is None:
        yield None
        return
    if arguments.choose_m:
        raise InputError("--m auto: not with --ray")
    if arguments.storage == MEMORY:
        raise InputError("--storage: Ray's workers need a database that they all reach")
    settings = arguments.settings
    cluster = RayCluster(
        arguments.ray, arguments.workers, arguments.measured, arguments.storage, arguments.lease_s, settings.seed
    )
    try:
        yield cluster
    finally:
        cluster.close()


@contextmanager
def _jobs(arguments: Arguments, cluster: RayCluster | None) -> Iterator[tuple[list[Job], SessionSettings]]:
    """Open what measures, and settle how many studies it can have in flight."""
    problems = problems_of(arguments.study, arguments.kernels) if arguments.study else None
    measured, settings = arguments.measured, arguments.settings
    folder = measured.recordings
    if folder is not None:
        _check_replay(arguments)
        yield replay_jobs(folder, problems=problems, kernels=arguments.kernels, seed=settings.seed), settings
        return
    measured.indices()
    if problems is None:
        raise InputError("nothing to tune: name a study file, or a model with --model")
    _check_hits(problems, len(measured.conditions.hits))
    if cluster is not None:
        elsewhere = [DescribedDevice(description) for description in cluster.descriptions()]
        yield [Job(p, device) for device in elsewhere for p in problems], settings
        return
    with opened(measured, arguments.compile_deadline_s) as devices:
        jobs = jobs_on(problems, devices)
        yield jobs, at_once(settings, devices, len(jobs))


def _check_hits(problems: Sequence[Problem], recorded: int) -> None:
    """Refuse recorded numbers of hits that are of other experts. Raises InputError."""
    counts = sorted({p.experts.count for p in problems if p.experts is not None and recorded})
    wrong = [count for count in counts if count != recorded]
    if wrong:
        raise InputError(f"--experts: expected how often each of {wrong[0]} experts was hit, got {recorded} numbers")


def _check_replay(arguments: Arguments) -> None:
    """Refuse what recordings cannot do. Raises InputError."""
    if arguments.choose_m:
        raise InputError("--m auto: needs a GPU; recordings hold no other m than their own")
    if arguments.measured.packs:
        raise InputError("--pack: needs a GPU; nothing is compiled for a recording")
    if arguments.measured.gpus is not None:
        raise InputError("--gpus: recordings need no GPU")


def _run(arguments: Arguments) -> None:
    console, written = terminal(), arguments.written
    with _cluster(arguments) as cluster, _jobs(arguments, cluster) as (jobs, settings):
        check_writable(written.tables, {_file_name(job) for job in jobs})
        if written.recordings is not None:
            check_writable(written.recordings)
        # The last: what is wrong above leaves no database behind.
        store = StudyStore(arguments.storage, lease_s=arguments.lease_s)
        _announce(console, jobs, arguments)
        with Progressing(console, len(jobs), verbose=arguments.verbose) as progress:
            session = Session(store, settings, listener=progress)
            progress.watch(lambda: session.activity)
            try:
                ladder = refine(session.run, jobs) if arguments.choose_m else None
                tuned = ladder.tuned if ladder else _tuned(session, jobs, cluster, progress)
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


def _tuned(session: Session, jobs: Sequence[Job], cluster: RayCluster | None, progress: Progressing) -> list[Tuned]:
    if cluster is None:
        return session.run(jobs)
    session.register(jobs)
    with cluster.at_work(progress.note) as ended:
        return session.run(jobs, elsewhere=ended)


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
        f"studies in {without_password(arguments.storage)}",
        markup=False,
        highlight=False,
        soft_wrap=True,
    )
    for note in engine_notes(jobs):
        console.print(f"note: {note}", markup=False, highlight=False, soft_wrap=True)


def _file_name(job: Job) -> str:
    return table_file_name(job.device.gpu.file_name, kernel_spec(job.problem.kernel).file_stem(job.problem))
