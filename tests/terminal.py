"""A command in a real pseudo-terminal, and what its screen shows (pyte emulates the terminal)."""

import fcntl
import os
import select
import signal
import struct
import subprocess
import termios
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import forked
import pyte

DEADLINE_S = 180.0

QUIET_S = 0.02
"""A command that writes nothing for so long has drawn what it was drawing."""

CONTROLLED_BY_IT = partial(fcntl.ioctl, 0, termios.TIOCSCTTY, 0)
"""Makes the terminal on stdin the one whose keys end a process."""

NEXT_SCREEN = b"\r\x1b[2K\x1b[1A"
"""How rich begins to draw over what it has drawn before."""


class Terminal:
    """A terminal of some size in which a command runs.

    Attributes:
        process: the command.
        output: all bytes it wrote so far.
        screen: the emulated screen.
    """

    def __init__(
        self,
        command: Sequence[str],
        columns: int,
        rows: int,
        cwd: Path,
        environment: Mapping[str, str] | None,
        start: "type[subprocess.Popen[bytes]]",
    ) -> None:
        self.columns, self.rows = columns, rows
        self.screen = pyte.HistoryScreen(columns, rows, history=10_000)
        self._stream = pyte.ByteStream(self.screen)
        self.output = b""
        self._ahead = b""  # of it, what the screen does not show yet
        self._ended = False
        unset = {"COLUMNS", "LINES", "NO_COLOR", "FORCE_COLOR", "GITHUB_ACTIONS", "TTY_COMPATIBLE", "TTY_INTERACTIVE"}
        inherited = {name: value for name, value in os.environ.items() if name not in unset}
        self._master, slave = os.openpty()
        fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))
        try:
            self.process = start(
                command,
                stdin=slave,
                stdout=slave,
                stderr=slave,
                cwd=cwd,
                env={**inherited, "TERM": "xterm-256color", **(environment or {})},
                start_new_session=True,
                preexec_fn=CONTROLLED_BY_IT,
            )
        finally:
            os.close(slave)

    def read(self, timeout_s: float = 0.05) -> bool:
        """Take in what was written, one screen at a time, however far ahead the command is; returns whether more may
        come."""
        if NEXT_SCREEN not in self._ahead[1:]:
            self._ahead += self._written(timeout_s)
        at = self._ahead.find(NEXT_SCREEN, 1)
        one, self._ahead = (self._ahead, b"") if at < 0 else (self._ahead[:at], self._ahead[at:])
        self._stream.feed(one)
        return bool(one) or not self._ended

    def _written(self, timeout_s: float) -> bytes:
        """Return what the command writes until it pauses."""
        written = b""
        while not self._ended and select.select([self._master], [], [], QUIET_S if written else timeout_s)[0]:
            try:
                chunk = os.read(self._master, 65536)
            except OSError:  # the other end is closed: Linux says so with an error
                chunk = b""
            self._ended = not chunk
            written += chunk
            if len(written) > 2**20:
                break
        self.output += written
        return written

    @property
    def display(self) -> list[str]:
        """The lines of the screen, without blanks at their ends."""
        return [line.rstrip() for line in self.screen.display]

    @property
    def text(self) -> str:
        """The screen, and what has left it at the top."""
        above = ["".join(line[column].data for column in range(self.columns)) for line in self.screen.history.top]
        return "\n".join(line.rstrip() for line in [*above, *self.screen.display])

    def wait_for(self, there: Callable[[list[str]], bool]) -> list[str]:
        """Return the first screen that is as wanted; the command must not end before."""
        end = time.monotonic() + DEADLINE_S
        while self.read():
            if there(self.display):
                return self.display
            assert time.monotonic() < end, "\n".join(self.display)
        raise AssertionError(f"the command has ended:\n{self.text}")

    def type(self, keys: str) -> None:
        """Type something."""
        os.write(self._master, keys.encode())

    def finish(self) -> int:
        """Wait for the end, and return the exit code."""
        end = time.monotonic() + DEADLINE_S
        while self.read():
            assert time.monotonic() < end, self.text
        return self.process.wait(DEADLINE_S)

    def close(self) -> None:
        """End the command, if it has not ended."""
        if self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()
        os.close(self._master)


@contextmanager
def terminal(
    command: Sequence[str],
    *,
    columns: int = 100,
    rows: int = 30,
    cwd: Path,
    environment: Mapping[str, str] | None = None,
    start: "type[subprocess.Popen[bytes]]" = forked.Popen,
) -> Iterator[Terminal]:
    """Run a command in a terminal while it lasts; with ``subprocess.Popen`` where its start is what is tested."""
    opened = Terminal(command, columns, rows, cwd, environment, start)
    try:
        yield opened
    finally:
        opened.close()
