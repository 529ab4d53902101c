"""The nested JSON that vLLM loads: read, merge, write atomically, check.

``data[max_loras][num_slices][m][k][n]`` holds a config; the fused MoE kernels have one level more, ``[i]``. All keys
are decimal strings. One file per GPU, kernel and, for expand, value of add_inputs: ``{gpu}_SHRINK.json``.
"""

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import groupby
from pathlib import Path
from typing import Any

from bo_tune.engines.provenance import Provenance, document_of, entries_of, moment_of, provenance_path
from bo_tune.engines.vllm.lock import check_lock, locked
from bo_tune.engines.vllm.table_format import by_number, flatten, json_bytes, kind_of, read_json
from bo_tune.errors import TableError
from bo_tune.files import (
    check_file_writable,
    os_error_text,
    plain_name,
    remove_stale_temporaries,
    write_atomically,
)

Keys = tuple[str, ...]
"""The decimal strings under which a config is found, outermost first."""

WrittenConfig = Mapping[str, int | None]
"""A config as it stands in a table; null for a parameter left open."""

LEVELS = ("max_loras", "num_slices", "m", "k", "n", "i")
"""What the keys are, outermost first. Dense kernels have no i."""

FILE_STEMS = {
    "SHRINK": 5,
    "EXPAND_TRUE": 5,
    "EXPAND_FALSE": 5,
    "FUSED_MOE_LORA_W13_SHRINK": 6,
    "FUSED_MOE_LORA_W13_EXPAND": 6,
    "FUSED_MOE_LORA_W2_SHRINK": 6,
    "FUSED_MOE_LORA_W2_EXPAND": 6,
}
"""What follows the GPU's name in the names of the files that vLLM looks for, and how many levels they have."""

CONFIG_ORDER = ("block_m", "block_n", "block_k", "split_k", "group_size_m", "num_warps", "num_ctas", "num_stages")
"""Order in which a config's parameters are written; others follow by name."""

_PROBE = "probe"
"""What a file would be called of which nothing but its folder is known."""
_LOCK_TIMEOUT_S = 60.0
_READS = 4
_READ_AGAIN_S = 0.05


@dataclass(frozen=True, slots=True)
class Table:
    """One JSON file, flattened.

    Attributes:
        levels: how many keys lead to a config: 5, or 6 with i.
        entries: the config objects as written, by keys; values are integers, or null for a parameter left open.
    """

    levels: int
    entries: Mapping[Keys, WrittenConfig]

    @property
    def configs(self) -> dict[Keys, dict[str, int]]:
        """The configs by keys, without parameters left open."""
        return {keys: without_open(entry) for keys, entry in self.entries.items()}

    def merged(self, entries: Mapping[Keys, WrittenConfig]) -> "Table":
        """Return the table with entries replaced or added; all others stay as they are."""
        return Table(self.levels, {**self.entries, **{keys: in_order(config) for keys, config in entries.items()}})

    def nested(self) -> dict[str, Any]:
        """Return the nested object that is written, each level sorted by number."""
        root: dict[str, Any] = {}
        for keys in sorted(self.entries, key=by_number):
            level = root
            for key in keys[:-1]:
                level = level.setdefault(key, {})
            level[keys[-1]] = dict(self.entries[keys])
        return root


@dataclass(frozen=True, slots=True)
class TunedEntry:
    """One config to be written.

    Attributes:
        gpu_file_name: the GPU's name as in file names (``GpuInfo.file_name``).
        file_stem: what follows it, for example ``SHRINK`` (``KernelSpec.file_stem``).
        keys: where the engine will look (``KernelSpec.table_key``).
        provenance: where it came from; None where nobody knows.
    """

    gpu_file_name: str
    file_stem: str
    keys: Keys
    config: WrittenConfig
    provenance: Provenance | None

    @property
    def file_name(self) -> str:
        """Name of the JSON file the entry belongs to."""
        return table_file_name(self.gpu_file_name, self.file_stem)


