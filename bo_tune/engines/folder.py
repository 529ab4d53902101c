"""Folders of tuned files: read, merged, and written in one step. Each file has a sidecar with its provenance.

Only the engine knows the meaning of a file's name and contents (``engines.base``).
"""

import errno
import os
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import groupby
from operator import attrgetter
from pathlib import Path
from typing import Any

from filelock import FileLock

from bo_tune.engines.base import Engine, Entries, Keys, TunedEntry, WrittenConfig, by_number
from bo_tune.engines.json_text import json_bytes, parse_strictly, read_bytes
from bo_tune.engines.provenance import Provenance, document_of, entries_of, is_own, moment_of, provenance_path
from bo_tune.engines.registry import engine_of_file, patterns
from bo_tune.errors import TableError
from bo_tune.files import (
    check_file_writable,
    os_error_text,
    plain_name,
    remove_stale_temporaries,
    resolved,
    write_atomically,
)

_PROBE = "probe"
"""Name of a file with which to test a folder."""
_LOCK_TIMEOUT_S = 60.0
_READS = 4
_READ_AGAIN_S = 0.05


@dataclass(frozen=True, slots=True)
class Table:
    """The contents of one tuned file.

    Attributes:
        entries: the configs as written, by keys. Values are integers, or null for a parameter left open.
    """

    entries: Entries

    @property
    def configs(self) -> dict[Keys, dict[str, int]]:
        """The configs by keys, without parameters left open."""
        return {keys: {n: v for n, v in entry.items() if v is not None} for keys, entry in self.entries.items()}


def engine_for(path: Path) -> Engine:
    """Return the engine that loads a file. Raises TableError if there is none."""
    engine = engine_of_file(path.name)
    if engine is None:
        raise TableError(f"{path}: expected a name of a tuned file, such as {patterns()}")
    return engine


def read_table(path: Path) -> Table:
    """Read and check a tuned file.

    Raises:
        TableError: the file cannot be read, is malformed, or belongs to no engine. The message is one line, with the
            file and the place in it.
    """
    return Table(engine_for(path).parse(read_bytes(path), path))


def table_paths(folder: Path) -> list[Path]:
    """Return the sorted paths of the tables directly in a folder. Other files are ignored.

    Raises:
        TableError: the folder cannot be read or holds no table.
    """
    try:
        paths = sorted(path for path in folder.iterdir() if engine_of_file(path.name))
    except OSError as error:
        raise TableError(f"{folder}: {os_error_text(error)}") from None
    if not paths:
        raise TableError(f"{folder}: this folder has no tuned JSON ({patterns()}, …)")
    return paths


def read_folder(folder: Path) -> dict[str, Table]:
    """Read every table directly in a folder, by file name, sorted.

    Raises:
        TableError: the folder cannot be read or holds no table, or one of them is malformed.
    """
    return {path.name: read_table(path) for path in table_paths(folder)}


def flat_configs(tables: Mapping[str, Table]) -> dict[tuple[str, Keys], dict[str, int]]:
    """Return the configs of tables by file name and keys."""
    return {(name, keys): config for name, table in tables.items() for keys, config in table.configs.items()}


def read_provenance(table: Path) -> dict[Keys, Provenance]:
    """Read the sidecar of a table; empty if there is none.

    Raises:
        TableError: the sidecar cannot be read or is malformed.
    """
    path = provenance_path(table)
    found = {}
    for keys, entry in _read_sidecar(path).items():
        try:
            found[keys] = Provenance.from_json(entry)
        except ValueError as error:
            raise TableError(f"{path}: {'/'.join(keys)}: {error}") from None
    return found


def kernel_sources(table: Path) -> dict[Keys, str]:
    """Return the kernel source of each entry of a table, as far as its sidecar tells. Raises TableError."""
    entries = _read_sidecar(provenance_path(table))
    return {keys: source for keys, entry in entries.items() if isinstance(source := entry.get("kernel_source"), str)}


