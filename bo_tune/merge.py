"""Tuned JSON of several hosts merged into one folder, each entry with where it came from."""

from collections.abc import Sequence
from pathlib import Path

from bo_tune.errors import TableError
from bo_tune.tables import Keys, TunedEntry, check_writable, read_folder, read_provenance, split_file_name, write_tables
from bo_tune.tuned_with import engine_first


def merge_tables(folders: Sequence[Path], out: Path) -> list[Path]:
    """Merge the tables of folders into those of another, and return the paths of what was written.

    Of entries with equal keys an engine's count before those of the project's own kernels, and then the one measured
    last; of those that do not say when, that of the last folder.
    What the other folder holds already counts as an entry of the first folder.

    Raises:
        TableError: a folder or a table cannot be read, or nothing can be written.
    """
    known = [out, *folders] if out.is_dir() and any(split_file_name(path.name) for path in out.iterdir()) else folders
    chosen: dict[tuple[str, Keys], TunedEntry] = {}
    for folder in known:
        for name, table in read_folder(folder).items():
            names = split_file_name(name)
            if names is None:
                raise TableError(f"{folder / name}: not the name of a table")
            origins = read_provenance(folder / name)
            for keys, config in table.configs.items():
                entry = TunedEntry(*names, keys, config, origins.get(keys))
                before = chosen.get((name, keys))
                if before is None or engine_first(entry) >= engine_first(before):
                    chosen[name, keys] = entry
    check_writable(out, {name for name, _ in chosen})
    return write_tables(out, list(chosen.values()))
