"""``bo-tune compile``: binaries for a GPU elsewhere, into a pack."""

from pathlib import Path
from typing import Annotated

from bo_tune.cli import completion
from bo_tune.cli import options as o
from bo_tune.cli.served import Served
from bo_tune.core.choices import EngineChoice
from bo_tune.errors import InputError, PackError

TargetName = Annotated[
    str, o.option(o.DEVICE, "cuda:CC", "Compute capability to compile for.", complete=completion.targets)
]
GpuName = Annotated[
    str | None,
    o.option(o.DEVICE, "NAME", "GPU to choose configs for. Default: one with the target's compute capability."),
]
PackFile = Annotated[Path, o.option(o.OUTPUT, "PACK", "File to write, or to extend.")]
Configs = Annotated[int | None, o.option(o.SEARCH, "N", "Binaries in the pack, at most.", min=1)]
Minutes = Annotated[float | None, o.option(o.SEARCH, "MINUTES", "Time to compile.", min=0.0)]
Whole = Annotated[bool, o.flag(o.SEARCH, "Compile every valid config, however unlikely.", "--all")]
Teacher = Annotated[
    str | None, o.option(o.SEARCH, "URL", "Database with studies to learn from.", complete=completion.storages)
]
History = Annotated[
    list[Path] | None, o.option(o.SEARCH, "DIR", "Recordings to learn from. Default: those that come with bo_tune.")
]


def compile_command(
    *,
    study: o.Study = None,
    served: Served,
    only: o.Only = None,
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
    jobs: o.CompileJobs = None,
    out: PackFile = Path("study.pack"),
    json_file: o.JsonFile = None,
    quiet: o.Quiet = False,
) -> None:
    """Compile ahead of tuning, on any host. The configs that a study will likely want go into one file, best first.

    Examples:
      bo-tune compile studies/llama-3.1-8b.toml --target cuda:90 --configs 500
      bo-tune compile studies/llama-3.1-8b.toml --minutes 10 --out llama.pack
    """
    from bo_tune.cli.arguments import narrowed, problems_of, study_of
    from bo_tune.cli.output import Output, writing
    from bo_tune.cli.packing import Plan, experience, gpu_of, make_pack
    from bo_tune.files import check_file_writable
    from bo_tune.measure.compile.host import cores
    from bo_tune.measure.devices import fallback_warning, kernel_source
    from bo_tune.measure.source import VLLM
    from bo_tune.precompile.build import PackBudget

    output = Output("compile", json_file, quiet=quiet)
    loaded = narrowed(study_of(study, served), only, whole=kernel_source(kernels) == VLLM)
    if loaded is None:
        raise InputError("there is nothing to compile: name a study file, or a model with --model")
    if loaded.model and loaded.model.engine is EngineChoice.SGLANG:
        raise InputError(
            "--engine sglang: packs cannot hold SGLang's kernels, only vLLM's; SGLang's compile in a second each"
        )
    if configs is None and minutes is None and not whole:
        raise InputError("how much should be compiled? Say so with --configs, --minutes or --all")
    if not out.parent.is_dir():
        raise PackError(f"{out}: the folder {out.parent} does not exist")
    if out.exists() and not out.is_file():
        raise PackError(f"{out}: expected a file")
    writing(out, lambda: check_file_writable(out))
    chosen = gpu_of(target, gpu)
    output.notes(*(f"note: {line}" for line in chosen.assumed))
    problems = problems_of(loaded, kernel or ())
    plan = Plan(
        loaded,
        problems,
        chosen.gpu,
        kernel_source(kernels),
        PackBudget(configs, minutes),
        whole,
        jobs or cores(),
        seed if seed is not None else loaded.seed,
    )
    known = experience(storage, history)
    output.warn(*filter(None, [fallback_warning(kernels)]))
    make_pack(plan, known, out, output)
