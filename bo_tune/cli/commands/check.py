"""``bo-tune check``: what an engine would make of a folder of tuned JSON."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from bo_tune.cli import options as o
from bo_tune.core.problem import MOST
from bo_tune.engines.models.engine import MAX_BATCHED_TOKENS
from bo_tune.processes import exit_codes


@dataclass(frozen=True, slots=True, kw_only=True)
class Served(o.Served):
    """A model and the engine that serves it."""

    m: Annotated[list[str] | None, o.option(o.PROBLEM, "N,…", "Tokens in a step. All sizes by default.")] = None


def check_command(
    *,
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="Folder of JSON files, whoever wrote them.")],
    served: Served,
    max_num_batched_tokens: Annotated[
        int, o.option(o.PROBLEM, "N", "The engine's --max-num-batched-tokens.", min=1, max=MOST)
    ] = MAX_BATCHED_TOKENS,
    gpu: Annotated[
        str | None,
        o.option(o.PROBLEM, "NAME", "As torch.cuda.get_device_name gives it. Told from the folder by default."),
    ] = None,
    json_file: o.JsonFile = None,
    quiet: o.Quiet = False,
) -> None:
    """Walk every lookup of an engine start through tuned JSON; exit code 1 if any fails or takes a wrong entry.

    Examples:
      bo-tune check tuned --model Llama-3.1-8B/config.json --max-loras 4 --rank 16
    """
    from bo_tune.cli.output import Output
    from bo_tune.display.check import check_lines, check_tables, fault_lines
    from bo_tune.engines.check import check_folder
    from bo_tune.engines.tuned_with import folder_lines, source_counts

    output = Output("check", json_file, quiet=quiet)
    sizes = o.integers(served.m, "--m")
    model = served.study(sizes or (1,))
    report = check_folder(folder, model, gpu=gpu, ms=sizes, max_batched_tokens=max_num_batched_tokens)
    output.tables(*check_tables(report))
    if quiet:
        output.say(*fault_lines(report))
    output.lines(*check_lines(report), *folder_lines(folder))
    output.json({**report.to_json(), "kernels": source_counts(folder)})
    if report.faults:
        raise typer.Exit(exit_codes.FAILED)
