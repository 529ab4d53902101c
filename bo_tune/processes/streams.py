"""Standard streams that outlast their readers: a run is worth more than its output.

A reader may go away (``| head -1``), a disk may be full, a terminal may be closed. From then on output is dropped, and
the run goes on. A process that was asked to end does not wait for a reader that has stopped reading.
"""

import errno
import io
import os
import select
import sys
import time
from typing import TYPE_CHECKING, TextIO

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer

STDIN, STDOUT, STDERR = 0, 1, 2

LOOKED_AT_EVERY_S = 0.1
"""Interval at which a blocked stream is checked again."""

LAST_WORDS_WITHIN_S = 1.0
"""Time for which a program that was asked to end waits for a blocked stream."""

ENCODING = "utf-8"
"""Encoding of a stream that was closed before the program began."""

GONE = frozenset({errno.EPIPE, errno.EIO})
"""Errors if a reader has merely left: a pipe without a reader, a terminal that was closed."""


class _Hurry:
    """Whether the program was asked to end, and since when."""

    def __init__(self) -> None:
        self._ends_at: float | None = None

    def begin(self) -> None:
        if self._ends_at is None:
            self._ends_at = time.monotonic() + LAST_WORDS_WITHIN_S

    def end(self) -> None:
        self._ends_at = None

    @property
    def is_over(self) -> bool:
        return self._ends_at is not None and time.monotonic() > self._ends_at


hurry = _Hurry()
"""The state of this process."""


class LastingFile(io.FileIO):
    """A file that accepts all output, and drops what it cannot write.

    Args:
        descriptor: descriptor of the open file. It stays open when this object is closed.

    Attributes:
        fault: why it drops output from here on; None while it writes.
    """

    def __init__(self, descriptor: int) -> None:
        super().__init__(descriptor, "wb", closefd=False)
        self.fault: OSError | None = None
        self._polled = select.poll()
        self._polled.register(descriptor, select.POLLOUT)

    def write(self, data: "ReadableBuffer", /) -> int:
        """Write some of the data, or drop it all. Return the number of bytes that need not be written again."""
        view = memoryview(data).cast("B")
        while self.fault is None:
            try:
                # A pipe that is ready takes this much at once. With more, the write might wait for its reader forever.
                if self._can_be_written() and (written := super().write(view[: select.PIPE_BUF])) is not None:
                    return written
            except OSError as error:
                self.fault = error
            if hurry.is_over:
                self.fault = self.fault or TimeoutError(errno.ETIMEDOUT, os.strerror(errno.ETIMEDOUT))
        return len(view)

    def _can_be_written(self) -> bool:
        return bool(self._polled.poll(LOOKED_AT_EVERY_S * 1000))


def _lasting(stream: TextIO | None, descriptor: int) -> TextIO:
    """Return a stream in place of a standard one, with the same encoding. Characters outside of it are escaped."""
    encoding = ENCODING if stream is None else stream.encoding
    is_by_lines = descriptor == STDERR or os.isatty(descriptor)
    raw = io.BufferedWriter(LastingFile(descriptor))
    return io.TextIOWrapper(raw, encoding=encoding, errors="backslashreplace", line_buffering=is_by_lines)


def _reopen_closed_descriptors() -> None:
    """Open standard descriptors that are closed. Otherwise the next file, perhaps a database, would get the output."""
    for descriptor in (STDIN, STDOUT, STDERR):
        try:
            os.fstat(descriptor)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the lowest free number, which is this one


def make_streams_outlive_readers() -> None:
    """Make this process's stdout and stderr outlast their readers. Streams that replaced them are left alone."""
    _reopen_closed_descriptors()
    if sys.stdout is sys.__stdout__:
        sys.stdout = _lasting(sys.stdout, STDOUT)
    if sys.stderr is sys.__stderr__:
        sys.stderr = _lasting(sys.stderr, STDERR)


def lasting_stderr() -> TextIO:
    """Return a stderr that outlasts its reader, for use inside another program; its replacement if there is one."""
    return _lasting(sys.stderr, STDERR) if sys.stderr is sys.__stderr__ else sys.stderr


def fault_of(stream: TextIO) -> str | None:
    """Flush a stream and return why it could not be written; None if its reader merely left."""
    stream.flush()
    file = getattr(getattr(stream, "buffer", None), "raw", None)
    fault = file.fault if isinstance(file, LastingFile) else None
    return None if fault is None or fault.errno in GONE or hurry.is_over else os.strerror(fault.errno or errno.EIO)
