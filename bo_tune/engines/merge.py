"""Tuned JSON of several hosts merged into one folder, each entry with where it came from."""

from collections.abc import Callable, Sequence
from pathlib import Path

from bo_tune.engines.folder import check_writable, read_entries, table_paths, write_tables
from bo_tune.engines.tuned_with import engine_first


def merge_tables(folders: Sequence[Path], out: Path, note: Callable[[str], None] | None = None) -> list[Path]:
    """Merge the tables of folders into those of another, and return the paths of what was written.

    Of entries with equal keys, those that the other folder holds included, an engine's count before those of the
    project's own kernels, and then the one measured last; of those that do not say when, that of the last folder.

    Args:
        note: is told of what a reader of the files would not expect.

    Raises:
        TableError: a folder or a table cannot be read, or nothing can be written.
    """
    entries = [entry for folder in folders for path in table_paths(folder) for entry in read_entries(path)]
    check_writable(out, {entry.file_name for entry in entries})
    return write_tables(out, entries, note, rank=engine_first)
