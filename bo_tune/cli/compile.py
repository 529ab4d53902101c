"""``bo-tune compile``: binaries for a GPU elsewhere, into a pack."""

import os
import re
import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer

from bo_tune.cli import completion, exit_codes
from bo_tune.cli import options as o
from bo_tune.cli.output import Output
from bo_tune.cli.resume import command_line
from bo_tune.cli.search import study_of
from bo_tune.cli.served import Served
from bo_tune.cli.tuning import problems_of
from bo_tune.conditions import Conditions
from bo_tune.devices import compile_target, deciding_problems, fallen_back, kernel_source
from bo_tune.errors import InputError, PackError
from bo_tune.experience import Experience
from bo_tune.gpus import TargetGpu, known_gpu, target_gpu
from bo_tune.kernels.registry import kernel_spec
from bo_tune.likely import Likely
from bo_tune.measure.messages import IdentityRequest
from bo_tune.pack.contents import PackedBinary
from bo_tune.packing import PackBudget, Packed, Workbench, build
from bo_tune.problem import GpuInfo, Problem
from bo_tune.recording import read_recordings
from bo_tune.report.packing import PackProgress, pack_line
from bo_tune.store.storage import StudyStore
from bo_tune.study_file import StudyFile
from bo_tune.threads import one_blas_thread

COMPILE_DEADLINE_S = 30.0
"""At most, for one compile: no GPU waits for it. It adapts to what compiles take."""

_CAPABILITY = re.compile(r"[1-9][0-9]{1,2}")

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


@dataclass(frozen=True, slots=True)
class Plan:
    """What is to be compiled, for what, and how much of it.

    Attributes:
        whole: whether every valid config is wanted.
    """

    study: StudyFile
    problems: Sequence[Problem]
    gpu: GpuInfo
    source: str
    budget: PackBudget
    whole: bool
    jobs: int
    seed: int


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
    chosen = _gpu(target, gpu)
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
    _run(plan, known, out, output)


def _gpu(target: str, name: str | None) -> TargetGpu:
    """Return the GPU that is compiled for."""
    backend, _, number = target.partition(":")
    if backend != "cuda" or not _CAPABILITY.fullmatch(number):
        raise InputError(f"--target: expected cuda:CC with a compute capability, like cuda:90, got {target!r}")
    capability = divmod(int(number), 10)
    known = known_gpu(name) if name is not None else None
    if known is not None and known.capability != capability:
        raise InputError(f"--gpu: {known.name} is no GPU of {target}")
    return target_gpu(capability, name)


def experience(storage: str | None, history: Sequence[Path] | None) -> Experience:
    """Gather what tells which configs are likely."""
    found = Experience()
    if storage is not None:
        store = StudyStore(storage, only_read=True)
        found.learn_studies(store)
        store.close()
    if history is None:
        found.learn_bundled()
    for folder in history or ():
        found.learn_recordings(read_recordings(folder))
    return found


def _run(plan: Plan, experience: Experience, out: Path, output: Output) -> None:
    with Workbench(out) as bench, PackProgress(output.console) as progress:
        packed, interrupted = _compile(plan, experience, bench, progress)
    if interrupted:
        command, _ = command_line(sys.argv)
        output.say("interrupted: the pack keeps what was compiled; to go on from there:", f"  {command}")
    output.lines(pack_line(bench.binaries, packed, out.stat().st_size))
    output.notes(f"wrote {out}")
    output.json({**figures(packed, bench.binaries, plan), "written": [str(out)], "interrupted": interrupted})
    if interrupted:
        raise typer.Exit(exit_codes.INTERRUPTED)
    if bench.binaries and all(binary.entry is None for binary in bench.binaries):
        output.say(f"nothing could be compiled: {bench.binaries[0].reason}: {bench.binaries[0].detail}")
        raise typer.Exit(exit_codes.FAILED)


def _compile(plan: Plan, experience: Experience, bench: Workbench, progress: PackProgress) -> tuple[Packed, bool]:
    """Fill a pack; returns how far it came, and whether that was as far as someone let it."""
    deadline_s = plan.study.budget.compile_deadline_s or COMPILE_DEADLINE_S
    target = compile_target(
        plan.gpu,
        plan.source,
        cache=bench.cache,
        workers=plan.jobs,
        deadline_s=deadline_s,
        conditions=Conditions(dual_stream=plan.study.model is not None and plan.study.model.dual_stream),
    )
    latest = Packed.nothing(plan.budget)
    interrupted = False

    def show(packed: Packed) -> None:
        nonlocal latest
        latest = packed
        progress(packed)

    try:
        problems = [*plan.problems, *deciding_problems(plan.problems, target.decided_by)]
        examples = {p.kernel: (p, kernel_spec(p.kernel).default_config(p)) for p in problems}
        identity = target.identity(IdentityRequest(examples))
        bench.resume(identity)
        try:
            wanted = Likely(target, experience.of, spaces=plan.study.space, exhaustive=plan.whole, seed=plan.seed)
            with one_blas_thread():
                for number, problem in enumerate(problems, 1):
                    wanted.add(problem)
                    progress.choosing(number, len(problems))
                build(bench, target, wanted, plan.budget, show)
        except KeyboardInterrupt:
            interrupted = True
    finally:
        target.close()
    bench.finish(identity, plan.gpu, plan.study.name)
    return latest, interrupted


def figures(packed: Packed, binaries: Sequence[PackedBinary], plan: Plan) -> dict[str, Any]:
    """Return what ``--json`` writes."""
    there = [b for b in binaries if b.entry is not None]
    return {
        "gpu": plan.gpu.name,
        "kernel_source": plan.source,
        "binaries": len(there),
        "impossible": dict(Counter(b.reason for b in binaries if b.reason is not None)),
        "compile_s": sum(b.compile_s for b in binaries),
        "cubin_bytes": sum(b.cubin_bytes for b in there),
        "spilling": sum(bool(b.resources.spilled_registers) for b in there),
        "compiled_now": packed.compiled,
        "elapsed_s": packed.elapsed_s,
    }
