"""Programs that tests start without waiting seconds for their imports: forked from a process that has everything.

``Popen`` takes the place of ``subprocess.Popen``. What it starts is a process as any other: a child of this one, with
the given arguments, folder, environment and streams, in a session of its own if asked for, which signals reach and end,
and whose exit code is its own. Only its interpreter does not begin anew: the modules of the package are there already.
So a test whose subject is how the program begins starts it with ``subprocess`` itself.

Each process has a *stock*, a process without threads that forks for it. One that is forked has a stock of its own, so
that the children that the program starts, fork servers and workers, are forked, too (``install``). A stock ends with
the process that it is for.

What cannot be forked is started: programs that are not Python's, and those whose environment the interpreter or a
package would have read at its start.
"""

import atexit
import contextlib
import ctypes
import fcntl
import gc
import inspect
import json
import os
import pickle
import pkgutil
import signal
import socket
import subprocess
import sys
import threading
import time
import types
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any, NoReturn, TextIO

import bo_tune
from bo_tune.kernels.autotuned import child
from bo_tune.processes import fork_server
from bo_tune.session.workers import host

LARGEST_REQUEST = 2**18
CONSOLE_SCRIPT = "bo-tune"
READ_AT_THE_START = ("PYTHON", "LC_", "LANG", "LD_", "MALLOC", "OMP_", "OPENBLAS_", "MKL_", "TRITON_INTERPRET", "TYPER")
"""How the names of variables begin that come too late for a process that is forked."""

USUALLY = {
    "close_fds": True, "executable": None, "gid": None, "gids": None, "process_group": -1, "shell": False, "uid": None,
    "umask": -1,
}  # fmt: skip
"""How a process must be wanted to be forked."""

ARGUMENTS_LENGTH = 2**15
"""Bytes that a process has for what ``ps`` shows of it."""

HIGHEST = 200
"""Descriptors from here on are used for nothing else."""

_START = "import json, sys; base = [*sys.path]; sys.path[:] = json.loads(sys.argv[2]); import forked; forked.main(base)"

_CHILD_SUBREAPER = 36
_prctl = ctypes.CDLL(None).prctl


@dataclass(frozen=True)
class _Request:
    """A process to be forked.

    Attributes:
        arguments: its command line.
        descriptors: what the files that come with the request are called in it.
        is_session: whether it begins one.
        before: is called first, in it.
    """

    arguments: list[str]
    cwd: str
    environment: dict[str, str]
    descriptors: list[int]
    is_session: bool
    before: bytes

    @property
    def is_to_start_others(self) -> bool:
        """Whether it starts Python programs itself: fork servers do not."""
        return fork_server.__name__ not in self.arguments


# The side that asks


class _Stock:
    """Forks for this process.

    Attributes:
        socket: leads to the process that does; None before it is needed.
        environment: what that process begins with.
    """

    def __init__(self) -> None:
        self.socket: socket.socket | None = None
        self.environment = dict(os.environ)
        self.lock = threading.Lock()

    def fork(self, request: bytes, files: Sequence[int]) -> int:
        """Return the process id of a new child of this process, once it is as wanted."""
        with self.lock:
            if self.socket is None:
                self.socket = _start_stock(self.environment)
            # Its parent in the stock ends at once, and who is orphaned below us becomes our child.
            _prctl(_CHILD_SUBREAPER, 1, 0, 0, 0)
            try:
                socket.send_fds(self.socket, [request], files)
                answer = self.socket.recv(64)
            finally:
                _prctl(_CHILD_SUBREAPER, 0, 0, 0, 0)
        if not int(answer or 0):
            raise RuntimeError("a process could not be forked; why is on stderr")
        return int(answer)


_stock = _Stock()


