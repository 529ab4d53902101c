"""``bo-tune export``, ``import`` and ``merge``: results that travel without the database."""

from pathlib import Path
from typing import Annotated

import typer

from bo_tune.cli import options as o
from bo_tune.errors import InputError, RecordingError
from bo_tune.exchange import export_study, import_study
from bo_tune.merge import merge_tables
from bo_tune.recording import read_recording, read_recordings
from bo_tune.report.console import terminal
from bo_tune.store.storage import MEMORY, StudyStore
from bo_tune.tables import check_writable


def export_command(
    storage: o.Storage = o.DEFAULT_STORAGE,
    out: o.ExportOut = Path("studies"),
    kernel: o.Kernel = None,
    gpu: Annotated[
        str | None, typer.Option(metavar="NAME", help="Only studies of GPUs with this in their names.")
    ] = None,
) -> None:
    """Write each study of a database into a T4 file, whole enough to be imported elsewhere.

    Example: bo-tune export --storage sqlite:///bo_tune.db --out studies
    """
    store = StudyStore(storage, create=False)
    chosen = [
        s
        for s in store.summaries()
        if (not kernel or s.name.problem.kernel in kernel) and (gpu or "").lower() in s.name.gpu.lower()
    ]
    if not chosen:
        raise InputError(f"{store.url}: no such study in this database")
    check_writable(out)
    trials = store.trials_of(chosen)
    paths = [export_study(summary, trials[summary.name], out) for summary in chosen]
    store.close()
    written = [path for path in paths if path is not None]
    empty = len(paths) - len(written)
    note = f"; {empty} without a trial left out" if empty else ""
    terminal().print(f"wrote {len(written)} studies to {out}{note}", markup=False, highlight=False, soft_wrap=True)


def import_command(
    files: Annotated[list[Path], typer.Argument(metavar="FILE|DIR…", help="Exported studies, or folders of them.")],
    storage: o.Storage = o.DEFAULT_STORAGE,
) -> None:
    """Add exported studies to a database: their trials, and their results where nothing else was tried there.

    Example: bo-tune import studies --storage postgresql+psycopg://tuner@db/studies
    """
    if storage == MEMORY:
        raise InputError("--storage: name a database to import into")
    recordings = [r for path in files for r in (read_recordings(path) if path.is_dir() else [read_recording(path)])]
    console, store = terminal(), StudyStore(storage)
    for recording in recordings:
        try:
            done = import_study(store, recording)
        except RecordingError:
            store.close()
            raise
        result = "with its result" if done.has_result else "no result yet"
        console.print(
            f"{done.name}: {done.added} trials added, {result}", markup=False, highlight=False, soft_wrap=True
        )
    store.close()


def merge_command(
    folders: Annotated[list[Path], typer.Argument(metavar="DIR…", help="Folders of tuned JSON.")],
    out: o.Out = Path("merged"),
) -> None:
    """Merge the tuned JSON of several hosts; of equal keys the entry measured last counts.

    Example: bo-tune merge host1/tuned host2/tuned --out tuned
    """
    console = terminal()
    for path in merge_tables(folders, out):
        console.print(f"wrote {path}", markup=False, highlight=False, soft_wrap=True)
