"""Starts child processes in milliseconds: one process imports the heavy modules once and forks whatever is asked for.

A compiler or GPU process imports torch and triton, which takes seconds. It is killed whenever a config hangs or breaks
it, so those seconds would be paid again and again. ``ForkServer`` is the parent's side, and ``main`` is the server's.
The server never touches a GPU, so a child that does inherits nothing of a driver.

Every child has its own process group. So killing a child also ends processes that it started (ptxas), and Ctrl-C in the
terminal reaches only the parent. The server ends when the parent's end of its socket is closed, and its children end
with it.
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
"""Modules that every process that compiles or measures needs, whatever the kernels. They take longest to import."""

LARGEST_MESSAGE = 65536
_PR_SET_PDEATHSIG = 1


class Imports:
    """A process that begins to import before it is known what it will fork, because importing torch takes seconds.

    Args:
        modules: modules to import at once, as ``ForkServer`` does.

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
        """Tell it to set variables, import more modules, and then fork children. Called once."""
        assert self._tells is not None
        orders = json.dumps({"modules": list(modules), "environment": dict(environment)}).encode()
        tells, self._tells = self._tells, None
        with contextlib.suppress(BrokenPipeError):  # it has ended; whoever asks it next is told
            os.write(tells, orders)
        os.close(tells)

    def close(self) -> None:
        """End it and the processes that it forked."""
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
        modules: modules for the server to import, by name or by file (``importing``). A child runs the function
            ``main(arguments, fd)`` of any module. A module may have a function ``before_forking()`` for work that the
            server can do once instead of each child. It may have a function ``gpu_is_in_use()`` that tells whether this
            process uses a GPU; modules imported after it must not use one.
        environment: variables that the server and its children have besides this process's own.
        imports: a process that has begun with some of the imports. It becomes the server.

    Attributes:
        began: when its imports began, in seconds of ``time.time``.
        forked: process ids of all children so far, including ended ones.
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

        Waits for the server's imports if it has just been started.

        Raises:
            WorkerError: the server has ended. The message is its last line.
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
                raise WorkerError(f"the fork server has exited: {error}") from error
        raise WorkerError(self._last_words())

    def _last_words(self) -> str:
        self._imports.process.wait()
        return last_line(self._imports.stderr)

    def close(self) -> None:
        """End the server and its children."""
        self._imports.close()


def last_line(file: IO[bytes]) -> str:
    """Return the last line of a process's output, or say that there is none."""
    file.seek(0)
    lines = file.read().decode(errors="replace").strip().splitlines()
    return lines[-1] if lines else "the process exited without a message"


def _serve(control: socket.socket) -> None:
    """Fork children. Returns in the server once the parent is gone, and in a child once its work is done."""
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
            os.setpgid(child, child)  # do it here too, so that the group can be killed as soon as its number is known
        os.close(channel)
        os.close(stderr)
        control.send(str(child).encode())


def leave(message: str) -> NoReturn:
    """End a child at once with its last words. An orderly exit of the interpreter might print more after them."""
    sys.stderr.write(message.rstrip() + "\n")
    sys.stderr.flush()
    os._exit(1)


def _exit_with(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    leave("".join(traceback.format_exception(kind, error, trace)))


def _run(module: str, arguments: list[str], channel: int, stderr: int) -> None:
    sys.excepthook = _exit_with
    with contextlib.suppress(PermissionError):
        os.setpgid(0, 0)
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)  # ptxas must be waited for
    os.dup2(stderr, 2)
    os.close(stderr)
    os.set_inheritable(channel, False)
    importlib.import_module(module).main(arguments, channel)


@contextlib.contextmanager
def _ended_with_parent(control: socket.socket) -> Iterator[None]:
    """End this process with its parent, whatever it is doing.

    Once the other side of the socket is closed, the kernel sends SIGIO, which ends the process. Nothing is sent before
    the server is ready.
    """
    fcntl.fcntl(control, fcntl.F_SETOWN, os.getpid())
    flags = fcntl.fcntl(control, fcntl.F_GETFL)
    fcntl.fcntl(control, fcntl.F_SETFL, flags | os.O_ASYNC)
    if select.select([control], [], [], 0)[0]:  # it was closed before
        leave("the parent is gone")
    yield
    fcntl.fcntl(control, fcntl.F_SETFL, flags)


class _Importing:
    """Imports modules. Earlier modules that can tell whether a GPU is in use watch the later ones.

    The ``before_forking()`` of a module runs while the next one is imported.
    """

    def __init__(self) -> None:
        self._in_use: list[Callable[[], bool]] = []
        self._threads = ThreadPoolExecutor(1)
        self._prepared: list[Future[None]] = []

    def add(self, modules: Sequence[str]) -> None:
        """Import more modules. Raises InputError."""
        for name in modules:
            module = import_to_fork(name, self._in_use)
            if hasattr(module, "before_forking"):
                self._prepared.append(self._threads.submit(module.before_forking))
            if hasattr(module, "gpu_is_in_use"):
                self._in_use.append(module.gpu_is_in_use)

    def end(self) -> None:
        """Wait for their ``before_forking()``. Afterwards no thread is left, as forking requires."""
        self._threads.shutdown()
        for one in self._prepared:
            one.result()


def _orders(told: int) -> dict[str, Any]:
    """Wait for the message that says what else to import. Ends the process if none will come."""
    with os.fdopen(told) as orders:
        text = orders.read()
    if not text:
        leave("the parent is gone")
    found: dict[str, Any] = json.loads(text)
    return found


def main() -> None:
    """Import the requested modules, then fork children until the parent is gone."""
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
    gc.freeze()  # all children share these objects; collecting them would copy them
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody waits for children: the kernel reaps them
    _serve(control)
