"""Starts child processes in milliseconds: one process imports the heavy modules once and forks whatever is asked for.

A compiler or GPU process imports torch and triton, which takes seconds. It is killed whenever a config hangs or breaks
it, so those seconds would be paid again and again. ``ForkServer`` is the parent's side; ``main`` is the server's, which
never touches a GPU, so that a child that does inherits nothing of a driver.

Every child is a process group of its own: killing it also ends what it started (ptxas), and Ctrl-C in the terminal
reaches the parent alone. The server ends when the parent's end of its socket is closed, and its children with it.
"""

import contextlib
import ctypes
import fcntl
import gc
import importlib
import json
import os
import select
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from types import MappingProxyType, TracebackType
from typing import IO, Any, NoReturn

from bo_tune.errors import InputError, WorkerError, one_line
from bo_tune.processes.importing import import_to_fork
from bo_tune.processes.interpreter import python_command

READY = b"ready"

IMPORTED_FIRST = ("bo_tune.measure.compile.triton_hash", "torch")
"""What every process that compiles or measures needs, whatever the kernels: it takes the longest."""

LARGEST_MESSAGE = 65536
_PR_SET_PDEATHSIG = 1


class Imports:
    """A process that begins to import before it is known what it will fork: importing torch takes seconds.

    Args:
        modules: what it imports at once, as ``ForkServer`` does.

    Attributes:
        began: when it began, in seconds of ``time.time``.
    """

    def __init__(self, modules: Sequence[str] = ()) -> None:
        self.began = time.time()
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        told, tells = os.pipe()
        self.stderr = tempfile.TemporaryFile()  # noqa: SIM115 - lives as long as the process
        self.process = subprocess.Popen(
            python_command(__name__, json.dumps(list(modules)), str(told), str(theirs.fileno())),
            pass_fds=[told, theirs.fileno()],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=self.stderr,
            start_new_session=True,
        )
        theirs.close()
        os.close(told)
        self.control = ours
        self._tells: int | None = tells

    def go_on(self, modules: Sequence[str], environment: Mapping[str, str]) -> None:
        """Have it take variables, import more, and fork children from then on. Called once."""
        assert self._tells is not None
        orders = json.dumps({"modules": list(modules), "environment": dict(environment)}).encode()
        tells, self._tells = self._tells, None
        with contextlib.suppress(BrokenPipeError):  # it has ended, which is told when it is asked
            os.write(tells, orders)
        os.close(tells)

    def close(self) -> None:
        """End it and what it forked."""
        if self._tells is not None:
            os.close(self._tells)
            self._tells = None
        self.control.close()
        with contextlib.suppress(ProcessLookupError):
            self.process.kill()
        self.process.wait()
        self.stderr.close()


class ForkServer:
    """Forks children that have ``modules`` imported already. Safe to use from several threads.

    Args:
        modules: what the server imports, by name or by file (``importing``). A child runs the function
            ``main(arguments, fd)`` of any module. What each child would do anew and the server can do once, a module
            does in a function ``before_forking()``. A module that can tell whether this process uses a GPU does in a
            function ``gpu_is_in_use()``: what is imported after it must not.
        environment: variables that the server and its children have besides this process's own.
        imports: a process that has begun with some of it; it becomes the server.

    Attributes:
        began: when its imports began, in seconds of ``time.time``.
        forked: process ids of every child so far, ended ones included.
    """

    def __init__(
        self,
        modules: Sequence[str],
        environment: Mapping[str, str] = MappingProxyType({}),
        imports: Imports | None = None,
    ) -> None:
        self._imports = imports or Imports()
        self._imports.go_on(modules, environment)
        self._control, self.began = self._imports.control, self._imports.began
        self._lock = threading.Lock()
        self._ready = False
        self.forked: set[int] = set()

    def fork(self, module: str, arguments: Sequence[str], channel: int, stderr: int) -> int:
        """Start ``module.main(arguments, channel)`` in a child and return its process id.

        Waits for the server's imports where it has just been started.

        Raises:
            WorkerError: the server has ended; the message is its last word.
        """
        request = json.dumps([module, list(arguments)]).encode()
        with self._lock:
            try:
                if not self._ready:
                    self._ready = self._control.recv(LARGEST_MESSAGE) == READY
                if self._ready:
                    socket.send_fds(self._control, [request], [channel, stderr])
                    answer = self._control.recv(LARGEST_MESSAGE)
                    if answer:
                        child = int(answer)
                        self.forked.add(child)
                        return child
            except OSError as error:
                raise WorkerError(f"the fork server has ended: {error}") from error
        raise WorkerError(self._last_words())

    def _last_words(self) -> str:
        self._imports.process.wait()
        return last_line(self._imports.stderr)

    def close(self) -> None:
        """End the server and its children."""
        self._imports.close()


