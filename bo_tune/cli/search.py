"""``bo-tune tune`` and ``bo-tune grid``."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from bo_tune.cli import options as o
from bo_tune.devices import Job, cuda_device, replay_jobs
from bo_tune.errors import InputError
from bo_tune.kernels.registry import kernel_spec
from bo_tune.record import record
from bo_tune.report.console import Progressing, results_tables, session_lines, terminal
from bo_tune.sampler_names import GRID, GRID_GP
from bo_tune.search import StopRule
from bo_tune.session import Session, SessionSettings
from bo_tune.storage import StudyStore
from bo_tune.study_file import Budget, Stop, StudyFile, load_study_file
from bo_tune.tables import check_writable, missing_lookups, read_table, table_file_name, write_tables
from bo_tune.tuner import InterruptedSearch

DEFAULT_BUDGET = 40
M_LADDER = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096, 8192)
"""Tokens in a step where none are named: decode batches and prefill chunks."""


@dataclass(frozen=True, slots=True)
class Arguments:
    """What the command line said, the same for both commands."""

    study: StudyFile | None
    kernels: Sequence[str]
    device: str
    storage: str
    out: Path
    settings: SessionSettings
    compile_deadline_s: float | None
    jobs: int | None
    record: Path | None
    verbose: bool


def tune_command(
    study: o.Study = None,
    model: o.Model = None,
    tp: o.TensorParallel = None,
    max_loras: o.MaxLoras = None,
    rank: o.Rank = None,
    m: o.Tokens = None,
    kernel: o.Kernel = None,
    device: o.DeviceName = o.DEFAULT_DEVICE,
    storage: o.Storage = o.DEFAULT_STORAGE,
    out: o.Out = Path("tuned"),
    budget: o.Budget = None,
    seed: o.Seed = None,
    sampler: o.Sampler = None,
    stop: o.Stop = None,
    jobs: o.Jobs = None,
    verbose: o.Verbose = False,
) -> None:
    """Tune a study's kernels and write the JSON that vLLM loads.

    Example: bo-tune tune --model Llama-3.1-8B/config.json --tp 1 --max-loras 4 --rank 16 --m 16,256
    """
    loaded = _study(study, model, tp, max_loras, rank, m)
    name = o.sampler_name(sampler or (loaded.sampler if loaded else GRID_GP))
    _run(_arguments(loaded, name, kernel, device, storage, out, budget, seed, stop, jobs, None, verbose))


def grid_command(
    study: o.Study = None,
    model: o.Model = None,
    tp: o.TensorParallel = None,
    max_loras: o.MaxLoras = None,
    rank: o.Rank = None,
    m: o.Tokens = None,
    kernel: o.Kernel = None,
    device: o.DeviceName = o.DEFAULT_DEVICE,
    storage: o.Storage = o.DEFAULT_STORAGE,
    out: o.Out = Path("grid"),
    budget: o.Budget = None,
    seed: o.Seed = None,
    sampler: o.Sampler = None,
    jobs: o.Jobs = None,
    record: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Also write one T4 recording of each problem.")
    ] = None,
    verbose: o.Verbose = False,
) -> None:
    """Search exhaustively and write the same JSON: every config, or --budget of them in order.

    Example: bo-tune grid studies/recorded.toml --device replay:studies/recordings --storage memory
    """
    if sampler not in (None, GRID):
        raise InputError(f"--sampler: an exhaustive search takes no other than {GRID!r}, got {sampler!r}")
    loaded = _study(study, model, tp, max_loras, rank, m)
    _run(_arguments(loaded, GRID, kernel, device, storage, out, budget, seed, None, jobs, record, verbose))


def _study(
    study: Path | None,
    model: Path | None,
    tp: int | None,
    max_loras: list[str] | None,
    rank: list[str] | None,
    m: list[str] | None,
) -> StudyFile | None:
    """Return the study of the file, or of the model, or None where neither is named."""
    engine = {"--tp": tp, "--max-loras": max_loras, "--rank": rank}
    if study is not None:
        given = [name for name, value in {"--model": model, **engine}.items() if value]
        if given:
            raise InputError(f"{given[0]}: give a study file or a model, not both")
        loaded = load_study_file(study)
        return _with_tokens(loaded, o.integers(m, "--m")) if m else loaded
    if model is None:
        given = [name for name, value in {**engine, "--m": m}.items() if value]
        if given:
            raise InputError(f"{given[0]}: needs a model; name one with --model")
        return None
    for name, value in (("--max-loras", max_loras), ("--rank", rank)):
        if not value:
            raise InputError(f"{name}: needed with --model")
    return StudyFile.from_model(
        model,
        tensor_parallel=tp or 1,
        ranks=o.integers(rank, "--rank"),
        max_loras=o.integers(max_loras, "--max-loras"),
        ms=o.integers(m, "--m") or M_LADDER,
    )


def _with_tokens(study: StudyFile, ms: list[int]) -> StudyFile:
    if study.model is None:
        raise InputError("--m: this study file names its problems one by one, with their m")
    return replace(study, model=replace(study.model, ms=tuple(ms)))


def _arguments(
    study: StudyFile | None,
    sampler: str,
    kernels: list[str] | None,
    device: str,
    storage: str,
    out: Path,
    budget: int | None,
    seed: int | None,
    stop: bool | None,
    jobs: int | None,
    record: Path | None,
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
    return Arguments(study, kernels or (), device, storage, out, settings, deadline, jobs, record, verbose)


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
    name, _, place = arguments.device.partition(":")
    settings = arguments.settings
    if name == "replay" and place:
        yield replay_jobs(Path(place), problems=problems, kernels=arguments.kernels, seed=settings.seed), settings
    elif name == "cuda" and (not place or place.isdecimal()):
        if problems is None:
            raise InputError("nothing to tune: name a study file, or a model with --model")
        device = cuda_device(
            int(place or 0), compile_workers=arguments.jobs, compile_deadline_s=arguments.compile_deadline_s
        )
        try:
            compilers = device.compile_workers
            in_flight = min(len(problems), compilers + compilers // 2)
            yield [Job(p, device) for p in problems], replace(settings, in_flight=in_flight, compilers=compilers)
        finally:
            device.close()
    else:
        raise InputError(f"--device: expected cuda, cuda:N or replay:DIR, got {arguments.device!r}")


def _run(arguments: Arguments) -> None:
    console = terminal()
    with _jobs(arguments) as (jobs, settings):
        check_writable(arguments.out, {_file_name(job) for job in jobs})
        if arguments.record is not None:
            check_writable(arguments.record)
        store = StudyStore(arguments.storage)  # the last: what is wrong above leaves no database behind
        _announce(console, jobs, arguments)
        with Progressing(console, len(jobs), verbose=arguments.verbose) as progress:
            session = Session(store, settings, listener=progress)
            try:
                tuned = session.run(jobs)
            except (InterruptedSearch, KeyboardInterrupt):
                progress.interrupted()
                raise typer.Exit(130) from None
        paths = write_tables(arguments.out, session.entries(tuned))
        recorded = [record(t, arguments.record) for t in tuned] if arguments.record is not None else []
    store.close()
    for table in results_tables(tuned):
        console.print(table)
    for line in session_lines(tuned):
        console.print(line, highlight=False, soft_wrap=True)
    for path in [*paths, *recorded]:
        console.print(f"wrote {path}", markup=False, highlight=False, soft_wrap=True)
    for path in paths:
        for lookup in missing_lookups(read_table(path)):
            note = f"note: {path.name}: {lookup}: an engine that asks for it stops"
            console.print(note, markup=False, highlight=False, soft_wrap=True)
    if any(t.result is None for t in tuned):
        raise typer.Exit(1)


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
