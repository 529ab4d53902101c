"""``bo-tune warm``: what an engine with a tuned folder compiles, compiled before it starts."""

import os
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from bo_tune.cli import options as o
from bo_tune.cli.commands.check import Served, report_of
from bo_tune.cli.commands.compile import CompileJobs
from bo_tune.errors import InputError, TableError
from bo_tune.processes import exit_codes


def warm_command(
    *,
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="Folder of tuned JSON.")],
    study: o.Study = None,
    served: Served,
    gpu: Annotated[
        str | None,
        o.option(o.PROBLEM, "NAME", "The GPU's name. Default: the one in the names of the files."),
    ] = None,
    cache: Annotated[
        Path | None, o.option(o.OUTPUT, "DIR", "Triton's cache. Default: TRITON_CACHE_DIR, or Triton's own.")
    ] = None,
    jobs: CompileJobs = None,
    json_file: o.JsonFile = None,
    quiet: o.Quiet = False,
) -> None:
    """Compile what an engine with a tuned folder will launch, so that no request waits for it. Needs no GPU.

    Examples:
      bo-tune warm tuned --model Llama-3.1-8B/config.json --max-loras 4 --rank 16
      bo-tune warm tuned studies/llama-3.1-8b.toml --cache /volume/triton
    """
    from bo_tune.cli.output import Output
    from bo_tune.cli.packing import COMPILE_DEADLINE_S
    from bo_tune.core.conditions import Conditions
    from bo_tune.display.packing import PackProgress, warmed_lines
    from bo_tune.measure.compile.host import cache_folder, check_cache, cores
    from bo_tune.measure.devices import compilers_for, kernel_source
    from bo_tune.precompile.warming import engine_launches, warm

    output = Output("warm", json_file, quiet=quiet)
    source = kernel_source("vllm")
    report = report_of(folder, study, served, gpu)
    if report.faults:
        raise TableError(
            f"{folder}: an engine cannot use it, as bo-tune check says: {next(iter(report.faults)).reason}"
        )
    if report.gpu is None:
        raise InputError(f"{report.gpu_file_name}: bo_tune does not know this GPU, so it cannot compile for it")
    launches = engine_launches(report)
    if not launches:
        raise InputError(f"{folder}: nothing to compile: no layer that is asked for runs the dense kernels")
    place = cache or cache_folder(os.environ)
    check_cache({"TRITON_CACHE_DIR": str(place)})
    conditions = Conditions(dual_stream=any(problem.add_inputs is False for problem, _ in launches))
    with (
        compilers_for(
            report.gpu,
            source,
            cache=place,
            workers=jobs or cores(),
            deadline_s=COMPILE_DEADLINE_S,
            conditions=conditions,
        ) as target,
        PackProgress(output.console) as progress,
    ):
        warmed = warm(launches, target, progress.warming)
    output.lines(*warmed_lines(warmed, place, folder))
    output.json({**asdict(warmed), "cache": str(place), "gpu": report.gpu.name})
    if warmed.failed:
        output.say(*warmed.failed[:3])
        raise typer.Exit(exit_codes.FAILED)
