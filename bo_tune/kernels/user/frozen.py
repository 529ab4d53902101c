"""Tables of the best configs, which a package ships and every process reads: no database, no GPU and no search.

The look-up for a kernel and the name of a GPU follows this rule:

1. Take the entry with exactly these sizes.
2. Otherwise, look at the entries with the same words and truth values. Take the nearest whose config is valid for the
   sizes asked for. The nearest entry has the least sum of |log2 of the ratio| over the other sizes (of |difference| if
   one is not positive). If two are equally near, take the first in the table, which is sorted by sizes.
3. Otherwise, take the default config.
"""

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import lru_cache
from math import log2
from pathlib import Path
from typing import Any, Literal, Protocol

import torch
from pydantic import BaseModel, ConfigDict, ValidationError

from bo_tune.core.problem import Size, SizedProblem
from bo_tune.errors import InputError
from bo_tune.files import os_error_text, parse_json, read_file, resolved, shown, write_atomically
from bo_tune.kernels.user.definition import Definition, Params, Sizes
from bo_tune.kernels.user.identity.home import file_of, uniquely_named
from bo_tune.kernels.user.values import Value

OnMiss = Literal["nearest", "default", "error"]
"""What to do if a table does not have exactly the sizes asked for."""

ON_MISS = ("nearest", "default", "error")

SUFFIX = ".tuned.json"
"""Suffix of the table beside a module: ``softmax.tuned.json`` beside ``softmax.py``."""

MOST_REMEMBERED = 100_000
"""Most answers to remember, of some hundred bytes each. A server may ask for any number of sizes."""

Plain = bool | int | float | str | None
"""A value in a table. Values that JSON cannot hold (a dtype, a tuple) are stored as text."""


class Result(Protocol):
    """The result of tuning a kernel on one problem (``bo_tune.Best``)."""

    @property
    def kernel(self) -> str:
        """Name of the kernel."""

    @property
    def problem(self) -> Sizes:
        """The sizes."""

    @property
    def config(self) -> Params:
        """The config to use."""

    @property
    def time_us(self) -> float:
        """Time of the config, in us."""

    @property
    def default_time_us(self) -> float | None:
        """Time of the default config, in us."""

    @property
    def gpu(self) -> str:
        """Name of the GPU."""

    @property
    def study(self) -> str:
        """Name of the study, which identifies code and toolchain."""


class Entry(BaseModel):
    """The config to use for some sizes."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    sizes: dict[str, bool | int | float | str]
    config: dict[str, Plain]
    time_us: float
    default_time_us: float | None
    study: str


class Table(BaseModel):
    """The content of a file: entries by kernel and GPU."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    format: Literal["bo_tune table 1"] = "bo_tune table 1"
    kernels: dict[str, dict[str, list[Entry]]]


def freeze(results: Iterable[Result], table: str | Path) -> None:
    """Write the results of tuning into a table. Its entries for other kernels, GPUs and sizes stay.

    Args:
        results: the results of ``tune`` or ``grid``.
        table: a JSON file; created if it does not exist.

    Raises:
        InputError: the file cannot be written, or exists and is not a table.
    """
    path = Path(table)
    with written_by_one(path):
        _add(results, path)


def forget() -> None:
    """Read tables anew that this process has read, because another process has written them."""
    _table.cache_clear()
    _FOUND.clear()


@contextmanager
def written_by_one(table: Path, what: str = "") -> Iterator[None]:
    """Keep other processes from writing a table inside the context.

    Args:
        what: an activity other than writing to lock instead.

    Raises:
        InputError: the lock beside the table cannot be made.
    """
    # A process that only reads a table needs no lock, and should not wait for the import.
    from filelock import FileLock  # noqa: PLC0415

    target = resolved(table)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        lock = FileLock(target.with_name(f".{target.name}{what}.lock"))
        lock.acquire()
    except OSError as error:
        raise InputError(f"{table}: {os_error_text(error)}") from None
    try:
        yield
    finally:
        lock.release()


def _add(results: Iterable[Result], path: Path) -> None:
    there = _read(path) if path.exists() else Table(kernels={})
    kernels = {kernel: {gpu: list(entries) for gpu, entries in gpus.items()} for kernel, gpus in there.kernels.items()}
    for result in results:
        entries = kernels.setdefault(result.kernel, {}).setdefault(result.gpu, [])
        sizes = dict(result.problem)
        entries[:] = [entry for entry in entries if _sizes_key(entry.sizes) != _sizes_key(sizes)]
        entries.append(
            Entry(
                sizes=sizes,
                config={name: _plain(value) for name, value in result.config.items()},
                time_us=result.time_us,
                default_time_us=result.default_time_us,
                study=result.study,
            )
        )
        entries.sort(key=lambda entry: [(isinstance(size, str), size) for size in entry.sizes.values()])
    text = json.dumps(Table(kernels=kernels).model_dump(), indent=1, sort_keys=False) + "\n"
    try:
        write_atomically(path, text.encode())
    except OSError as error:
        raise InputError(f"{path}: {os_error_text(error)}") from None
    forget()


