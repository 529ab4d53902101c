"""``bo-tune warm``: what an engine with a tuned folder compiles, compiled before it starts."""

import os
import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from bo_tune.cli import options as o
from bo_tune.cli.checked import GpuOfFolder, Served, report_of
from bo_tune.core.choices import EngineChoice
from bo_tune.errors import DeviceError, InputError, TableError
from bo_tune.processes import exit_codes

if TYPE_CHECKING:
    from bo_tune.core.problem import GpuInfo
    from bo_tune.engines.check import Report


def warm_command(
    *,
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="Folder of tuned JSON.")],
    study: o.Study = None,
    served: Served,
    gpu: GpuOfFolder = None,
    cache: Annotated[
        Path | None, o.option(o.OUTPUT, "DIR", "Triton's cache. Default: TRITON_CACHE_DIR, or Triton's own.")
    ] = None,
    jobs: o.CompileJobs = None,
    json_file: o.JsonFile = None,
    quiet: o.Quiet = False,
) -> None:
    """Compile the dense kernels that vLLM with a tuned folder will launch, before it starts. Needs no GPU.

    Examples:
      bo-tune warm tuned --model Llama-3.1-8B/config.json --max-loras 4 --rank 16
      bo-tune warm tuned studies/llama-3.1-8b.toml --cache /volume/triton
    """
    from bo_tune.cli.output import Output
    from bo_tune.cli.packing import COMPILE_DEADLINE_S
    from bo_tune.cli.resume import command_line
    from bo_tune.core.conditions import Conditions
    from bo_tune.display.packing import PackProgress, warmed_lines
    from bo_tune.measure.compile.host import cache_folder, check_cache, cores
    from bo_tune.measure.devices import compilers_for
    from bo_tune.measure.source import VLLM
    from bo_tune.precompile.warming import engine_launches, left_out, warm

    output = Output("warm", json_file, quiet=quiet)
    _check_engine(study, served)
    report = report_of(folder, study, served, gpu)
    target, launches = _usable(report), engine_launches(report)
    place = (cache or cache_folder(os.environ)).absolute()
    check_cache({"TRITON_CACHE_DIR": str(place)}, "name another folder with --cache")
    conditions = Conditions(dual_stream=any(problem.add_inputs is False for problem, _ in launches))
    workers, deadline_s = jobs or cores(), COMPILE_DEADLINE_S
    try:
        with (
            compilers_for(
                target, VLLM, cache=place, workers=workers, deadline_s=deadline_s, conditions=conditions
            ) as compilers,
            PackProgress(output.console) as progress,
        ):
            warmed = warm(launches, compilers, progress.warming)
    except KeyboardInterrupt:
        command, _ = command_line(sys.argv)
        output.say("interrupted: the cache keeps what was compiled; to resume:", f"  {command}")
        raise typer.Exit(exit_codes.INTERRUPTED) from None
    output.lines(*warmed_lines(warmed, place, folder))
    output.notes(*(f"note: {line}" for line in left_out(report)))
    output.json({**asdict(warmed), "cache": str(place), "gpu": target.name})
    if warmed.failed:
        output.say(*warmed.failed[:3])
        raise typer.Exit(exit_codes.FAILED)


def _check_engine(study: Path | None, served: Served) -> None:
    """Raise InputError unless the engine is a vLLM that is here."""
    from bo_tune.cli.arguments import study_of
    from bo_tune.kernels.vllm.installed import unavailable

    loaded = study_of(study, served) if study else None
    engine = loaded.model.engine if loaded and loaded.model else served.engine
    if engine is EngineChoice.SGLANG:
        raise InputError(
            "--engine sglang: only vLLM's kernels can be compiled ahead; SGLang's compile in a second each"
        )
    if missing := unavailable():
        raise DeviceError(f"{missing}; bo-tune warm compiles vLLM's kernels, in the environment of the engine")


def _usable(report: "Report") -> "GpuInfo":
    """Return the GPU of a folder that an engine can use. Raises InputError for any other folder."""
    if report.faults:
        first = next(iter(report.faults))
        where = f"{report.folder / first.file}" if first.file else f"{report.folder}"
        raise TableError(
            f"{where}: {first.reason}; bo-tune check lists all {len(report.faults)} faults for this engine"
        )
    if report.gpu is None:
        raise InputError(f"{report.gpu_file_name}: bo_tune knows no GPU of this name, so it cannot compile for it")
    return report.gpu