def table_file_name(gpu_file_name: str, file_stem: str) -> str:
    """Return the name of a table: ``NVIDIA_H100_80GB_HBM3_SHRINK.json``."""
    return f"{gpu_file_name}_{file_stem}.json"


def split_file_name(name: str) -> tuple[str, str] | None:
    """Return the GPU's name and the stem of a table's file name, or None for a name that vLLM would never load."""
    for stem in sorted(FILE_STEMS, key=len, reverse=True):
        gpu = name.removesuffix(f"_{stem}.json")
        if gpu and gpu != name:
            return gpu, stem
    return None


def in_order(config: WrittenConfig) -> dict[str, int | None]:
    """Return the config with its parameters in the order in which they are written."""
    names = sorted(config, key=lambda name: (CONFIG_ORDER.index(name) if name in CONFIG_ORDER else 99, name))
    return {name: None if (value := config[name]) is None else int(value) for name in names}


def without_open(config: WrittenConfig) -> dict[str, int]:
    """Return the config without parameters left open."""
    return {name: value for name, value in config.items() if value is not None}


def missing_lookups(table: Table, num_slices: Iterable[int] = ()) -> list[str]:
    """Name the lookups that would be a KeyError inside the engine.

    vLLM snaps every key to the nearest one but num_slices, so every num_slices in use must stand under every max_loras.

    Args:
        num_slices: those that the model uses, on top of those found anywhere in the table.
    """
    present: dict[str, set[str]] = {}
    for keys in table.entries:
        present.setdefault(keys[0], set()).add(keys[1])
    needed = set().union(*present.values(), map(str, num_slices))
    return [
        f"max_loras {max_loras}: no entry for num_slices {slices}"
        for max_loras in sorted(present, key=int)
        for slices in sorted(needed - present[max_loras], key=int)
    ]


def read_table(path: Path, levels: int | None = None) -> Table:
    """Read and check a table.

    Args:
        levels: how many keys lead to a config; told from the file's name if left out.

    Raises:
        TableError: the file cannot be read or is malformed. One line, with the file and the place in it.
    """
    if levels is None:
        names = split_file_name(path.name)
        levels = FILE_STEMS[names[1]] if names else 5
    document = read_json(path)
    if not isinstance(document, dict):
        raise TableError(f"{path}: expected an object of max_loras keys, got {kind_of(document)}")
    return Table(levels, dict(flatten(document, LEVELS[:levels], (), path)))


