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
from pathlib import Path

import pyte

DEADLINE_S = 60.0


def _with_controlling_terminal() -> None:
    fcntl.ioctl(0, termios.TIOCSCTTY, 0)


class Terminal:
    """A terminal of some size in which a command runs.

    Attributes:
        process: the command.
        output: all bytes it wrote so far.
        screen: the emulated screen.
    """

    def __init__(
        self, command: Sequence[str], columns: int, rows: int, cwd: Path, environment: Mapping[str, str] | None
    ) -> None:
        self.columns, self.rows = columns, rows
        self.screen = pyte.HistoryScreen(columns, rows, history=10_000)
        self._stream = pyte.ByteStream(self.screen)
        self.output = b""
        unset = {"COLUMNS", "LINES", "NO_COLOR", "FORCE_COLOR", "GITHUB_ACTIONS", "TTY_COMPATIBLE", "TTY_INTERACTIVE"}
        inherited = {name: value for name, value in os.environ.items() if name not in unset}
        self._master, slave = os.openpty()
        fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))
        try:
            self.process = subprocess.Popen(
                command,
                stdin=slave,
                stdout=slave,
                stderr=slave,
                cwd=cwd,
                env={**inherited, "TERM": "xterm-256color", **(environment or {})},
                start_new_session=True,
                preexec_fn=_with_controlling_terminal,
            )
        finally:
            os.close(slave)

    def read(self, timeout_s: float = 0.05) -> bool:
        """Take in what was written; returns whether more may come."""
        ready, _, _ = select.select([self._master], [], [], timeout_s)
        if not ready:
            return True
        try:
            chunk = os.read(self._master, 65536)
        except OSError:  # the other end is closed: Linux says so with an error
            return False
        self.output += chunk
        self._stream.feed(chunk)
        return bool(chunk)

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
) -> Iterator[Terminal]:
    """Run a command in a terminal while it lasts."""
    opened = Terminal(command, columns, rows, cwd, environment)
    try:
        yield opened
    finally:
        opened.close()