def read_entries(path: Path) -> list[TunedEntry]:
    """Read a table with the origin of each entry, while others may be writing it.

    If the sidecar describes another config than the table has, it says nothing of the table's. A writer replaces both
    files one after the other, so if they differ they are read again.

    Raises:
        TableError: one of them cannot be read or is malformed, or the name is not that of a table.
    """
    for _ in range(_READS):
        # Read the table first. The sidecar is written before it, so it knows every entry that is found here.
        table, origins = read_table(path), read_provenance(path)
        configs = table.configs
        fitting = {keys: o for keys, o in origins.items() if dict(o.config) == configs.get(keys, o.config)}
        if len(fitting) == len(origins):
            break
        time.sleep(_READ_AGAIN_S)
    return [TunedEntry(path.name, keys, config, fitting.get(keys)) for keys, config in table.entries.items()]


def check_writable(folder: Path, file_names: Iterable[str] = ()) -> None:
    """Find out before tuning whether its results can be written. The folder is created.

    Args:
        file_names: tables to merge into. Existing ones must be well-formed, with their sidecars.

    Raises:
        TableError: the folder cannot be created or written, a file name is invalid, or a table is malformed.
    """
    paths = [_path_in(folder, name) for name in file_names]
    if folder.exists() and not folder.is_dir():
        raise TableError(f"{folder}: expected a folder, but this is a file")
    for file, place in ((folder / _PROBE, folder), *((file, path) for path in paths for file in _files_of(path))):
        with _writing(place):
            check_file_writable(file)
    for path in paths:
        with _writing(path):
            check_lock(path)
        _read_existing(path)
        _read_sidecar(provenance_path(path))


def write_tables(
    folder: Path,
    results: Sequence[TunedEntry],
    note: Callable[[str], None] | None = None,
    *,
    rank: Callable[[Mapping[str, Any]], Any] | None = None,
) -> list[Path]:
    """Merge results into the tables of a folder, with their provenance.

    Of entries with equal keys, in the table and among the results, the one measured last stays. If several are equally
    old, the last of the results stays. An entry of unknown age stays only if there is no other. Each file is read,
    decided on and replaced in one step under a lock, the sidecar before the table. So concurrent sessions lose nothing,
    and a killed session leaves every file whole.

    Args:
        note: called with one line for each fact that a reader of the files would not expect.
        rank: returns a value by which to compare entries with equal keys, given an entry's data in the sidecar. By
            default it is the time of measurement.

    Returns:
        The paths of the tables, sorted.

    Raises:
        TableError: a file is malformed (it is left unchanged) or cannot be written.
    """
    paths, by_file = [], attrgetter("file_name")
    for name, group in groupby(sorted(results, key=by_file), by_file):
        path = _path_in(folder, name)
        with _writing(path):
            folder.mkdir(parents=True, exist_ok=True)
            with locked(path, _LOCK_TIMEOUT_S):
                _merge_file(path, list(group), note, rank or measured)
        paths.append(path)
    return paths


def write_placed(folder: Path, results: Sequence[TunedEntry], note: Callable[[str], None] | None = None) -> list[Path]:
    """Do as ``write_tables``, with each entry in the subfolder where its engine looks for it."""
    placed: dict[Path, list[TunedEntry]] = {}
    for entry in results:
        triton = entry.provenance.triton if entry.provenance else ""
        place = folder / engine_for(Path(entry.file_name)).subfolder(triton or None)
        placed.setdefault(place, []).append(entry)
    return [path for place in sorted(placed) for path in write_tables(place, placed[place], note)]


def merge_tables(folders: Sequence[Path], out: Path, note: Callable[[str], None] | None = None) -> list[Path]:
    """Merge the tables of several folders into those of another folder, and return the paths of the written tables.

    Of entries with equal keys, including those already in the other folder, an engine's take precedence over those of
    the project's own kernels. After that, the one measured last stays. If none has a date, the one in the last folder
    stays.

    Args:
        note: called with each fact that a reader of the files would not expect.

    Raises:
        TableError: a folder or a table cannot be read, or nothing can be written.
    """
    entries = [entry for folder in folders for path in table_paths(folder) for entry in read_entries(path)]
    check_writable(out, {entry.file_name for entry in entries})
    return write_tables(out, entries, note, rank=engine_first)


