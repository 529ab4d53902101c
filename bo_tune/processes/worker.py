"""A child process that answers one request at a time and can be killed: the base of compilers and of the GPU process.

The parent holds a ``Worker``; the child runs a module's ``main(arguments, fd)``, which calls ``serve``.
"""

import contextlib
import os
import signal
import socket
import tempfile
from collections.abc import Callable, Sequence
from multiprocessing.connection import Connection
from typing import IO, Any

from bo_tune.errors import WorkerError
from bo_tune.processes.fork_server import ForkServer, last_line

START_TIMEOUT_S = 120.0
"""For a child to say that it is ready, on a loaded machine."""

DEATH_TIMEOUT_S = 30.0
"""For a killed child to be gone: the driver takes a moment to end what a GPU is doing."""

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

    def __init__(self, server: ForkServer, module: str, arguments: Sequence[str]) -> None:
        self._server = server
        self._module, self._arguments = module, list(arguments)
        self._pid: int | None = None
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
        if self._pid is not None:
            return
        ours, theirs = socket.socketpair()
        self._stderr = tempfile.TemporaryFile()  # noqa: SIM115 - lives as long as the child
        self._connection = Connection(ours.detach())
        try:
            self._pid = self._server.fork(self._module, self._arguments, theirs.fileno(), self._stderr.fileno())
        except WorkerError as error:
            self.kill()
            raise WorkerDiedError(str(error)) from error
        finally:
            theirs.close()
        self.starts += 1
        if self._answer(START_TIMEOUT_S) != READY:
            raise WorkerError(f"{self._module} did not start properly")

    @property
    def pid(self) -> int | None:
        """Process id of the child, if there is one."""
        return self._pid

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
        pid = self._pid
        if pid is not None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(pid, signal.SIGKILL)

    def kill(self) -> None:
        """End the child and everything it started, at once. The next request starts a new one."""
        if self._pid is not None:
            self.interrupt()
            self._wait_for_death()
            self._pid = None
        if self._connection is not None:
            self._connection.close()
            self._connection = None
        if self._stderr is not None:
            self._last_words = last_line(self._stderr)
            self._stderr.close()
            self._stderr = None

    def _wait_for_death(self) -> None:
        """Wait for the end of the child's side of the socket: the process is the server's child, not this one's."""
        with contextlib.suppress(EOFError, OSError):
            while self._pipe.poll(DEATH_TIMEOUT_S):
                self._pipe.recv_bytes()


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
