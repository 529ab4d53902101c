"""Runs a module in a process of its own, and waits for it no longer than it is told to.

A process that waits for a hanging driver cannot even be killed: it stays until the kernel releases it. So we tell such
a process to end, and leave it behind.
"""

import json
import os
import signal
import subprocess
import threading
import time
from collections.abc import Mapping
from contextlib import suppress
from typing import IO, Any

from bo_tune.processes.interpreter import python_command

LONGEST_S = 0.5
"""Time to wait for a process after killing it."""

MOST_STDERR = 20_000
"""Characters that are kept of what the process prints to stderr."""


class Asked:
    """A process whose module prints what it finds as lines of JSON, each an object with one key.

    Args:
        module: has a ``main()``.
        arguments: of the process.
        environment: additional environment variables.
    """

    def __init__(self, module: str, *arguments: str, environment: Mapping[str, str] | None = None) -> None:
        self._process = subprocess.Popen(
            python_command(module, *arguments),
            env={**os.environ, **(environment or {})},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            errors="replace",
            start_new_session=True,  # so that the processes it starts can be killed with it
        )
        self._found: dict[str, Any] = {}
        self._stderr = ""
        self._threads = [
            threading.Thread(target=work, args=(stream,), daemon=True)
            for work, stream in ((self._take, self._process.stdout), (self._keep, self._process.stderr))
        ]
        for thread in self._threads:
            thread.start()

    def _take(self, lines: IO[str]) -> None:
        for line in lines:
            try:
                found = json.loads(line)
            except ValueError:  # libraries print, too
                continue
            if isinstance(found, dict):
                self._found.update(found)

    def _keep(self, lines: IO[str]) -> None:
        for line in lines:
            self._stderr = (self._stderr + line)[-MOST_STDERR:]

    def tell(self, line: str) -> None:
        """Send the process one line on stdin, and close stdin."""
        stdin = self._process.stdin
        assert stdin is not None
        with suppress(OSError):  # it has ended
            stdin.write(f"{line}\n")
            stdin.flush()
        with suppress(OSError):
            stdin.close()

    def answers(self, until: float) -> dict[str, Any]:
        """Return what the process found once it has ended. It is killed at ``until`` (of ``time.monotonic``)."""
        for thread in self._threads:
            thread.join(max(0.0, until - time.monotonic()))
        self.close()
        return dict(self._found)

    @property
    def hung(self) -> bool:
        """Whether the process had to be ended before it was done."""
        return self._process.poll() in (None, -signal.SIGKILL)

    @property
    def fault(self) -> str:
        """The last line that it printed to stderr. If there is none, how it ended."""
        lines = [line.strip() for line in self._stderr.splitlines() if line.strip()]
        return lines[-1] if lines else f"its process exited with {self._process.poll()}"

    def close(self) -> None:
        """Kill the process and those it has started, unless it has ended."""
        if self._process.poll() is None:
            with suppress(OSError):
                os.killpg(self._process.pid, signal.SIGKILL)
            with suppress(subprocess.TimeoutExpired):
                self._process.wait(LONGEST_S)
        for thread in self._threads:
            thread.join(LONGEST_S)
        streams = (self._process.stdin, self._process.stdout, self._process.stderr)
        for stream, reader in zip(streams, (None, *self._threads), strict=True):
            # If the process has started another that still holds a stream's other end, a thread still reads it. Leave
            # it open.
            if stream is not None and (reader is None or not reader.is_alive()):
                with suppress(OSError):
                    stream.close()
