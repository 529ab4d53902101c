"""``bo-tune compile``: binaries for a GPU elsewhere, into a pack."""

import os
from pathlib import Path
from typing import Annotated

import typer

from bo_tune.cli import completion
from bo_tune.cli import options as o
from bo_tune.cli.served import Served
from bo_tune.errors import InputError, PackError

TargetName = Annotated[
    str,
    typer.Option(
        "--target",
        metavar="cuda:CC",
        help="Compute capability to compile for.",
        rich_help_panel=o.DEVICE,
        autocompletion=completion.targets,
    ),
]
GpuName = Annotated[
    str | None,
    typer.Option(
        "--gpu",
        metavar="NAME",
        help="GPU to choose configs for; one of the target's by default.",
        rich_help_panel=o.DEVICE,
    ),
]
PackFile = Annotated[
    Path, typer.Option("--out", metavar="PACK", help="File to write, or to go on with.", rich_help_panel=o.OUTPUT)
]
Configs = Annotated[
    int | None,
    typer.Option(
        min=1, metavar="N", help="Binaries in the pack, at most.", show_default=False, rich_help_panel=o.SEARCH
    ),
]
Minutes = Annotated[
    float | None,
    typer.Option(min=0.0, metavar="MINUTES", help="Time to compile.", show_default=False, rich_help_panel=o.SEARCH),
]
Whole = Annotated[
    bool, typer.Option("--all", metavar=o.FLAG, help="Every valid config, however unlikely.", rich_help_panel=o.SEARCH)
]
Teacher = Annotated[
    str | None,
    typer.Option(
        "--storage",
        metavar="URL",
        help="Database of studies to learn from.",
        show_default=False,
        rich_help_panel=o.SEARCH,
        autocompletion=completion.storages,
    ),
]
History = Annotated[
    list[Path] | None,
    typer.Option(
        "--history",
        metavar="DIR",
        help="Recordings to learn from; the project's by default.",
        show_default=False,
        rich_help_panel=o.SEARCH,
    ),
]
CompileJobs = Annotated[
    int | None,
    typer.Option(
        min=1,
        max=o.MOST_PROCESSES,
        metavar="N",
        help="Compile processes; one for each core by default.",
        show_default=False,
        rich_help_panel=o.DEVICE,
    ),
]


def compile_command(
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
    configs: Configs = None,
    minutes: Minutes = None,
    whole: Whole = False,
    storage: Teacher = None,
    history: History = None,
    seed: o.Seed = None,
    target: TargetName = "cuda:90",
    gpu: GpuName = None,
    kernels: o.KernelSource = "auto",
    jobs: CompileJobs = None,
    out: PackFile = Path("study.pack"),
    json_file: o.JsonFile = None,
    quiet: o.Quiet = False,
) -> None:
    """Compile ahead of tuning, on any host: the configs that a study will likely want, best first, into one file.

    Examples:
      bo-tune compile studies/llama-3.1-8b.toml --target cuda:90 --configs 500
      bo-tune compile studies/llama-3.1-8b.toml --minutes 10 --out llama.pack
    """
    from bo_tune.cli.arguments import problems_of, study_of
    from bo_tune.cli.output import Output, writing
    from bo_tune.cli.packing import Plan, experience, gpu_of, make_pack
    from bo_tune.files import check_file_writable
    from bo_tune.measure.devices import fallen_back, kernel_source
    from bo_tune.precompile.build import PackBudget

    output = Output("compile", json_file, quiet=quiet)
    served = Served(
        model, tp, max_loras, rank, fully_sharded, target_modules, adapter, expert_parallel, max_num_seqs, dual_stream
    )
    loaded = study_of(study, served, m)
    if loaded is None:
        raise InputError("nothing to compile: name a study file, or a model with --model")
    if configs is None and minutes is None and not whole:
        raise InputError("--configs: say how much to compile, with --configs, --minutes or --all")
    if not out.parent.is_dir():
        raise PackError(f"{out}: there is no folder {out.parent}")
    if out.exists() and not out.is_file():
        raise PackError(f"{out}: expected a file")
    writing(out, lambda: check_file_writable(out))
    chosen = gpu_of(target, gpu)
    output.notes(*(f"note: {line}" for line in chosen.assumed))
    plan = Plan(
        loaded,
        problems_of(loaded, kernel or ()),
        chosen.gpu,
        kernel_source(kernels),
        PackBudget(configs, minutes),
        whole,
        jobs or os.cpu_count() or 1,
        seed if seed is not None else loaded.seed,
    )
    known = experience(storage, history)
    output.warn(*filter(None, [fallen_back(kernels)]))
    make_pack(plan, known, out, output)