def engine_first(origin: Mapping[str, Any]) -> tuple[bool, datetime]:
    """Return the rank of an entry among those with equal keys: an engine's first, then the later one.

    Args:
        origin: the entry's data in the sidecar; empty if it has none.
    """
    source = origin.get("kernel_source")
    return isinstance(source, str) and not is_own(source), measured(origin)


@contextmanager
def locked(path: Path, timeout_s: float) -> Iterator[None]:
    """Hold the lock of a file inside the context. For a link, lock the file behind it. Refuse a lock that is a link.

    Raises:
        TimeoutError: another process held it for ``timeout_s``.
        OSError: the lock cannot be made, or is a link.
    """
    with FileLock(check_lock(path), timeout=timeout_s):
        yield


def check_lock(path: Path) -> Path:
    """Return the path of a file's lock. Raises OSError if it exists and could not be taken."""
    target = resolved(path)
    lock = target.with_name(f".{target.name}.lock")
    if lock.is_symlink():  # FileLock would not follow the link either, but its message does not help.
        raise OSError(errno.ELOOP, f"the lock file {lock.name} is a link; remove it")
    if lock.exists() and not os.access(lock, os.R_OK | os.W_OK):
        raise PermissionError(errno.EACCES, f"the lock file {lock.name} belongs to another user; ask them to remove it")
    return lock


@contextmanager
def _writing(place: Path) -> Iterator[None]:
    try:
        yield
    except TimeoutError:
        raise TableError(
            f"{place}: another process has been writing here for {_LOCK_TIMEOUT_S:.0f} s; wait for it, or end it"
        ) from None
    except OSError as error:
        raise TableError(f"{place}: cannot be written: {os_error_text(error)}") from None


def _files_of(table: Path) -> tuple[Path, Path]:
    return table, provenance_path(table)


def _path_in(folder: Path, name: str) -> Path:
    try:
        return folder / plain_name(name)
    except ValueError as error:
        raise TableError(f"{folder}: {error}") from None


def _merge_file(
    path: Path,
    results: Sequence[TunedEntry],
    note: Callable[[str], None] | None,
    rank: Callable[[Mapping[str, Any]], Any],
) -> None:
    engine, table, sidecar = engine_for(path), _read_existing(path), provenance_path(path)
    configs, known = table.configs, _read_sidecar(sidecar)
    origins = {keys: origin for keys, origin in known.items() if origin.get("config") == configs.get(keys)}
    chosen: dict[Keys, WrittenConfig] = {}
    older = set()
    for result in results:
        origin = result.provenance.to_json() if result.provenance else {}
        if rank(origin) >= rank(origins.get(result.keys, {})):
            chosen[result.keys], origins[result.keys] = engine.as_written(result.config), origin
        else:
            older.add(result.keys)
    document = document_of({keys: origins[keys] for keys in sorted(origins, key=by_number) if origins[keys]})
    for written in _files_of(path):
        remove_stale_temporaries(written)
    write_atomically(sidecar, json_bytes(document))
    write_atomically(path, engine.render({**table.entries, **chosen}))
    left = len(older - chosen.keys())
    if note is not None and left:
        note(f"{path.name}: kept entries that were measured later than the new ones: {left}")


def measured(origin: Mapping[str, Any]) -> datetime:
    """Return the time at which an entry was measured. An unknown time counts as long ago."""
    return moment_of(origin.get("date")) or datetime.min.replace(tzinfo=UTC)


def _read_existing(path: Path) -> Table:
    return read_table(path) if path.exists() else Table({})


def _read_sidecar(path: Path) -> dict[Keys, dict[str, Any]]:
    return entries_of(parse_strictly(read_bytes(path), path), path) if path.exists() else {}


def missing_lines(paths: Sequence[Path]) -> list[str]:
    """Return one line for each lookup that tables leave without an entry."""
    return [
        f"{path.name}: {lookup}: an engine that looks this up stops"
        for path in paths
        for lookup in engine_for(path).missing(read_table(path).entries)
    ]
