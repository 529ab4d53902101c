"""``bo-tune check``: what an engine would make of a folder of tuned JSON."""

from pathlib import Path
from typing import Annotated

import typer

from bo_tune.cli import options as o
from bo_tune.cli.served import Served
from bo_tune.core.problem import MOST
from bo_tune.engines.models.engine import MAX_BATCHED_TOKENS
from bo_tune.processes import exit_codes


def check_command(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="Folder of JSON files, whoever wrote them.")],
    model: o.Model = None,
    tp: o.TensorParallel = None,
    max_loras: o.MaxLoras = None,
    rank: o.Rank = None,
    fully_sharded: o.FullySharded = False,
    target_modules: o.TargetModules = None,
    adapter: o.AdapterPaths = None,
    expert_parallel: o.ExpertParallel = False,
    dual_stream: o.DualStream = False,
    m: Annotated[
        list[str] | None,
        typer.Option(
            "--m",
            metavar="N,…",
            help="Tokens in a step. All sizes by default.",
            show_default=False,
            rich_help_panel=o.PROBLEM,
        ),
    ] = None,
    max_num_seqs: o.MaxNumSeqs = None,
    max_num_batched_tokens: Annotated[
        int,
        typer.Option(
            min=1, max=MOST, metavar="N", help="The engine's --max-num-batched-tokens.", rich_help_panel=o.PROBLEM
        ),
    ] = MAX_BATCHED_TOKENS,
    gpu: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="As torch.cuda.get_device_name gives it. Told from the folder by default.",
            rich_help_panel=o.PROBLEM,
        ),
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
    served = Served(
        model, tp, max_loras, rank, fully_sharded, target_modules, adapter, expert_parallel, max_num_seqs, dual_stream
    )
    sizes = o.integers(m, "--m")
    report = check_folder(
        folder,
        served.study(sizes or (1,)),
        gpu=gpu,
        ms=sizes,
        max_batched_tokens=max_num_batched_tokens,
    )
    output.tables(*check_tables(report))
    if quiet:
        output.say(*fault_lines(report))
    output.lines(*check_lines(report), *folder_lines(folder))
    output.json({**report.to_json(), "kernels": source_counts(folder)})
    if report.faults:
        raise typer.Exit(exit_codes.FAILED)
