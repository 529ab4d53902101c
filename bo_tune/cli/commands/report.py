"""``bo-tune report``: a page about the searches of a database."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from bo_tune.cli import completion
from bo_tune.cli import options as o
from bo_tune.core.choices import DEFAULT_STORAGE, ReportFormat
from bo_tune.errors import InputError, printable

if TYPE_CHECKING:
    from bo_tune.analysis.step import StepReport
    from bo_tune.formats.recording import Recording

OUT = {ReportFormat.HTML: Path("report.html"), ReportFormat.MARKDOWN: Path("report.md")}
"""Files to write if none is named."""

LEAST_GAIN_PERCENT = 3.0
"""A smaller gain, in percent, may be noise: repetitions of one config differ as much."""


def report_command(
    study: Annotated[
        list[str] | None, typer.Argument(metavar="STUDY", help="Only studies with these words in their names.")
    ] = None,
    storage: o.Storage = DEFAULT_STORAGE,
    out: Annotated[
        Path | None, o.option(None, "FILE", f"File to write. Default: {OUT[ReportFormat.HTML]}, or as --format says.")
    ] = None,
    form: Annotated[
        ReportFormat,
        o.option(
            None, "|".join(ReportFormat), "html writes a page, markdown a text for filing tuned configs.", "--format"
        ),
    ] = ReportFormat.HTML,
    title: Annotated[
        str, o.option(None, "TEXT", "Title of the page, for example the model and how it is served.")
    ] = "Tuned kernels",
    recordings: Annotated[
        list[Path] | None, o.option(None, "DIR", "Recorded grids, whose best configs the page shows. May be repeated.")
    ] = None,
    session: Annotated[
        Path | None, o.option(None, "FILE", "Output of tune --json: adds the GPU's seconds by purpose.")
    ] = None,
    step: Annotated[
        Path | None, o.option(None, "FILE", "Output of step --json: adds what adapters cost in a step.")
    ] = None,
    against: Annotated[
        str | None, o.option(None, "URL", "Another database to compare with.", complete=completion.storages)
    ] = None,
    least_gain: Annotated[
        float,
        o.option(None, "PERCENT", "With --format markdown: leave out keys that gain less.", min=0.0, max=1000.0),
    ] = LEAST_GAIN_PERCENT,
    json_file: o.JsonFile = None,
    quiet: o.Quiet = False,
) -> None:
    """Write an HTML page, or Markdown, about the searches of a database. The page fetches nothing, so you can send it.

    If there are very many studies, it covers the newest and says so.

    Examples:
      bo-tune report --storage sqlite:///bo_tune.db --out report.html
      bo-tune report --storage sqlite:///bo_tune.db --recordings studies/recordings --title "Llama-3.1-8B, TP 1"
      bo-tune report --storage sqlite:///bo_tune.db --format markdown --least-gain 5
      bo-tune report --storage sqlite:///bo_tune.db --against sqlite:///yesterday.db
    """
    from bo_tune.analysis.review import document, review
    from bo_tune.analysis.review.against import against as compared
    from bo_tune.cli.output import Output, writing
    from bo_tune.display.markdown import markdown
    from bo_tune.display.page import render
    from bo_tune.display.reuse import unreadable_lines
    from bo_tune.files import check_file_writable, write_atomically
    from bo_tune.formats.recording import read_recordings
    from bo_tune.store.connection.url import shown
    from bo_tune.store.storage import StudyStore

    output, file = Output("report", json_file, quiet=quiet), out or OUT[form]
    writing(file, lambda: check_file_writable(file))
    grids = [recording for folder in recordings or () for recording in read_recordings(folder)]
    figures = _figures(session) if session else None
    steps = _steps(step) if step else None
    with StudyStore(storage, only_read=True) as store:
        found = review(store, grids, figures, study or ())
    output.say(*unreadable_lines(store.unreadable))
    if not found.cases:
        raise InputError(f"{store.url}: this database has no searches{' of that name' if study else ''}")
    versus = None
    if against is not None:
        with StudyStore(against, only_read=True) as other:
            versus = compared(found, review(other, words=study or ()), printable(shown(against)))
    notes: list[str] = []
    made = [(what, printable(said)) for what, said in _made(store.url, grids, session, step)]
    name = printable(title)
    if form is ReportFormat.MARKDOWN:
        page = markdown(found, title=name, made=made, least_gain_percent=least_gain)
    else:
        where = printable(store.url)
        page = render(found, title=name, storage=where, step=steps, against=versus, made=made, note=notes.append)
    writing(file, lambda: write_atomically(file, page.encode()))
    left_out = f"; {found.left_out} older ones left out" if found.left_out else ""
    size = f"{len(page) / 1e6:.1f} MB" if form is ReportFormat.HTML else f"{len(page) / 1e3:.1f} kB"
    output.lines(f"wrote {file}: {len(found.studies)} studies, {size}{left_out}")
    output.warn(*(f"{file} was written without its charts: {why}" for why in notes))
    output.json({**document(found), "against": versus.to_json() if versus else None})


def _made(url: str, grids: "Sequence[Recording]", *files: Path | None) -> list[tuple[str, str]]:
    """Return how a report is made: (what, words)."""
    import sys
    from datetime import UTC, datetime

    from bo_tune.cli.resume import command_line
    from bo_tune.cli.version import program_version

    rows = [
        ("bo_tune", program_version()),
        ("written", datetime.now(UTC).isoformat(timespec="seconds")),
        ("command", command_line(sys.argv)[0]),
        ("folder", str(Path.cwd())),
        ("database", url),
    ]
    folders = dict.fromkeys(str(recording.path.parent.absolute()) for recording in grids)
    read = [*folders, *(str(file.absolute()) for file in files if file is not None)]
    return [*rows, *([("read", ", ".join(read))] if read else [])]


def _figures(path: Path) -> dict[str, Any]:
    """Read what ``tune --json`` wrote. Raises InputError."""
    content = o.json_of("--session", path)
    # Earlier versions wrote the figures of the session alone.
    session = content.get("session", content) if isinstance(content, dict) else None
    if not isinstance(session, dict) or not isinstance(session.get("devices"), dict):
        raise InputError(f"--session: {path}: expected a file that tune --json wrote")
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
        raise InputError(f"--step: {path}: expected a file that step --json wrote: {first_error(error)}") from None
