"""A child process that answers one request at a time and can be killed: the base of compilers and of the GPU process.

The parent holds a ``Worker``; the child runs ``python -m MODULE``, whose main calls ``serve``. A child is a
process group of its own, so that killing it also ends what it started (ptxas), and so that Ctrl-C in the
terminal reaches the parent alone.
"""

import contextlib
import os
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping
from multiprocessing.connection import Connection
from typing import IO, Any

from bo_tune.errors import WorkerError

START_TIMEOUT_S = 120.0
"""For a child to import torch and triton and to say that it is ready, on a loaded machine."""

READY = "ready"


class WorkerTimeoutError(WorkerError):
    """The request took longer than its deadline; the child was killed."""


class WorkerDiedError(WorkerError):
    """The child ended while it was answering; the message holds the end of what it wrote to stderr."""


class Worker:
    """One child process. Not safe for several threads; not started before the first request.

    Attributes:
        starts: how often a child has been started.
    """

    def __init__(self, module: str, arguments: list[str], *, environment: Mapping[str, str] | None = None) -> None:
        self._command = [sys.executable, "-m", module, *arguments]
        self._environment = {**os.environ, **(environment or {})}
        self._process: subprocess.Popen[bytes] | None = None
        self._connection: Connection | None = None
        self._stderr: IO[bytes] | None = None
        self._last_words = ""
        self.starts = 0

    def request(self, message: object, timeout_s: float) -> Any:
        """Send a message to the child, starting one if there is none, and return its answer.

        Raises:
            WorkerTimeoutError: after ``timeout_s``; the child and its children are dead then.
            WorkerDiedError: the child ended before it answered.
        """
        self.start()
        try:
            self._pipe.send(message)
        except (BrokenPipeError, ConnectionResetError):  # died idle: nothing was lost, so one more try
            self.kill()
            self.start()
            self._pipe.send(message)
        return self._answer(timeout_s)

    def start(self) -> None:
        """Start the child if there is none and wait until it is ready."""
        if self._process is not None:
            return
        ours, theirs = socket.socketpair()
        self._stderr = tempfile.TemporaryFile()  # noqa: SIM115 - lives as long as the child
        self._process = subprocess.Popen(
            [*self._command, str(theirs.fileno())],
            pass_fds=[theirs.fileno()],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=self._stderr,
            start_new_session=True,
            env=self._environment,
        )
        theirs.close()
        self._connection = Connection(ours.detach())
        self.starts += 1
        if self._answer(START_TIMEOUT_S) != READY:
            raise WorkerError(f"{self._command[2]} did not start properly")

    @property
    def _pipe(self) -> Connection:
        if self._connection is None:
            raise WorkerError("the worker was closed while it was in use")
        return self._connection

    def _answer(self, timeout_s: float) -> Any:
        try:
            if not self._pipe.poll(timeout_s):
                self.kill()
                raise WorkerTimeoutError(f"no answer within {timeout_s:g} s")
            return self._pipe.recv()
        except (EOFError, OSError) as error:
            self.kill()
            raise WorkerDiedError(self._last_words) from error

    def interrupt(self) -> None:
        """End the child from another thread than the one that waits for it; the request ends as died."""
        process = self._process
        if process is not None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)

    def kill(self) -> None:
        """End the child and everything it started, at once. The next request starts a new one."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None
        if self._process is not None:
            self.interrupt()
            self._process.wait()
            self._process = None
        if self._stderr is not None:
            self._last_words = _last_line(self._stderr)
            self._stderr.close()
            self._stderr = None


def _last_line(file: IO[bytes]) -> str:
    file.seek(0)
    lines = file.read().decode(errors="replace").strip().splitlines()
    return lines[-1] if lines else "the process ended without a word"


def serve(fd: int, handler: Callable[[Any], object]) -> None:
    """Answer requests on a socket until the parent closes it or is gone.

    An exception of the handler ends the process: its last line on stderr becomes the parent's message.
    """
    connection = Connection(fd)
    connection.send(READY)
    while True:
        try:
            message = connection.recv()
        except (EOFError, ConnectionResetError):
            return
        connection.send(handler(message))
