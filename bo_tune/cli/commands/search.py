"""``bo-tune tune`` and ``bo-tune grid``."""

from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from bo_tune.cli import options as o
from bo_tune.cli.served import Served
from bo_tune.core.choices import (
    DEFAULT_DEVICE,
    DEFAULT_STORAGE,
    GRID,
    GRID_GP,
    LEASE_S,
    MoePathChoice,
    RaceChoice,
    StreamChoice,
)
from bo_tune.core.conditions import Routing, Timing, Tokens
from bo_tune.errors import InputError

MoePath = Annotated[
    MoePathChoice,
    typer.Option(
        "--moe-path",
        metavar="|".join(MoePathChoice),
        help="How experts' adapters run, which decides on block_m; auto: as the engine would.",
        rich_help_panel=o.DEVICE,
    ),
]

Race = Annotated[
    RaceChoice,
    typer.Option(
        metavar="|".join(RaceChoice),
        help="Where finalists are timed in the end: in the model's layers, or alone.",
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
    streams: o.Streams = StreamChoice.ONE,
    dual_stream: o.DualStream = False,
    kernel: o.Kernel = None,
    sampler: o.Sampler = None,
    budget: o.Budget = None,
    stop: o.Stop = None,
    bundled: o.Bundled = True,
    seed: o.Seed = None,
    device: o.DeviceName = DEFAULT_DEVICE,
    gpus: o.Gpus = None,
    require_idle: o.RequireIdle = False,
    ray: o.Ray = None,
    workers: o.Workers = None,
    kernels: o.KernelSource = "auto",
    moe_path: MoePath = MoePathChoice.AUTO,
    race: Race = RaceChoice.IN_PLACE,
    timing: o.TimingKind = Timing.COLD,
    tokens: o.TokenSpread = Tokens.UNIFORM,
    active_loras: o.ActiveMix = None,
    experts: o.ExpertSpread = Routing.UNIFORM.value,
    jobs: o.Jobs = None,
    pack: o.Packs = None,
    storage: o.Storage = DEFAULT_STORAGE,
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
    from bo_tune.cli.arguments import Written, arguments_of, study_of, with_mix
    from bo_tune.cli.both_streams import tune_both
    from bo_tune.cli.output import Output
    from bo_tune.cli.tuning import tune
    from bo_tune.session.workers.measuring import Measured

    two = dual_stream or streams is StreamChoice.TWO
    served = Served(
        model, tp, max_loras, rank, fully_sharded, target_modules, adapter, expert_parallel, max_num_seqs, two
    )
    choose_m = m == [AUTO]
    loaded = study_of(study, served, None if choose_m else m)
    name = o.sampler_name(sampler or (loaded.sampler if loaded else GRID_GP))
    active = o.integers(active_loras, "--active-loras")
    conditions = o.conditions(timing, tokens, active[0] if len(active) == 1 else None, experts)
    measured = Measured(device, kernels, conditions, jobs, tuple(pack or ()), gpus, moe_path, require_idle=require_idle)
    arguments = arguments_of(loaded, name, kernel, measured, storage, Written(out), budget, seed, stop, verbose)
    settings = replace(with_mix(arguments, active, race), bundled=bundled)
    arguments = replace(
        arguments, settings=settings, choose_m=choose_m, fresh=fresh, lease_s=lease, ray=ray, workers=workers, race=race
    )
    (tune_both if streams is StreamChoice.BOTH else tune)(arguments, Output("tune", json_file, quiet=quiet))


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
    device: o.DeviceName = DEFAULT_DEVICE,
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
    storage: o.Storage = DEFAULT_STORAGE,
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
    from bo_tune.cli.arguments import Written, arguments_of, study_of
    from bo_tune.cli.output import Output
    from bo_tune.cli.tuning import tune
    from bo_tune.session.workers.measuring import Measured

    if sampler not in (None, GRID):
        raise InputError(f"--sampler: an exhaustive search takes no other than {GRID!r}, got {sampler!r}")
    served = Served(
        model, tp, max_loras, rank, fully_sharded, target_modules, adapter, expert_parallel, max_num_seqs, dual_stream
    )
    loaded = study_of(study, served, m)
    conditions = o.conditions(timing, tokens, active_loras, experts)
    measured = Measured(device, kernels, conditions, jobs, tuple(pack or ()), gpus, moe_path, require_idle=require_idle)
    written = Written(out, record)
    arguments = arguments_of(loaded, GRID, kernel, measured, storage, written, budget, seed, None, verbose)
    tune(replace(arguments, fresh=fresh, lease_s=lease), Output("grid", json_file, quiet=quiet))
