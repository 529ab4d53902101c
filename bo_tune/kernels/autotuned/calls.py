"""Calls for which no winner was known, written down where they were made, to be tuned elsewhere.

A folder has one file per process, and a file one line per call. Each line is appended in one step. So a process that is
killed leaves whole lines and at most one partial line, which is ignored.
"""

import json
import os
import platform
import threading
from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, ValidationError, model_validator

from bo_tune.core.problem import Size, SizedProblem
from bo_tune.errors import InputError
from bo_tune.files import os_error_line, os_error_text, parse_json, read_file
from bo_tune.kernels.autotuned.described import digest_of, size_of, types_of

SUFFIX = ".calls.jsonl"

MOST_CALLS = 2_000
"""Most calls per process."""

MOST_BYTES = 32 * 2**20
"""Most bytes per process."""

TUNED_VARIABLE = "BO_TUNE_TUNED_CALLS"
"""Names the folder of the calls that are being tuned, for the processes that compile and measure."""

TYPES, CALL = "dtypes", "call"
"""Sizes of a problem besides those of the key: the types of the tensors, and a digest that finds the rest of the
call."""


class RecordedCall(BaseModel):
    """One call of a kernel, without the contents of its tensors.

    Attributes:
        home: the module that holds the kernel, or the file of the script.
        kernel: its name there.
        key: names of the arguments that tell problems apart, as far as the call had them.
        arguments: all arguments by name.
        options: the call's own launch options.
        grids: the different grids of programs.
        grid_of: index into ``grids`` for each config of the list; -1 if pruning leaves the config out.
        gpu: the GPU on which the call was made.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    format: Literal["bo_tune call 1"] = "bo_tune call 1"
    home: str
    kernel: str
    key: tuple[str, ...]
    arguments: dict[str, Any]
    options: dict[str, Any] = {}
    grids: tuple[tuple[int, ...], ...]
    grid_of: tuple[int, ...]
    gpu: str = ""

    @model_validator(mode="after")
    def _fits(self) -> "RecordedCall":
        if any(name not in self.arguments for name in self.key):
            raise ValueError("key: expected names of arguments, got another name")
        if any(not -1 <= place < len(self.grids) for place in self.grid_of):
            raise ValueError("grid_of: expected positions in grids, got another position")
        if not all(1 <= len(grid) <= 3 and all(axis > 0 for axis in grid) for grid in self.grids):
            raise ValueError("grids: expected one to three positive numbers in each")
        return self

    @property
    def sizes(self) -> dict[str, Size]:
        """The sizes under which winners are looked up: the key, and the types of the tensors."""
        return {**{name: size_of(self.arguments[name]) for name in self.key}, TYPES: types_of(self.arguments)}

    @property
    def digest(self) -> str:
        """A word that stands for everything that affects what is measured."""
        return digest_of([self.arguments, self.options, self.grids, self.grid_of])

    def problem(self, kernel: str) -> SizedProblem:
        """Return the problem to tune. Raises InputError if its name would be too long."""
        try:
            return SizedProblem(kernel, tuple({**self.sizes, CALL: self.digest}.items()))
        except ValueError as error:
            raise InputError(f"{kernel}: key: {error}") from error


class CallWriter:
    """Appends calls to the file of this process. Safe to use from several threads."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._pid, self._path = 0, folder
        self._seen: set[str] = set()
        self._bytes = 0
        self._lock = threading.Lock()

    def write(self, call: RecordedCall) -> bool:
        """Write down a call, unless it is known or this process has written enough. Return whether it was written.

        Raises:
            InputError: the folder cannot be written.
        """
        with self._lock:
            return self._write(call)

    def _write(self, call: RecordedCall) -> bool:
        if os.getpid() != self._pid:  # forked: this process gets its own file
            self._pid, self._seen, self._bytes = os.getpid(), set(), 0
            self._path = self._folder / f"{platform.node() or 'host'}-{self._pid}{SUFFIX}"
        line = json.dumps(call.model_dump(), separators=(",", ":"), allow_nan=False).encode() + b"\n"
        name = f"{call.home} {call.kernel} {call.digest}"
        if name in self._seen or len(self._seen) >= MOST_CALLS or self._bytes + len(line) > MOST_BYTES:
            return False
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
            descriptor = os.open(self._path, flags, 0o666)
            try:
                os.write(descriptor, line)
            finally:
                os.close(descriptor)
        except OSError as error:
            raise InputError(f"{os_error_line(error)}: set BO_TUNE_CALLS to a folder that can be written") from None
        self._seen.add(name)
        self._bytes += len(line)
        return True


def read_calls(folder: Path) -> list[RecordedCall]:
    """Read all calls of a folder, or of one file, each once.

    Raises:
        InputError: there are none, or a line is not a call.
    """
    files = [folder] if folder.is_file() else sorted(folder.glob(f"*{SUFFIX}")) if folder.is_dir() else []
    if not files:
        raise InputError(f"{folder}: there are no recorded calls; run the program with BO_TUNE_ON_MISS=record")
    found = {(call.home, call.kernel, call.digest): call for file in files for call in _of_file(file)}
    if not found:
        raise InputError(f"{folder}: its files hold no complete call; run the program with BO_TUNE_ON_MISS=record")
    return list(found.values())


def _of_file(path: Path) -> Iterator[RecordedCall]:
    try:
        lines = read_file(path).split(b"\n")
    except OSError as error:
        raise InputError(f"{path}: {os_error_text(error)}") from None
    for number, line in enumerate(lines[:-1], 1):  # the last piece is empty, or a line that was never finished
        try:
            yield RecordedCall.model_validate(parse_json(line))
        except ValidationError as error:
            first = error.errors(include_url=False)[0]
            place = ".".join(map(str, first["loc"])) or "the whole line"
            raise InputError(
                f"{path}:{number}: expected a call that bo_tune recorded: {place}: {first['msg']}"
            ) from None
        except ValueError as error:
            raise InputError(f"{path}:{number}: expected a call that bo_tune recorded: {error}") from None


def tuned_call(sizes: Mapping[str, Size]) -> RecordedCall:
    """Return the call of a problem, among those that are being tuned. Raises InputError."""
    folder = os.environ.get(TUNED_VARIABLE)
    if not folder or CALL not in sizes:
        raise InputError(
            "a kernel under @bo_tune.autotune is tuned through its recorded calls; use bo_tune.tune_recorded"
        )
    call = _by_digest(Path(folder)).get(str(sizes[CALL]))
    if call is None:
        raise InputError(f"{folder}: there is no recorded call {sizes[CALL]}")
    return call


def forget_calls() -> None:
    """Read calls anew that this process has read."""
    _by_digest.cache_clear()


@lru_cache(maxsize=8)
def _by_digest(folder: Path) -> dict[str, RecordedCall]:
    return {call.digest: call for call in read_calls(folder)}


def grids_of(each: Sequence[tuple[int, ...] | None]) -> tuple[tuple[tuple[int, ...], ...], tuple[int, ...]]:
    """Return the different grids of configs, and the index of each config's grid; -1 for none."""
    different = tuple(dict.fromkeys(grid for grid in each if grid is not None))
    place = {grid: number for number, grid in enumerate(different)}
    return different, tuple(-1 if grid is None else place[grid] for grid in each)
