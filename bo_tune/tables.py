"""The nested JSON that vLLM loads: read, merge, write atomically, check.

``data[max_loras][num_slices][m][k][n]`` holds a config; the fused MoE kernels have one level more, ``[i]``. All keys
are decimal strings. One file per GPU, kernel and, for expand, value of add_inputs: ``{gpu}_SHRINK.json``.
"""

import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from bo_tune.errors import TableError
from bo_tune.files import os_error_text, remove_stale_temporaries, write_atomically
from bo_tune.provenance import Provenance, document_of, entries_of, provenance_path
from bo_tune.space import Config

Keys = tuple[str, ...]
"""The decimal strings under which a config is found, outermost first."""

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

_LOCK_TIMEOUT_S = 60.0
_DECIMAL = re.compile(r"0|[1-9][0-9]{0,17}")


@dataclass(frozen=True, slots=True)
class Table:
    """One JSON file, flattened.

    Attributes:
        levels: how many keys lead to a config: 5, or 6 with i.
        entries: the config objects as written, by keys; values are integers, or null for a parameter left open.
    """

    levels: int
    entries: Mapping[Keys, Mapping[str, int | None]]

    @property
    def configs(self) -> dict[Keys, dict[str, int]]:
        """The configs by keys, without parameters left open."""
        return {
            keys: {name: value for name, value in entry.items() if value is not None}
            for keys, entry in self.entries.items()
        }

    def merged(self, entries: Mapping[Keys, Config]) -> "Table":
        """Return the table with entries replaced or added; all others stay as they are."""
        return Table(self.levels, {**self.entries, **{keys: in_order(config) for keys, config in entries.items()}})

    def nested(self) -> dict[str, Any]:
        """Return the nested object that is written, each level sorted by number."""
        root: dict[str, Any] = {}
        for keys in sorted(self.entries, key=_numeric):
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
    config: Config
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


def in_order(config: Config) -> dict[str, int]:
    """Return the config with its parameters in the order in which they are written."""
    names = sorted(config, key=lambda name: (CONFIG_ORDER.index(name) if name in CONFIG_ORDER else 99, name))
    return {name: int(config[name]) for name in names}


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
    document = _read_json(path)
    if not isinstance(document, dict):
        raise TableError(f"{path}: expected an object of max_loras keys, got {_kind(document)}")
    return Table(levels, dict(_flatten(document, levels, (), path)))


def read_folder(folder: Path) -> dict[str, Table]:
    """Read every table directly in a folder, by file name, sorted. Other files are passed over.

    Raises:
        TableError: the folder cannot be read or holds no table, or one of them is malformed.
    """
    try:
        paths = sorted(path for path in folder.iterdir() if split_file_name(path.name))
    except OSError as error:
        raise TableError(f"{folder}: {os_error_text(error)}") from None
    if not paths:
        raise TableError(f"{folder}: no tuned JSON (*_SHRINK.json, *_EXPAND_TRUE.json, …) in this folder")
    return {path.name: read_table(path) for path in paths}


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


def check_writable(folder: Path, file_names: Iterable[str] = ()) -> None:
    """Find out before tuning whether its results can be written. The folder is created.

    Args:
        file_names: tables that will be merged into: those that exist must be well-formed, with their sidecars.

    Raises:
        TableError: the folder cannot be created or written, or a table is malformed.
    """
    probe = folder / ".bo_tune-probe"
    if folder.exists() and not folder.is_dir():
        raise TableError(f"{folder}: is a file, expected a folder")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        write_atomically(probe, b"\n" * 4096)
        probe.unlink(missing_ok=True)
    except OSError as error:
        raise TableError(f"{folder}: cannot be written: {os_error_text(error)}") from None
    for name in file_names:
        _read_existing(folder / name, None)
        _read_sidecar(provenance_path(folder / name))