def _start_stock(environment: Mapping[str, str]) -> socket.socket:
    """Start the first one, which imports everything. It takes seconds, once for each process that runs tests."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    environment = {name: value for name, value in environment.items() if name != "PYTHONPATH"}
    words = [str(theirs.fileno()), json.dumps(sys.path), "-" * ARGUMENTS_LENGTH]
    process = subprocess.Popen(
        [sys.executable, "-P", "-c", _START, *words],
        pass_fds=[theirs.fileno()],
        cwd=Path(__file__).parent,
        env=environment,
        stdin=subprocess.DEVNULL,
        start_new_session=True,
    )
    theirs.close()
    atexit.register(process.wait)
    atexit.register(ours.close)  # first
    return ours


def _is_forkable(arguments: Sequence[str], environment: Mapping[str, str]) -> bool:
    """Say whether a command is a Python program that would find nothing else at its start than a stock did."""
    program, *words = map(str, arguments)
    if program == sys.executable:
        is_known = bool(words) and (words[0] in ("-P", "-c") or words[0].endswith(".py"))
    else:
        is_known = Path(program) == Path(sys.executable).with_name(CONSOLE_SCRIPT)
    return is_known and _read_at_the_start(environment) == _read_at_the_start(_stock.environment)


def _read_at_the_start(environment: Mapping[str, str]) -> dict[str, str]:
    return {
        name: value
        for name, value in environment.items()
        if name.startswith(READ_AT_THE_START) and name != "PYTHONPATH"
    }


class Popen(subprocess.Popen):  # type: ignore[type-arg]
    """``subprocess.Popen``, forked where it can be. What it does besides starting a process is as before."""

    def _execute_child(self, *given: Any) -> None:
        how = inspect.signature(subprocess.Popen._execute_child).bind(self, *given).arguments
        environment = dict(os.environ if how["env"] is None else how["env"])
        words = [how["args"]] if isinstance(how["args"], str | os.PathLike) else how["args"]
        arguments = [os.fspath(word) for word in words]
        try:
            before = pickle.dumps(how["preexec_fn"])
        except (pickle.PicklingError, AttributeError):
            before = None
        is_usual = all(how[name] == value for name, value in USUALLY.items())
        if not is_usual or before is None or not _is_forkable(arguments, environment):
            super()._execute_child(*given)
            return
        pipes = [how[name] for name in ("p2cread", "p2cwrite", "c2pread", "c2pwrite", "errread", "errwrite")]
        streams = [own if pipe == -1 else pipe for own, pipe in enumerate((pipes[0], pipes[3], pipes[5]))]
        descriptors = [0, 1, 2, *how["pass_fds"]]
        cwd = os.path.realpath(how["cwd"] or Path.cwd())
        request = _Request(arguments, cwd, environment, descriptors, how["start_new_session"], before)
        try:
            self.pid = _stock.fork(pickle.dumps(request), [*streams, *how["pass_fds"]])
            self._child_created = True
        finally:
            self._close_pipe_fds(*pipes)


def run(arguments: Sequence[object], **how: Any) -> "subprocess.CompletedProcess[Any]":
    """Do as ``subprocess.run`` does, but without ``input``."""
    timeout, check = how.pop("timeout", None), how.pop("check", False)
    if how.pop("capture_output", False):
        how |= {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with Popen(arguments, **how) as process:
        try:
            out, err = process.communicate(timeout=timeout)
        except BaseException:
            process.kill()
            raise
    done = subprocess.CompletedProcess(arguments, process.returncode, out, err)
    if check:
        done.check_returncode()
    return done


def install() -> None:
    """Have the package fork the processes that it starts. Variables that are read at the start are to be set before."""
    _stock.environment = dict(os.environ)
    like = types.SimpleNamespace(**{**vars(subprocess), "Popen": Popen, "run": run})
    fork_server.subprocess = host.subprocess = child.subprocess = like  # type: ignore[assignment]


# The side that forks


def _import_everything() -> None:
    for module in pkgutil.walk_packages(bo_tune.__path__, "bo_tune."):
        if not module.name.endswith("__main__"):
            with contextlib.suppress(ImportError):  # a GPU host may lack what reports are drawn with
                import_module(module.name)
    for name in ("alembic", "sqlalchemy.dialects.sqlite", "sqlalchemy.dialects.postgresql.psycopg"):
        with contextlib.suppress(ImportError):
            import_module(name)


@dataclass(frozen=True)
class _Order:
    """What a new process is to be.

    Attributes:
        files: descriptors that came with the request.
        told: what its process id is written to once it is as wanted.
    """

    request: _Request
    files: list[int]
    told: int


def _serve(control: socket.socket) -> _Order:
    """Fork until nobody asks any more. Returns in each new process what it is to be."""
    while True:
        message, files, _, _ = socket.recv_fds(control, LARGEST_REQUEST, 64)
        if not message:
            os._exit(0)
        reads, writes = os.pipe()
        between = os.fork()
        if between == 0:
            parent = os.getpid()
            if os.fork():
                os._exit(0)
            os.close(reads)
            control.close()
            while os.getppid() == parent:
                time.sleep(0.0005)
            return _Order(pickle.loads(message), files, _highest(writes))
        os.waitpid(between, 0)
        os.close(writes)
        control.send(os.read(reads, 64) or b"0")
        for number in (reads, *files):
            os.close(number)


def _with_stock(order: _Order) -> _Order | None:
    """Give this process a stock of its own. Returns in a process that is forked from it what that is to be."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    if os.fork():
        theirs.close()
        _stock.socket = socket.socket(fileno=_highest(ours.detach()))
        return None
    os.close(order.told)
    ours.close()
    control = socket.socket(fileno=_highest(theirs.detach()))
    os.setsid()  # what ends the process by a signal to its group leaves this to end by itself
    os.chdir("/")
    nothing = os.open(os.devnull, os.O_RDWR)
    for number in range(3):
        os.dup2(nothing, number)
    os.closerange(3, HIGHEST)
    return _serve(control)


