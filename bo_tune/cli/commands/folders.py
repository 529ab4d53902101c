"""``bo-tune folders``: tuned folders that come with the package."""

from pathlib import Path
from typing import Annotated

import typer

from bo_tune.cli import completion
from bo_tune.cli import options as o
from bo_tune.cli.served import Served
from bo_tune.errors import InputError


def folders_command(
    *,
    names: Annotated[
        list[str] | None,
        typer.Argument(metavar="NAME…", help="Only these; all by default.", autocompletion=completion.folder_names),
    ] = None,
    served: Served,
    gpu: Annotated[
        str | None, o.option(o.PROBLEM, "NAME", "Only those for this GPU: its name, or a part of it, as H200.")
    ] = None,
    out: Annotated[Path | None, o.option(o.OUTPUT, "DIR", "Copy the one that fits into this folder.")] = None,
    json_file: o.JsonFile = None,
    quiet: o.Quiet = False,
) -> None:
    """List the tuned folders that come with bo_tune, find the one that fits a model, or copy it.

    A folder fits if every lookup of the engine start finds an entry that is meant for it, as with bo-tune check.

    Examples:
      bo-tune folders
      bo-tune folders llama-3.1-8b --gpu H200 --out tuned
      bo-tune folders --model Llama-3.1-8B/config.json --max-loras 4 --rank 16 --gpu H200 --out tuned
    """
    from bo_tune.analysis.folders import fitting, ready_folders
    from bo_tune.cli.output import Output
    from bo_tune.cli.resume import next_lines
    from bo_tune.display.console import counted
    from bo_tune.display.folders import folders_table
    from bo_tune.engines.registry import folder_variables

    output = Output("folders", json_file, quiet=quiet)
    found = ready_folders(names or (), gpu)
    if served.m:
        raise InputError("--m: a folder is checked for all numbers of tokens; leave --m out")
    if served.given():
        found = [one for one, _ in fitting(found, served.study((1,)))]
    written: list[Path] = []
    if out is None:
        output.tables(folders_table(found))
        output.lines("copy one with bo-tune folders NAME --gpu GPU --out DIR")
    else:
        chosen = found[0]
        if len(found) > 1 and not served.given():
            raise InputError("--out: copies one folder; name a model's folder and, with --gpu, the GPU")
        if len({one.gpu for one in found}) > 1:
            raise InputError(f"--out: name the GPU with --gpu, one of {', '.join(sorted({one.gpu for one in found}))}")
        written, there = chosen.copy(out)
        already = f"; {counted(len(there), 'file was', 'files were')} already there" if there else ""
        output.lines(f"wrote {counted(len(written), 'file', 'files')} of {chosen.name} to {out}{already}")
        variables = folder_variables(path.name for path in chosen.tables)
        output.lines(*next_lines(out, variables, served.words(), is_timed=True))
    output.json({"folders": [one.to_json() for one in found], "written": [str(path) for path in written]})