def last_line(file: IO[bytes]) -> str:
    """Return the last line of what a process wrote, or say that it wrote nothing."""
    file.seek(0)
    lines = file.read().decode(errors="replace").strip().splitlines()
    return lines[-1] if lines else "the process ended without a word"


def _serve(control: socket.socket) -> None:
    """Fork children. Returns in the server once the parent is gone, and in a child once that is done."""
    control.send(READY)
    while True:
        request, fds, _, _ = socket.recv_fds(control, LARGEST_MESSAGE, 2)
        if not request:
            return
        channel, stderr = fds
        child = os.fork()
        if child == 0:
            control.close()
            module, arguments = json.loads(request)
            _run(module, arguments, channel, stderr)
            return
        with contextlib.suppress(ProcessLookupError):
            os.setpgid(child, child)  # here too, so that the group can be killed as soon as its number is known
        os.close(channel)
        os.close(stderr)
        control.send(str(child).encode())


def leave(message: str) -> NoReturn:
    """End a child at once with its last words: an interpreter that is taken down in order may still say things."""
    sys.stderr.write(message.rstrip() + "\n")
    sys.stderr.flush()
    os._exit(1)


def _leave_with(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    leave("".join(traceback.format_exception(kind, error, trace)))


def _run(module: str, arguments: list[str], channel: int, stderr: int) -> None:
    sys.excepthook = _leave_with
    with contextlib.suppress(PermissionError):
        os.setpgid(0, 0)
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)  # ptxas is waited for
    os.dup2(stderr, 2)
    os.close(stderr)
    os.set_inheritable(channel, False)
    importlib.import_module(module).main(arguments, channel)


@contextlib.contextmanager
def _ended_with_parent(control: socket.socket) -> Iterator[None]:
    """Have this process end with its parent, whatever it does meanwhile: the kernel sends SIGIO, which ends it, once
    the other side of the socket is closed. Nothing is sent before the server is ready."""
    fcntl.fcntl(control, fcntl.F_SETOWN, os.getpid())
    flags = fcntl.fcntl(control, fcntl.F_GETFL)
    fcntl.fcntl(control, fcntl.F_SETFL, flags | os.O_ASYNC)
    if select.select([control], [], [], 0)[0]:  # it was closed before that
        leave("the parent is gone")
    yield
    fcntl.fcntl(control, fcntl.F_SETFL, flags)


class _Importing:
    """Imports modules, each watched by those before it that can tell whether a GPU is in use. What they do before
    anything is forked they do while the next is imported."""

    def __init__(self) -> None:
        self._in_use: list[Callable[[], bool]] = []
        self._threads = ThreadPoolExecutor(1)
        self._prepared: list[Future[None]] = []

    def add(self, modules: Sequence[str]) -> None:
        """Import more. Raises InputError."""
        for name in modules:
            module = import_to_fork(name, self._in_use)
            if hasattr(module, "before_forking"):
                self._prepared.append(self._threads.submit(module.before_forking))
            if hasattr(module, "gpu_is_in_use"):
                self._in_use.append(module.gpu_is_in_use)

    def end(self) -> None:
        """Wait for what they do; no thread is left then, as forking wants it."""
        self._threads.shutdown()
        for one in self._prepared:
            one.result()


def _orders(told: int) -> dict[str, Any]:
    """Wait to be told what else to import. Ends the process where nobody will tell."""
    with os.fdopen(told) as orders:
        text = orders.read()
    if not text:
        leave("the parent is gone")
    found: dict[str, Any] = json.loads(text)
    return found


def main() -> None:
    """Import what was asked for, then fork children until the parent is gone."""
    modules, told, fd = sys.argv[1:]
    control = socket.socket(fileno=int(fd))
    try:
        with _ended_with_parent(control):
            importing = _Importing()
            importing.add(json.loads(modules))
            orders = _orders(int(told))
            os.environ.update(orders["environment"])
            importing.add(orders["modules"])
            importing.end()
    except InputError as error:
        leave(one_line(error))
    gc.freeze()  # what is here will be shared by all children; collecting it would copy it
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # children are not waited for: the kernel buries them
    _serve(control)