def table_paths(folder: Path) -> list[Path]:
    """Return the paths of the tables directly in a folder, sorted. Other files are passed over.

    Raises:
        TableError: the folder cannot be read or holds no table.
    """
    try:
        paths = sorted(path for path in folder.iterdir() if split_file_name(path.name))
    except OSError as error:
        raise TableError(f"{folder}: {os_error_text(error)}") from None
    if not paths:
        raise TableError(f"{folder}: no tuned JSON (*_SHRINK.json, *_EXPAND_TRUE.json, …) in this folder")
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
    """Read the sidecar of a table; empty where there is none.

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
    """Return which code the entries of a table were tuned with, as far as its sidecar tells. Raises TableError."""
    entries = _read_sidecar(provenance_path(table))
    return {keys: source for keys, entry in entries.items() if isinstance(source := entry.get("kernel_source"), str)}


def read_entries(path: Path) -> list[TunedEntry]:
    """Read a table with where each entry came from, while others may be writing it.

    What the sidecar says of another config than the table's says nothing of this one. Both files are replaced one after
    the other, so where they differ they are read again.

    Raises:
        TableError: one of them cannot be read or is malformed, or the name is none of a table.
    """
    names = split_file_name(path.name)
    if names is None:
        raise TableError(f"{path}: not the name of a table")
    for _ in range(_READS):
        # The table first: the sidecar is written before it, so it knows of every entry that is found here.
        table, origins = read_table(path), read_provenance(path)
        configs = table.configs
        fitting = {keys: o for keys, o in origins.items() if dict(o.config) == configs.get(keys, o.config)}
        if len(fitting) == len(origins):
            break
        time.sleep(_READ_AGAIN_S)
    return [TunedEntry(*names, keys, config, fitting.get(keys)) for keys, config in table.entries.items()]


def check_writable(folder: Path, file_names: Iterable[str] = ()) -> None:
    """Find out before tuning whether its results can be written. The folder is created.

    Args:
        file_names: tables that will be merged into: those that exist must be well-formed, with their sidecars.

    Raises:
        TableError: the folder cannot be created or written, a name cannot be that of a file, or a table is malformed.
    """
    paths = [_path_in(folder, name) for name in file_names]
    if folder.exists() and not folder.is_dir():
        raise TableError(f"{folder}: is a file, expected a folder")
    for file, place in ((folder / _PROBE, folder), *((file, path) for path in paths for file in _files_of(path))):
        with _writing(place):
            check_file_writable(file)
    for path in paths:
        with _writing(path):
            check_lock(path)
        _read_existing(path, None)
        _read_sidecar(provenance_path(path))


def write_tables(
    folder: Path,
    results: Sequence[TunedEntry],
    note: Callable[[str], None] | None = None,
    *,
    rank: Callable[[Mapping[str, Any]], Any] | None = None,
) -> list[Path]:
    """Merge results into the tables of a folder, with their provenance.

    Of entries with equal keys, in the table and among the results, the one measured last stays: of equally old ones the
    last of the results, and one whose time nobody knows only where there is no other. Each file is read, decided on and
    replaced in one step under a lock, the sidecar before the table, so that concurrent sessions lose nothing and a
    killed one leaves every file whole.

    Args:
        note: is told, in a line each, of what a reader of the files would not expect.
        rank: what entries with equal keys are compared by, told from what the sidecar says of one; by default when it
            was measured.

    Returns:
        The paths of the tables, sorted.

    Raises:
        TableError: a file is malformed (it is left as it is) or cannot be written.
    """
    paths = []
    for name, group in groupby(sorted(results, key=lambda result: result.file_name), lambda result: result.file_name):
        path = _path_in(folder, name)
        with _writing(path):
            folder.mkdir(parents=True, exist_ok=True)
            with locked(path, _LOCK_TIMEOUT_S):
                _merge_file(path, list(group), note, rank or measured)
        paths.append(path)
    return paths


@contextmanager
def _writing(place: Path) -> Iterator[None]:
    try:
        yield
    except TimeoutError:
        raise TableError(f"{place}: another process has been writing it for {_LOCK_TIMEOUT_S:.0f} s") from None
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
    (levels,) = {len(result.keys) for result in results}
    table, sidecar = _read_existing(path, levels), provenance_path(path)
    configs, known = table.configs, _read_sidecar(sidecar)
    origins = {keys: origin for keys, origin in known.items() if origin.get("config") == configs.get(keys)}
    chosen: dict[Keys, WrittenConfig] = {}
    older = set()
    for result in results:
        origin = result.provenance.to_json() if result.provenance else {}
        if rank(origin) >= rank(origins.get(result.keys, {})):
            chosen[result.keys], origins[result.keys] = result.config, origin
        else:
            older.add(result.keys)
    document = document_of({keys: origins[keys] for keys in sorted(origins, key=by_number) if origins[keys]})
    for written in _files_of(path):
        remove_stale_temporaries(written)
    write_atomically(sidecar, json_bytes(document))
    write_atomically(path, json_bytes(table.merged(chosen).nested()))
    left = len(older - chosen.keys())
    if note is not None and left:
        note(f"{path.name}: entries that were measured later than the new ones stay: {left}")


def measured(origin: Mapping[str, Any]) -> datetime:
    """Return when an entry was measured; where nobody knows, long ago."""
    return moment_of(origin.get("date")) or datetime.min.replace(tzinfo=UTC)


def _read_existing(path: Path, levels: int | None) -> Table:
    if not path.exists():
        return Table(levels or 5, {})
    return read_table(path, levels)


def _read_sidecar(path: Path) -> dict[Keys, dict[str, Any]]:
    return entries_of(read_json(path), path) if path.exists() else {}