def best(
    kernel: Any,
    sizes: Sizes,
    table: str | Path | None = None,
    *,
    gpu: str | None = None,
    on_miss: OnMiss = "nearest",
) -> dict[str, Value]:
    """Return the config to use for some sizes, by a table. A process reads a table once.

    Args:
        kernel: a ``Kernel``, an ``Operation``, or a kernel under ``bo_tune.autotune``.
        sizes: sizes by name, as in tuning.
        table: the file that ``freeze`` wrote. The default is the file beside the module that has the kernel as a global
            (``SUFFIX``).
        gpu: name of the GPU; by default torch's current one.
        on_miss: what to do if the table does not have exactly these sizes: ``nearest`` (see the module), ``default``
            (the default config), ``error``.

    Raises:
        InputError: there is no such table; it has a config that the kernel does not have; or it has nothing for the
            sizes, and ``on_miss`` is ``error``.
    """
    kernel = getattr(kernel, "definition", kernel)
    gpu = gpu_at_hand() if gpu is None else gpu
    key = (kernel, table, gpu, on_miss, *sizes.items(), *map(type, sizes.values()))  # True differs from 1
    found = _FOUND.get(key)
    if found is None:
        if len(_FOUND) >= MOST_REMEMBERED:
            _FOUND.clear()
        path = file_of(kernel).with_suffix(SUFFIX) if table is None else Path(table)
        found = _FOUND[key] = dict(_look_up(kernel, dict(sizes), path, gpu, on_miss))
    return dict(found)


_FOUND: dict[tuple[Any, ...], dict[str, Value]] = {}


def _look_up(kernel: Definition, sizes: dict[str, Size], table: Path, gpu: str, on_miss: OnMiss) -> Params:
    if on_miss not in ON_MISS:
        raise InputError(f"on_miss: expected one of {', '.join(ON_MISS)}, got {on_miss!r}")
    name = uniquely_named(kernel).name
    try:
        problem = SizedProblem(name, tuple(sizes.items()))
    except ValueError as error:
        raise InputError(f"{name}: {error}") from error
    entries = entries_of(name, gpu, table)
    found = exact(entries, sizes)
    if found is not None:
        return params_of(kernel, found, table)
    if on_miss == "error":
        raise InputError(
            f"{table}: there is no entry for {problem} on {gpu or 'no GPU'}; tune it, and freeze the result"
        )
    if on_miss == "nearest":
        for entry in by_distance(entries, sizes):
            params = params_of(kernel, entry, table)
            if kernel.allows(problem, params):
                return params
    return kernel.default_params(problem)


def entries_of(kernel: str, gpu: str, table: Path) -> Sequence[Entry]:
    """Return the entries of a table for a kernel on a GPU. A process reads a table once. Raises InputError."""
    return _table(table).kernels.get(kernel, {}).get(gpu, [])


def exact(entries: Iterable[Entry], sizes: Mapping[str, Size]) -> Entry | None:
    """Return the entry with exactly these sizes; None if there is none."""
    key = _sizes_key(sizes)
    return next((entry for entry in entries if _sizes_key(entry.sizes) == key), None)


def by_distance(entries: Iterable[Entry], sizes: Mapping[str, Size]) -> Iterator[Entry]:
    """Yield the entries with the same words and truth values, nearest first."""
    alike = [entry for entry in entries if _words(entry.sizes) == _words(sizes) and set(entry.sizes) == set(sizes)]
    yield from sorted(alike, key=lambda entry: sum(_distance(entry.sizes[name], sizes[name]) for name in sizes))


def _words(sizes: Mapping[str, Size]) -> dict[str, Size]:
    return {name: size for name, size in sizes.items() if isinstance(size, (str, bool))}


def _distance(one: Size, other: Size) -> float:
    if isinstance(one, (str, bool)) or isinstance(other, (str, bool)):
        return 0.0  # words and truth values, which are the same
    return abs(log2(one / other)) if one > 0 and other > 0 else float(abs(one - other))


def _sizes_key(sizes: Mapping[str, Size]) -> frozenset[tuple[str, bool, Size]]:
    """Return a key that is equal for the same sizes in any order. A truth value differs from a number."""
    return frozenset((name, isinstance(size, bool), size) for name, size in sizes.items())


def _plain(value: Value) -> Plain:
    return value if value is None or isinstance(value, (bool, int, float, str)) else str(value)


def params_of(kernel: Definition, entry: Entry, table: Path) -> Params:
    """Return the config of an entry in the kernel's own values. Raises InputError if the kernel has other values."""
    params = {}
    for name, stored in entry.config.items():
        values = kernel.values[name].values if name in kernel.values else ()
        alike = (value for value in values if _plain(value) == stored and type(_plain(value)) is type(stored))
        params[name] = next(alike, stored)
    try:
        kernel.encode(params, str(table))
    except InputError as error:
        raise InputError(
            f"{error}: the kernel has changed since it was tuned; tune it again, and freeze the result"
        ) from None
    return params


@lru_cache(maxsize=64)
def _table(path: Path) -> Table:
    return _read(path)


def _read(path: Path) -> Table:
    try:
        return Table.model_validate(parse_json(read_file(path)))
    except OSError as error:
        raise InputError(f"{path}: {os_error_text(error)}") from None
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        place = ".".join(map(str, first["loc"])) or "the whole file"
        raise InputError(
            f"{path}: expected a table that bo_tune wrote: {place}: {first['msg']}, got {shown(first['input'])}"
        ) from None
    except ValueError as error:
        raise InputError(f"{path}: expected a table that bo_tune wrote: {error}") from None


def gpu_at_hand() -> str:
    """Return the name of torch's current GPU; empty if there is none."""
    # The slowest part is asking whether there is a GPU.
    there = is_gpu_in_use() or torch.cuda.is_available()
    return _name_of(torch.cuda.current_device()) if there else ""


def is_gpu_in_use() -> bool:
    """Say whether this process uses a GPU through torch."""
    return bool(torch.cuda.is_initialized())  # type: ignore[no-untyped-call]


@lru_cache(maxsize=64)
def _name_of(index: int) -> str:
    return torch.cuda.get_device_name(index)
