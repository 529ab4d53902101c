"""A child process that answers one request at a time and can be killed: the base of compilers and of the GPU process.

The parent holds a ``Worker``, which has a child whenever one is needed. A ``Child`` is one process, from start to end.
The child runs a module's ``main(arguments, fd)``, which calls ``serve``.
"""

import contextlib
import os
import select
import signal
import socket
import tempfile
from collections.abc import Callable, Hashable, Sequence
from functools import partial
from multiprocessing.connection import Connection
from typing import Any

from bo_tune.errors import WorkerError
from bo_tune.processes.fork_server import ForkServer, last_line

START_TIMEOUT_S = 120.0
"""Time for a child to report that it is ready, on a loaded machine."""

DEATH_TIMEOUT_S = 30.0
"""Time for a killed child to be gone. The driver takes a moment to end the GPU's work."""

READY = "ready"


class WorkerTimeoutError(WorkerError):
    """The request took longer than its deadline. The child was killed."""


class WorkerDiedError(WorkerError):
    """The child ended while it was answering. The message holds the end of its stderr."""


class Child:
    """One child process. Only ``interrupt`` is safe to call from other threads.

    Attributes:
        pid: its process id, and that of its process group.
        notes: facts about it that its users remember.

    Raises:
        WorkerDiedError: it cannot be forked.
    """

    def __init__(self, server: ForkServer, module: str, arguments: Sequence[str]) -> None:
        ours, theirs = socket.socketpair()
        self._stderr = tempfile.TemporaryFile()  # noqa: SIM115 - lives as long as the child
        self._connection = Connection(ours.detach())
        self._news = select.poll()  # ``Connection.poll`` makes a new one for each of some thousand answers
        self._news.register(self._connection.fileno(), select.POLLIN)
        self._module = module
        self.notes: set[Hashable] = set()
        self._last_words = ""
        self._ended = False
        self._process: int | None = None  # a descriptor of the process
        try:
            self.pid = server.fork(module, list(arguments), theirs.fileno(), self._stderr.fileno())
        except WorkerError as error:
            self._connection.close()
            self._stderr.close()
            raise WorkerDiedError(str(error)) from error
        finally:
            theirs.close()
        with contextlib.suppress(OSError):  # it ended at once, or the system has no such descriptors
            self._process = os.pidfd_open(self.pid)

    def wait_until_ready(self) -> None:
        """Wait until it has started. Raises as ``answer``."""
        if self.answer(START_TIMEOUT_S) != READY:
            self.kill()
            raise WorkerError(f"{self._module} did not start properly")

    def send(self, message: object) -> None:
        """Send a request. Raises OSError if the child is gone."""
        self._connection.send(message)

    def answer(self, timeout_s: float) -> Any:
        """Return the child's next answer.

        Raises:
            WorkerTimeoutError: there was none for ``timeout_s``; the child and its children are dead.
            WorkerDiedError: the child ended before it answered.
        """
        try:
            if not self._news.poll(1e3 * timeout_s):
                self.interrupt()
                self._wait_until_gone()
                self.kill()
                raise WorkerTimeoutError(f"no answer came within {timeout_s:g} s")
            return self._connection.recv()
        except (EOFError, OSError) as error:
            self.kill()
            raise WorkerDiedError(self._last_words) from error

    def request(self, message: object, timeout_s: float) -> Any:
        """Send a request and return its answer. Raises as ``answer``."""
        with contextlib.suppress(OSError):  # the answer reports it, with the child's last words
            self.send(message)
        return self.answer(timeout_s)

    @property
    def is_waiting(self) -> bool:
        """Whether it runs and has nothing to answer. A child that ended has closed its side, which reads as news."""
        try:
            return not self._ended and not self._connection.poll()
        except OSError:
            return False

    def interrupt(self) -> None:
        """End it from another thread than the waiting one. The request then ends with WorkerDiedError."""
        if not self._ended:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.pid, signal.SIGKILL)

    def kill(self) -> None:
        """End it and everything it started, at once. Return when it is gone."""
        if self._ended:
            return
        self.interrupt()
        self._ended = True
        self._wait_for_death()
        self._connection.close()
        self._last_words = last_line(self._stderr)
        self._stderr.close()
        if self._process is not None:
            os.close(self._process)
            self._process = None

    def _wait_for_death(self) -> None:
        """Wait until the child's side of the socket closes. The process is the server's child, not this one's."""
        with contextlib.suppress(EOFError, OSError):
            while self._connection.poll(DEATH_TIMEOUT_S):
                self._connection.recv_bytes()

    def _wait_until_gone(self) -> None:
        """Wait until nothing of it is left.

        Its work on the GPU goes on until the driver has cleaned up. A process that stands ready should not measure
        beside that.
        """
        if self._process is not None:
            select.select([self._process], [], [], DEATH_TIMEOUT_S)


class Worker:
    """Has a child process whenever one is needed, from the first request on. Not safe for several threads.

    Args:
        relief: returns the child that replaces an ended one. By default a new one is started.

    Attributes:
        child: the child, if there is one.
        starts: number of times that a child has taken up work.
    """

    def __init__(
        self,
        server: ForkServer,
        module: str,
        arguments: Sequence[str],
        *,
        relief: Callable[[], Child] | None = None,
    ) -> None:
        self._fork = partial(Child, server, module, list(arguments))
        self._relief = relief
        self.child: Child | None = None
        self.starts = 0

    def request(self, message: object, timeout_s: float) -> Any:
        """Send a message to the child and return its answer. A child is started if there is none.

        Raises:
            WorkerTimeoutError: ``timeout_s`` passed; the child and its children are dead.
            WorkerDiedError: the child ended before it answered.
        """
        child = self.start()
        try:
            child.send(message)
        except OSError:  # it died while idle, so nothing was lost: try once more
            self.kill()
            child = self.start()
            child.send(message)
        try:
            return child.answer(timeout_s)
        except (WorkerTimeoutError, WorkerDiedError):
            self.child = None
            raise

    def start(self) -> Child:
        """Start a child if there is none, wait until it is ready, and return it. Raises as ``request``."""
        if self.child is not None:
            return self.child
        if self.starts and self._relief is not None:
            self.child = self._relief()
            self.starts += 1
            return self.child
        self.child = child = self._fork()  # it may be interrupted while it starts
        self.starts += 1
        try:
            child.wait_until_ready()
        except WorkerError:
            self.child = None
            raise
        return child

    @property
    def pid(self) -> int | None:
        """Process id of the child, if there is one."""
        child = self.child
        return None if child is None else child.pid

    def interrupt(self) -> None:
        """End the child from another thread than the waiting one. The request then ends with WorkerDiedError."""
        child = self.child
        if child is not None:
            child.interrupt()

    def kill(self) -> None:
        """End the child and everything it started, at once. The next request starts a new one."""
        child, self.child = self.child, None
        if child is not None:
            child.kill()


Call = tuple[Any, ...]
"""A request to call a method of the object that the child serves: its name, and the arguments."""


def called(server: object, call: Call) -> object:
    """Call the method, and return what it returns."""
    method, *arguments = call
    answer: object = getattr(server, method)(*arguments)
    return answer


def serve(fd: int, handler: Callable[[Any], object]) -> None:
    """Answer requests on a socket until the parent closes it or is gone.

    An exception of the handler ends the process. Its last line on stderr becomes the parent's message.
    """
    connection = Connection(fd)
    connection.send(READY)
    while True:
        try:
            message = connection.recv()
        except (EOFError, ConnectionResetError):
            return
        connection.send(handler(message))
