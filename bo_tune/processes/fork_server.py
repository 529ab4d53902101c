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
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from types import MappingProxyType, TracebackType
from typing import IO, NoReturn

from bo_tune.errors import InputError, WorkerError, one_line
from bo_tune.processes.importing import import_to_fork
from bo_tune.processes.interpreter import python_command

READY = b"ready"
LARGEST_MESSAGE = 65536
_PR_SET_PDEATHSIG = 1


class ForkServer:
    """Forks children that have ``modules`` imported already. Safe to use from several threads.

    Args:
        modules: what the server imports, by name or by file (``importing``). A child runs the function
            ``main(arguments, fd)`` of any module. What each child would do anew and the server can do once, a module
            does in a function ``before_forking()``. A module that can tell whether this process uses a GPU does in a
            function ``gpu_is_in_use()``: what is imported after it must not.
        environment: variables that the server and its children have besides this process's own.

    Attributes:
        forked: process ids of every child so far, ended ones included.
    """

    def __init__(self, modules: Sequence[str], environment: Mapping[str, str] = MappingProxyType({})) -> None:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._stderr = tempfile.TemporaryFile()  # noqa: SIM115 - lives as long as the server
        self._process = subprocess.Popen(
            python_command(__name__, json.dumps(list(modules)), str(theirs.fileno())),
            pass_fds=[theirs.fileno()],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=self._stderr,
            start_new_session=True,
            env={**os.environ, **environment},
        )
        theirs.close()
        self._control = ours
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
        self._process.wait()
        return last_line(self._stderr)

    def close(self) -> None:
        """End the server and its children."""
        self._control.close()
        with contextlib.suppress(ProcessLookupError):
            self._process.kill()
        self._process.wait()
        self._stderr.close()


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


def _import_all(modules: Sequence[str]) -> None:
    """Import modules, each watched by those before it that can tell whether a GPU is in use."""
    in_use: list[Callable[[], bool]] = []
    for name in modules:
        module = import_to_fork(name, in_use)
        if hasattr(module, "before_forking"):
            module.before_forking()
        if hasattr(module, "gpu_is_in_use"):
            in_use.append(module.gpu_is_in_use)


def main() -> None:
    """Import what was asked for, then fork children until the parent is gone."""
    modules, fd = sys.argv[1:]
    control = socket.socket(fileno=int(fd))
    try:
        with _ended_with_parent(control):
            _import_all(json.loads(modules))
    except InputError as error:
        leave(one_line(error))
    gc.freeze()  # what is here will be shared by all children; collecting it would copy it
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # children are not waited for: the kernel buries them
    _serve(control)
