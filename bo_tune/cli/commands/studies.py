"""``bo-tune studies``: the study files, models and recordings that come with the package."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from bo_tune.cli import completion
from bo_tune.cli import options as o

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from rich.table import Table

    from bo_tune.formats.shipped import Shipped


def studies_command(
    names: Annotated[
        list[str] | None,
        typer.Argument(metavar="NAME…", help="Only these. Default: all.", autocompletion=completion.shipped_names),
    ] = None,
    out: Annotated[
        Path | None, o.option(o.OUTPUT, "DIR", "Copy them into this folder, with the files that they need.")
    ] = None,
    json_file: o.JsonFile = None,
    quiet: o.Quiet = False,
) -> None:
    """List the study files, model configs and recordings that come with bo_tune, or copy them.

    A copy is yours to change. Files that are already there are never overwritten.

    Examples:
      bo-tune studies
      bo-tune studies --out studies
      bo-tune studies llama-3.1-8b models/qwen3-8b --out studies
    """
    from bo_tune.cli.output import Output
    from bo_tune.display.console import counted
    from bo_tune.formats.shipped import chosen, copy_shipped

    output = Output("studies", json_file, quiet=quiet)
    items = chosen(names or ())
    written: list[Path] = []
    if out is None:
        output.tables(*_tables(items))
        output.lines("copy them with bo-tune studies NAME… --out DIR")
    else:
        written, there = copy_shipped(items, out)
        already = f"; {counted(len(there), 'file was', 'files were')} already there" if there else ""
        output.lines(f"wrote {counted(len(written), 'file', 'files')} to {out}{already}")
    found = [{"name": item.name, "kind": item.kind, "about": item.about, "files": [*item.files]} for item in items]
    output.json({"items": found, "written": [str(path) for path in written]})


def _tables(items: "Sequence[Shipped]") -> "Iterator[Table]":
    from bo_tune.display.console import plain_table
    from bo_tune.formats.shipped import Kind

    for kind in Kind:
        rows = [item for item in items if item.kind is kind]
        table = plain_table(kind.plural, ("name", "about"), ())
        for item in rows:
            table.add_row(item.name, item.about)
        if rows:
            yield table
