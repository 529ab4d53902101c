"""``bo-tune diff``: how two folders of tuned JSON differ."""

from pathlib import Path
from typing import Annotated

import typer

from bo_tune.cli import options as o
from bo_tune.processes import exit_codes


def diff_command(
    a: Annotated[Path, typer.Argument(metavar="A", help="Folder of tuned JSON, written by bo-tune or anything else.")],
    b: Annotated[Path, typer.Argument(metavar="B", help="Folder to compare it with.")],
    every: Annotated[bool, o.flag(o.OUTPUT, "Also list entries that are the same in both.", "--all")] = False,
    exit_code: Annotated[bool, o.flag(o.OUTPUT, "Exit with 1 if they differ.", "--exit-code")] = False,
    json_file: o.JsonFile = None,
    quiet: o.Quiet = False,
) -> None:
    """Show how the entries of two folders of tuned JSON differ, with the times in their sidecars.

    To see which of two searches found the faster configs, and what each cost, use compare.

    Examples:
      bo-tune diff tuned grid
      bo-tune diff host1/tuned host2/tuned --exit-code --quiet
    """
    from bo_tune.analysis.difference import Status, differences
    from bo_tune.cli.output import Output
    from bo_tune.display.comparison import difference_lines, difference_tables

    output = Output("diff", json_file, quiet=quiet)
    found = differences(a, b)
    differing = [one for one in found if one.status is not Status.SAME]
    output.tables(*difference_tables(found if every else differing))
    output.lines(*difference_lines(found))
    counts = {status.value: sum(one.status is status for one in found) for status in Status}
    output.json({"a": str(a), "b": str(b), "counts": counts, "entries": [one.to_json() for one in found]})
    if exit_code and differing:
        raise typer.Exit(exit_codes.FAILED)
