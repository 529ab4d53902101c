"""The file of one process: a line for each distinct lookup and size of a step, with its count.

A new line is written at once. The count of a step's size is overwritten in place at each step. The counts of lookups
are written at the next step or new line. So a killed process loses no line and no finished step, and of its lookups at
most the counts since the step before. Uses only the standard library, because it runs inside a serving engine.
"""

import json
import os
import socket
import sys
import time
from collections.abc import Hashable, Mapping
from itertools import count as numbers
from pathlib import Path
from threading import Lock
from typing import Any

from bo_tune.engines.vllm.observed import names

MOST_LINES = 100_000
"""Most lines of a file, which are tens of MB. A step without a CUDA graph may have any size."""

_FLAGS = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC


class Entry:
    """A line and its count.

    Attributes:
        count: the count so far.
        written: the count in the file.
    """

    __slots__ = ("_offset", "count", "written")

    def __init__(self, offset: int, count: int = 1) -> None:
        self._offset, self.count, self.written = offset, count, count

    def write(self, file: int) -> None:
        """Bring the count in the file up to date."""
        if self.count != self.written:
            self.written = self.count
            os.pwrite(file, b"%*d" % (names.COUNT_WIDTH, self.written), self._offset)


class Recorder:
    """Writes the lookups of a process. Opens its file at the first line.

    Args:
        path: the file name from which those of all processes are derived.
        engine_version: version of vLLM.
    """

    def __init__(self, path: Path, engine_version: str) -> None:
        self._path, self._engine_version = path, engine_version
        self.entries: dict[Hashable, Entry] = {}
        self.changed: set[Entry] = set()
        self._families: set[Hashable] = set()
        self._lock = Lock()
        self._forget()

    def _forget(self) -> None:
        self._file, self._size, self._lines = -1, 0, 0
        self._left_out: Entry | None = None

    def forked(self) -> None:
        """Start anew in a child process, which has a file of its own."""
        self._lock = Lock()
        if self._file >= 0:
            os.close(self._file)
        self.entries.clear()
        self.changed.clear()
        self._families.clear()
        self._forget()

    def is_new(self, family: Hashable) -> bool:
        """Say whether a family is new, and remember it."""
        new = family not in self._families
        self._families.add(family)
        return new

    def add(self, key: Hashable, document: Mapping[str, Any], count: int = 1) -> None:
        """Write a new line. Raises OSError if that fails."""
        with self._lock:
            if key in self.entries:
                return
            if self._file < 0:
                self._open()
            if self._lines < MOST_LINES:
                self.entries[key] = Entry(self._write(document, count), count)
            else:
                self._leave_out()
            self._write_counts()

    def step(self, key: tuple[int, ...]) -> None:
        """Count a step of a size: tokens, padded tokens, sequences and adapters. Raises OSError."""
        entry = self.entries.get(key)
        if entry is None:
            sizes = dict(zip((names.TOKENS, names.PADDED, names.SEQUENCES, names.ADAPTERS), key, strict=True))
            self.add(key, {names.STEP: sizes})
            return
        entry.count += 1
        entry.write(self._file)
        if self.changed:
            with self._lock:
                self._write_counts()

    def _leave_out(self) -> None:
        if self._left_out is None:
            self._left_out = Entry(self._write({names.LEFT_OUT: True}))
        else:
            self._left_out.count += 1
            self.changed.add(self._left_out)

    def _write_counts(self) -> None:
        changed = list(self.changed)
        self.changed.clear()
        for entry in changed:
            entry.write(self._file)

    def _write(self, document: Mapping[str, Any], count: int = 1) -> int:
        """Append a line, and return the offset of its count."""
        text = json.dumps({**document, names.COUNT: 0}, default=str)[:-2]
        line = f"{text}{count:>{names.COUNT_WIDTH}}}}\n".encode()
        self._append(line)
        self._lines += 1
        return self._size - names.COUNT_WIDTH - 2

    def _append(self, line: bytes) -> None:
        written = 0
        while written < len(line):
            written += os.pwrite(self._file, line[written:], self._size + written)
        self._size += len(line)

    def _open(self) -> None:
        process = os.getpid()
        for attempt in numbers(1):
            # On every host, containers reuse the same few process numbers.
            mark = f"{process}" if attempt == 1 else f"{process}-{attempt}"
            try:
                self._file = os.open(
                    self._path.with_name(f"{self._path.stem}.{mark}{self._path.suffix}"), _FLAGS, 0o644
                )
                break
            except FileExistsError:
                continue
        self._append(json.dumps(self._header(process)).encode() + b"\n")

    def _header(self, process: int) -> dict[str, Any]:
        settings = sys.modules.get("vllm.envs")
        return {
            names.HEADER: names.FORMAT,
            names.FORMAT_VERSION: names.VERSION,
            names.ENGINE: "vLLM",
            names.ENGINE_VERSION: self._engine_version,
            names.GPU: _gpu(),
            names.PROCESS: f"{socket.gethostname()}:{process}",
            names.STARTED: time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
            names.DUAL_STREAM: bool(getattr(settings, "VLLM_LORA_ENABLE_DUAL_STREAM", False)),
            names.BATCH_INVARIANT: bool(getattr(settings, "VLLM_BATCH_INVARIANT", False)),
        }


def _gpu() -> str | None:
    """Return the name of the process's GPU; None if it has opened none."""
    torch = sys.modules.get("torch")
    if torch is None or not torch.cuda.is_initialized():
        return None
    return str(torch.cuda.get_device_name())