def write_tables(folder: Path, results: Sequence[TunedEntry]) -> list[Path]:
    """Merge results into the tables of a folder, with their provenance.

    Each file is read, merged and replaced in one step under a lock, the sidecar before the table, so that concurrent
    sessions lose nothing and a killed one leaves every file whole. Of results with equal keys the last counts.

    Returns:
        The paths of the tables, sorted.

    Raises:
        TableError: a file is malformed (it is left as it is) or cannot be written.
    """
    paths = []
    for name, group in groupby(sorted(results, key=lambda result: result.file_name), lambda result: result.file_name):
        path = folder / name
        try:
            folder.mkdir(parents=True, exist_ok=True)
            with _locked(path):
                _merge_file(path, {result.keys: result for result in group})
        except OSError as error:
            raise TableError(f"{path}: cannot be written: {os_error_text(error)}") from None
        paths.append(path)
    return paths


def _merge_file(path: Path, results: Mapping[Keys, TunedEntry]) -> None:
    (levels,) = {len(keys) for keys in results}
    table = _read_existing(path, levels).merged({keys: result.config for keys, result in results.items()})
    sidecar = provenance_path(path)
    known = {keys: result.provenance.to_json() for keys, result in results.items() if result.provenance}
    others = {keys: entry for keys, entry in _read_sidecar(sidecar).items() if keys not in results}
    origins = {**others, **known}
    for written in (sidecar, path):
        remove_stale_temporaries(written)
    write_atomically(sidecar, _json_bytes(document_of({keys: origins[keys] for keys in sorted(origins, key=_numeric)})))
    write_atomically(path, _json_bytes(table.nested()))


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    lock = FileLock(path.with_name(f".{path.name}.lock"), timeout=_LOCK_TIMEOUT_S)
    try:
        lock.acquire()
    except Timeout:
        raise TableError(f"{path}: another process has been writing it for {_LOCK_TIMEOUT_S:.0f} s") from None
    try:
        yield
    finally:
        lock.release()


def _read_existing(path: Path, levels: int | None) -> Table:
    if not path.exists():
        return Table(levels or 5, {})
    return read_table(path, levels)


def _read_sidecar(path: Path) -> dict[Keys, dict[str, Any]]:
    return entries_of(_read_json(path), path) if path.exists() else {}


def _read_json(path: Path) -> Any:
    try:
        return json.loads(path.read_bytes(), object_pairs_hook=_without_repeats, parse_constant=_reject_constant)
    except OSError as error:
        raise TableError(f"{path}: {os_error_text(error)}") from None
    except (ValueError, RecursionError) as error:
        raise TableError(f"{path}: not JSON: {error}") from None


def _without_repeats(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in pairs:
        if key in found:
            raise ValueError(f"the key {key!r} stands twice in one object")
        found[key] = value
    return found


def _reject_constant(name: str) -> None:
    raise ValueError(f"{name} is no number")


def _flatten(
    level: Mapping[str, Any], levels: int, above: Keys, path: Path
) -> Iterator[tuple[Keys, dict[str, int | None]]]:
    name = LEVELS[len(above)]
    for key, value in level.items():
        keys = (*above, key)
        place = f"{path}: {'/'.join(keys)}"
        if not _DECIMAL.fullmatch(key):
            raise TableError(f"{place}: expected a decimal number as {name} key, got {key!r}")
        if not isinstance(value, dict) or not value:
            raise TableError(f"{place}: expected a non-empty object, got {_kind(value)}")
        if len(keys) < levels:
            yield from _flatten(value, levels, keys, path)
        else:
            _check_config(value, place)
            yield keys, value


def _check_config(config: Mapping[str, Any], place: str) -> None:
    for name, value in config.items():
        if value is not None and type(value) is not int:
            raise TableError(f"{place}: {name}: expected an integer, got {_kind(value)}")


def _kind(value: object) -> str:
    if isinstance(value, dict):
        return "an object" if value else "an empty object"
    return "an array" if isinstance(value, list) else json.dumps(value)[:60]


def _numeric(keys: Keys) -> tuple[tuple[int, str], ...]:
    return tuple((int(key) if key.isdecimal() else 0, key) for key in keys)


def _json_bytes(document: Mapping[str, Any]) -> bytes:
    return (json.dumps(document, indent=2, allow_nan=False) + "\n").encode()
