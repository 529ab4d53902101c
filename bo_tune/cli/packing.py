"""What ``bo-tune compile`` does: a plan of what to compile, what is known of it, and the pack that comes of both."""

import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import typer

from bo_tune.cli.output import Output
from bo_tune.cli.resume import command_line
from bo_tune.core.conditions import Conditions
from bo_tune.core.gpus import TargetGpu
from bo_tune.core.problem import GpuInfo, Problem
from bo_tune.display.packing import PackProgress, pack_line
from bo_tune.errors import InputError
from bo_tune.formats.pack.contents import PackedBinary
from bo_tune.formats.recording import read_recordings
from bo_tune.formats.study_file import StudyFile
from bo_tune.kernels.registry import kernel_spec
from bo_tune.measure.backends.registry import BACKENDS, backend_named
from bo_tune.measure.devices import compilers_for, deciding_problems
from bo_tune.precompile.build import PackBudget, Packed, Workbench, build
from bo_tune.precompile.experience import Experience
from bo_tune.precompile.ranking import Likely
from bo_tune.processes import exit_codes
from bo_tune.processes.threads import one_blas_thread
from bo_tune.store.storage import StudyStore

COMPILE_DEADLINE_S = 30.0
"""Longest time of one compile. No GPU waits for it, so it may be long. It adapts to how long compiles take."""


@dataclass(frozen=True, slots=True)
class Plan:
    """What to compile, for which GPU, and how much of it.

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


def gpu_of(target: str, name: str | None) -> TargetGpu:
    """Return the GPU that is compiled for."""
    backend, _, architecture = target.partition(":")
    found = backend_named(backend).target_gpu(architecture, name) if backend in BACKENDS else None
    if found is None:
        forms = " or ".join(backend_named(each).target_form for each in BACKENDS)
        raise InputError(f"--target: expected {forms}, got {target!r}")
    if found.gpu.target != target:
        raise InputError(f"--gpu: {found.gpu.name} does not have the compute capability of --target {target}")
    return found


def experience(storage: str | None, history: Sequence[Path] | None) -> Experience:
    """Gather what ranks configs by how likely they are."""
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


def make_pack(plan: Plan, experience: Experience, out: Path, output: Output) -> None:
    """Compile the plan into a pack and report. Raises typer.Exit if something could not be compiled."""
    with Workbench(out) as bench, PackProgress(output.console) as progress:
        packed, interrupted = _compile(plan, experience, bench, progress)
    if interrupted:
        command, _ = command_line(sys.argv)
        output.say("interrupted: the pack keeps what was compiled; to resume:", f"  {command}")
    output.lines(pack_line(bench.binaries, packed, out.stat().st_size))
    output.notes(f"wrote {out}")
    output.json({**figures(packed, bench.binaries, plan), "written": [str(out)], "interrupted": interrupted})
    if interrupted:
        raise typer.Exit(exit_codes.INTERRUPTED)
    if bench.binaries and all(binary.entry is None for binary in bench.binaries):
        output.say(
            f"no config could be compiled; the first failed with {bench.binaries[0].reason}: {bench.binaries[0].detail}"
        )
        raise typer.Exit(exit_codes.FAILED)


def _compile(plan: Plan, experience: Experience, bench: Workbench, progress: PackProgress) -> tuple[Packed, bool]:
    """Fill a pack; returns how far it came, and whether that was as far as someone let it."""
    deadline_s = plan.study.budget.compile_deadline_s or COMPILE_DEADLINE_S
    conditions = Conditions(dual_stream=plan.study.dual_stream)
    latest = Packed.nothing(plan.budget)
    interrupted = False

    def show(packed: Packed) -> None:
        nonlocal latest
        latest = packed
        progress(packed)

    with compilers_for(
        plan.gpu, plan.source, cache=bench.cache, workers=plan.jobs, deadline_s=deadline_s, conditions=conditions
    ) as target:
        problems = [*plan.problems, *deciding_problems(plan.problems, target.decided_by)]
        examples = {p.kernel: (p, kernel_spec(p.kernel).default_config(p)) for p in problems}
        identity = target.identity(examples)
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
