"""``bo-tune tune`` and ``bo-tune grid``: what their command lines mean."""

from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from bo_tune.cli import options as o
from bo_tune.cli.measuring import Measured
from bo_tune.cli.output import Output
from bo_tune.cli.served import Served
from bo_tune.cli.tuning import Arguments, Written, tune
from bo_tune.conditions import Routing, Timing, Tokens
from bo_tune.devices import MoePathChoice
from bo_tune.errors import InputError
from bo_tune.kernels.registry import kernel_spec
from bo_tune.models.engine import M_LADDER
from bo_tune.sampler_names import GRID, GRID_GP
from bo_tune.search import StopRule
from bo_tune.session import SessionSettings
from bo_tune.store.leases import LEASE_S
from bo_tune.study_file import Budget, Stop, StudyFile, load_study_file

DEFAULT_BUDGET = 40

MoePath = Annotated[
    MoePathChoice,
    typer.Option(
        "--moe-path",
        metavar="|".join(MoePathChoice),
        help="How experts' adapters run, which decides on block_m; auto: as the engine would.",
        rich_help_panel=o.DEVICE,
    ),
]

AUTO = "auto"
"""Value of ``--m`` that has keys added where they are worth it."""


def tune_command(
    study: o.Study = None,
    model: o.Model = None,
    tp: o.TensorParallel = None,
    max_loras: o.MaxLoras = None,
    rank: o.Rank = None,
    m: o.Tokens = None,
    fully_sharded: o.FullySharded = False,
    target_modules: o.TargetModules = None,
    adapter: o.AdapterPaths = None,
    expert_parallel: o.ExpertParallel = False,
    max_num_seqs: o.MaxNumSeqs = None,
    dual_stream: o.DualStream = False,
    kernel: o.Kernel = None,
    sampler: o.Sampler = None,
    budget: o.Budget = None,
    stop: o.Stop = None,
    bundled: o.Bundled = True,
    seed: o.Seed = None,
    device: o.DeviceName = o.DEFAULT_DEVICE,
    gpus: o.Gpus = None,
    require_idle: o.RequireIdle = False,
    ray: o.Ray = None,
    workers: o.Workers = None,
    kernels: o.KernelSource = "auto",
    moe_path: MoePath = MoePathChoice.AUTO,
    timing: o.TimingKind = Timing.COLD,
    tokens: o.TokenSpread = Tokens.UNIFORM,
    active_loras: o.ActiveLoras = None,
    experts: o.ExpertSpread = Routing.UNIFORM.value,
    jobs: o.Jobs = None,
    pack: o.Packs = None,
    storage: o.Storage = o.DEFAULT_STORAGE,
    fresh: o.Fresh = False,
    lease: o.Lease = LEASE_S,
    out: o.Out = Path("tuned"),
    json_file: o.JsonFile = None,
    verbose: o.Verbose = False,
    quiet: o.Quiet = False,
) -> None:
    """Tune a study's kernels and write the JSON that vLLM loads.

    Examples:
      bo-tune tune --device replay:studies/recordings
      bo-tune tune studies/llama-3.1-8b.toml --out tuned
      bo-tune tune --model Llama-3.1-8B/config.json --tp 1 --max-loras 4 \\
          --rank 16 --m 1,16,256
    """
    served = Served(
        model, tp, max_loras, rank, fully_sharded, target_modules, adapter, expert_parallel, max_num_seqs, dual_stream
    )
    choose_m = m == [AUTO]
    loaded = study_of(study, served, None if choose_m else m)
    name = o.sampler_name(sampler or (loaded.sampler if loaded else GRID_GP))
    conditions = o.conditions(timing, tokens, active_loras, experts)
    measured = Measured(device, kernels, conditions, jobs, tuple(pack or ()), gpus, moe_path, require_idle=require_idle)
    arguments = _arguments(loaded, name, kernel, measured, storage, Written(out), budget, seed, stop, verbose)
    settings = replace(arguments.settings, bundled=bundled)
    arguments = replace(
        arguments, settings=settings, choose_m=choose_m, fresh=fresh, lease_s=lease, ray=ray, workers=workers
    )
    tune(arguments, Output("tune", json_file, quiet=quiet))


def grid_command(
    study: o.Study = None,
    model: o.Model = None,
    tp: o.TensorParallel = None,
    max_loras: o.MaxLoras = None,
    rank: o.Rank = None,
    m: o.Tokens = None,
    fully_sharded: o.FullySharded = False,
    target_modules: o.TargetModules = None,
    adapter: o.AdapterPaths = None,
    expert_parallel: o.ExpertParallel = False,
    max_num_seqs: o.MaxNumSeqs = None,
    dual_stream: o.DualStream = False,
    kernel: o.Kernel = None,
    budget: o.Budget = None,
    sampler: o.Sampler = None,
    seed: o.Seed = None,
    device: o.DeviceName = o.DEFAULT_DEVICE,
    gpus: o.Gpus = None,
    require_idle: o.RequireIdle = False,
    kernels: o.KernelSource = "auto",
    moe_path: MoePath = MoePathChoice.AUTO,
    timing: o.TimingKind = Timing.COLD,
    tokens: o.TokenSpread = Tokens.UNIFORM,
    active_loras: o.ActiveLoras = None,
    experts: o.ExpertSpread = Routing.UNIFORM.value,
    jobs: o.Jobs = None,
    pack: o.Packs = None,
    storage: o.Storage = o.DEFAULT_STORAGE,
    fresh: o.Fresh = False,
    lease: o.Lease = LEASE_S,
    out: o.Out = Path("grid"),
    record: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Also write one T4 recording of each problem.", rich_help_panel=o.OUTPUT),
    ] = None,
    json_file: o.JsonFile = None,
    verbose: o.Verbose = False,
    quiet: o.Quiet = False,
) -> None:
    """Search exhaustively and write the same JSON: every config, or --budget of them in order.

    Examples:
      bo-tune grid --device replay:studies/recordings --storage memory
      bo-tune grid studies/llama-3.1-8b.toml --kernel lora_shrink --record recordings
    """
    if sampler not in (None, GRID):
        raise InputError(f"--sampler: an exhaustive search takes no other than {GRID!r}, got {sampler!r}")
    served = Served(
        model, tp, max_loras, rank, fully_sharded, target_modules, adapter, expert_parallel, max_num_seqs, dual_stream
    )
    loaded = study_of(study, served, m)
    conditions = o.conditions(timing, tokens, active_loras, experts)
    measured = Measured(device, kernels, conditions, jobs, tuple(pack or ()), gpus, moe_path, require_idle=require_idle)
    written = Written(out, record)
    arguments = _arguments(loaded, GRID, kernel, measured, storage, written, budget, seed, None, verbose)
    tune(replace(arguments, fresh=fresh, lease_s=lease), Output("grid", json_file, quiet=quiet))


def study_of(study: Path | None, served: Served, m: list[str] | None) -> StudyFile | None:
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
    two = study is not None and study.model is not None and study.model.dual_stream
    conditions = replace(measured.conditions, dual_stream=two)
    measured = replace(measured, conditions=conditions, compile_deadline_s=limits.compile_deadline_s)
    return Arguments(study, kernels or (), measured, storage, written, settings, verbose)


def _stop_rule(study: StudyFile | None, wanted: bool | None) -> StopRule | None:
    """Return the rule of the study file, unless the command line says that there be none, or one after all."""
    stop = study.stop if study else Stop()
    if wanted is not None:
        stop = (stop or Stop()) if wanted else None
    return StopRule(tolerance=stop.tolerance, risk=stop.risk) if stop else None