def _highest(descriptor: int) -> int:
    """Move a descriptor out of the way of those whose numbers matter."""
    moved = fcntl.fcntl(descriptor, fcntl.F_DUPFD_CLOEXEC, HIGHEST)
    os.close(descriptor)
    return moved


def _become(order: _Order, base: list[str]) -> NoReturn:
    """Be the program that was asked for."""
    request = order.request
    if request.is_session:
        os.setsid()
    files = [_highest(file) for file in order.files]  # all of them first: one may have the number that another gets
    for file, number in zip(files, request.descriptors, strict=True):
        os.dup2(file, number)
        os.close(file)
    os.chdir(request.cwd)
    os.environ.clear()
    os.environ.update(request.environment)
    before = pickle.loads(request.before)
    if before is not None:
        before()
    _show(request.arguments)
    os.write(order.told, str(os.getpid()).encode())
    os.close(order.told)
    sys.stdin = sys.__stdin__ = open(0, closefd=False)  # noqa: SIM115
    sys.stdout = sys.__stdout__ = _stream(1, sys.stdout)
    sys.stderr = sys.__stderr__ = _stream(2, sys.stderr)
    _end(_code_of(lambda: _run(request.arguments, base)))


def _code_of(do: Callable[[], object]) -> int:
    """Return the exit code of a program that does this; what ends it is said, or made of by the program's own hook."""
    try:
        do()
    except SystemExit as end:
        if end.code is None or isinstance(end.code, int):
            return end.code or 0
        print(end.code, file=sys.stderr)  # noqa: T201 - as the interpreter does
        return 1
    except BaseException as error:  # noqa: BLE001 - as the interpreter does
        code = _code_of(partial(sys.excepthook, type(error), error, error.__traceback__))
        return code or (-signal.SIGINT if isinstance(error, KeyboardInterrupt) else 1)
    return 0


def _stream(number: int, like: TextIO) -> TextIO:
    buffering = 1 if number == 2 or os.isatty(number) else -1
    return open(number, "w", buffering, like.encoding, like.errors, closefd=False)


def _run(arguments: Sequence[str], base: list[str]) -> None:
    """Run a command line as the interpreter would: the console script, a file, or ``[-P …] -c CODE``."""
    program, *words = arguments
    main = types.ModuleType("__main__")
    sys.modules["__main__"] = main
    named = os.environ.get("PYTHONPATH", "").split(os.pathsep)
    sys.path[:] = [*filter(None, named), *base]
    if program != sys.executable:
        sys.path.insert(0, str(Path(program).parent))
        sys.argv[:] = arguments
        import_module("bo_tune.cli").main()
        return
    if words[0] in ("-P", "-c"):
        at = words.index("-c")
        sys.path[:0] = [""] if at == 0 else []
        sys.argv[:] = ["-c", *words[at + 2 :]]
        exec(compile(words[at + 1], "<string>", "exec"), vars(main))
        return
    main.__file__ = words[0]
    sys.path.insert(0, str(Path(words[0]).resolve().parent))
    sys.argv[:] = words
    exec(compile(Path(words[0]).read_bytes(), words[0], "exec"), vars(main))


def _end(code: int) -> NoReturn:
    """End in the order in which the interpreter does, but for forgetting every object."""
    with contextlib.suppress(BaseException):
        threading._shutdown()
    atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError):
            stream.flush()
    if code == -signal.SIGINT:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        os.kill(os.getpid(), signal.SIGINT)
    os._exit(code & 0xFF)


def _show(arguments: Sequence[str]) -> None:
    """Have ``ps``, and tests, see the command line of this process as if it had been started with it."""
    start, end = map(int, Path("/proc/self/stat").read_text().rpartition(")")[2].split()[45:47])
    text = b"\0".join(map(os.fsencode, arguments))[: end - start - 1]
    ctypes.memmove(start, text.ljust(end - start, b"\0"), end - start)


def main(base: list[str]) -> None:
    """Be the first stock: import everything, then fork whatever is asked for.

    Args:
        base: what is imported from where without variables that say so.
    """
    control = socket.socket(fileno=_highest(int(sys.argv[1])))
    _import_everything()
    install()
    gc.collect()
    gc.freeze()  # collecting what all processes share would copy it
    order = _serve(control)
    while order.request.is_to_start_others and (next_order := _with_stock(order)) is not None:
        order = next_order
    _become(order, base)
