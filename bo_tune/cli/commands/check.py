"""``bo-tune check``: what an engine would make of a folder of tuned JSON."""

from pathlib import Path
from typing import Annotated

import typer

from bo_tune.cli import options as o
from bo_tune.cli.checked import GpuOfFolder, Served, report_of
from bo_tune.processes import exit_codes


def check_command(
    *,
    folder: Annotated[
        Path, typer.Argument(metavar="DIR", help="Folder of JSON files, written by bo-tune or anything else.")
    ],
    study: o.Study = None,
    served: Served,
    gpu: GpuOfFolder = None,
    json_file: o.JsonFile = None,
    quiet: o.Quiet = False,
) -> None:
    """Walk every lookup of an engine start through tuned JSON. Exit code 1 if any fails or takes a wrong entry.

    Examples:
      bo-tune check tuned --model Llama-3.1-8B/config.json --max-loras 4 --rank 16
      bo-tune check tuned studies/llama-3.1-8b.toml
      bo-tune check tuned --lookups lookups.jsonl
    """
    from bo_tune.cli.output import Output
    from bo_tune.display.check import check_lines, check_tables, fault_lines
    from bo_tune.engines.tuned_with import folder_lines, source_counts

    output = Output("check", json_file, quiet=quiet)
    report = report_of(folder, study, served, gpu)
    output.tables(*check_tables(report))
    if quiet:
        output.say(*fault_lines(report))
    output.lines(*check_lines(report), *folder_lines(folder))
    output.json({**report.to_json(), "kernels": source_counts(folder)})
    if report.faults:
        raise typer.Exit(exit_codes.FAILED)
