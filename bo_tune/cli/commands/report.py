"""``bo-tune report``: a page about the searches of a database."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from bo_tune.cli import options as o
from bo_tune.core.choices import DEFAULT_STORAGE
from bo_tune.errors import InputError, printable

if TYPE_CHECKING:
    from bo_tune.analysis.step import StepReport


def report_command(
    study: Annotated[
        list[str] | None, typer.Argument(metavar="STUDY", help="Only studies with these words in their names.")
    ] = None,
    storage: o.Storage = DEFAULT_STORAGE,
    out: Annotated[Path, o.option(None, "FILE.html", "The page.")] = Path("report.html"),
    title: Annotated[
        str, o.option(None, "TEXT", "The page's title: the model, say, and how it is served.")
    ] = "Tuned kernels",
    recordings: Annotated[
        list[Path] | None, o.option(None, "DIR", "Recorded grids, whose best is drawn; may be repeated.")
    ] = None,
    session: Annotated[
        Path | None, o.option(None, "FILE", "What tune --json wrote: adds seconds of the GPU by purpose.")
    ] = None,
    step: Annotated[
        Path | None, o.option(None, "FILE", "What step --json wrote: adds what adapters add to a step.")
    ] = None,
    json_file: o.JsonFile = None,
    quiet: o.Quiet = False,
) -> None:
    """Write an HTML page about the searches of a database. It fetches nothing, and can be sent as it is.

    Of very many studies it tells of the newest, and says so.

    Examples:
      bo-tune report --storage sqlite:///bo_tune.db --out report.html
      bo-tune report --storage sqlite:///bo_tune.db --recordings studies/recordings --title "Llama-3.1-8B, TP 1"
    """
    from bo_tune.analysis.review import document, review
    from bo_tune.cli.output import Output, writing
    from bo_tune.display.page import render
    from bo_tune.display.reuse import unreadable_lines
    from bo_tune.files import check_file_writable, write_atomically
    from bo_tune.formats.recording import read_recordings
    from bo_tune.store.storage import StudyStore

    output = Output("report", json_file, quiet=quiet)
    writing(out, lambda: check_file_writable(out))
    grids = [recording for folder in recordings or () for recording in read_recordings(folder)]
    figures = _figures(session) if session else None
    steps = _steps(step) if step else None
    with StudyStore(storage, only_read=True) as store:
        found = review(store, grids, figures, study or ())
    output.say(*unreadable_lines(store.unreadable))
    if not found.cases:
        raise InputError(f"{store.url}: no searches {'of that name ' if study else ''}in this database")
    notes: list[str] = []
    page = render(found, title=printable(title), storage=printable(store.url), step=steps, note=notes.append)
    writing(out, lambda: write_atomically(out, page.encode()))
    left_out = f"; {found.left_out} older ones left out" if found.left_out else ""
    output.lines(f"wrote {out}: {len(found.studies)} studies, {len(page) / 1e6:.1f} MB{left_out}")
    output.warn(*(f"{out} is without its charts: {why}" for why in notes))
    output.json(document(found))


def _figures(path: Path) -> dict[str, Any]:
    """Read what ``tune --json`` wrote. Raises InputError."""
    content = o.json_of("--session", path)
    # Earlier versions wrote the figures of the session alone.
    session = content.get("session", content) if isinstance(content, dict) else None
    if not isinstance(session, dict) or not isinstance(session.get("devices"), dict):
        raise InputError(f"--session: {path}: expected what tune --json writes")
    return session


def _steps(path: Path) -> "StepReport":
    """Read what ``step --json`` wrote. Raises InputError."""
    from pydantic import ValidationError

    from bo_tune.analysis.step import StepReport
    from bo_tune.store.fields import first_error

    content = o.json_of("--step", path)
    try:
        return StepReport.from_json(content)
    except ValidationError as error:
        raise InputError(f"--step: {path}: expected what step --json writes: {first_error(error)}") from None
