"""Workers on this host: tuning processes that share its GPUs. Leases settle which worker does what.

One tuning process can feed one GPU; with two GPUs, they would wait for its interpreter. So each worker has an
interpreter of its own. The session that starts the workers opens no GPU: it shows what they report, and collects their
results from the database.
"""

import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from multiprocessing.connection import Connection
from typing import Any

from bo_tune.core.activity import SessionActivity
from bo_tune.core.events import Event, Listener, StudyElsewhere, StudyFailed, StudyFinished, StudyStarted
from bo_tune.core.problem import Problem
from bo_tune.errors import BoTuneError, InputError, one_line
from bo_tune.measure.compile.host import cores
from bo_tune.measure.described import Description
from bo_tune.measure.gpu.device import CORES_KEPT
from bo_tune.processes import exit_codes
from bo_tune.processes.interpreter import python_command
from bo_tune.processes.interruption import IN_ORDER_WITHIN_S, at_exit, interruptible
from bo_tune.session.workers.measuring import Measured, forking, host_gpus
from bo_tune.session.workers.worker import StudyWorker, fitting_of
from bo_tune.store.storage import StudyStore, silence_optuna

MODULE = "bo_tune.session.workers.host"
"""The module that a worker runs."""

TELL_EVERY_S = 0.5
"""Seconds between two reports of a worker's figures."""

GO, STOP = "go", "stop"
"""Messages from the session to a worker."""

LEFT = "left"
"""A worker's last message: its work is done, and nothing more is on its way."""

STOPPED_WITHIN_S = 60.0
"""Time that a worker has to close its GPUs, once its work is done, before it is killed."""

ENDS_WITHIN_S = IN_ORDER_WITHIN_S - 1.0
"""Time that a worker has to end in order when asked to. Its session waits for it, and has a limit too."""


@dataclass(frozen=True, slots=True)
class _Order:
    """A worker's task.

    Attributes:
        begins_at: where among the studies it begins, 0 to 1. Neighbours share binaries, so each worker has its own
            place.
        problems: the problems for which it describes its GPUs.
    """

    measured: Measured
    storage: str
    lease_s: float
    seed: int
    begins_at: float
    problems: Sequence[Problem]


@dataclass(frozen=True, slots=True)
class _Failed:
    message: str


class _Session:
    """The session as a worker sees it: it is told what happens, and says when to go and when to stop.

    If the session is gone, messages to it are dropped. Its end has the same effect as its message to stop: the process
    ends as if a signal had asked it to.
    """

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._lock = threading.Lock()
        self._go = threading.Event()
        self._has_left = False
        threading.Thread(target=self._listen, name="session", daemon=True).start()

    def _listen(self) -> None:
        with suppress(EOFError, OSError):
            while self._connection.recv() == GO:
                self._go.set()
        if not self._has_left:
            os.kill(os.getpid(), signal.SIGTERM)

    def wait_for_go(self) -> None:
        """Wait until the session wants the work to start."""
        self._go.wait()

    def tell(self, message: object) -> None:
        """Send a message."""
        with self._lock, suppress(OSError):
            self._connection.send(message)

    def leave(self, message: object) -> None:
        """Send the last message. Closing GPUs takes another second, and nobody need wait for that."""
        self._has_left = True
        self.tell(message)

    @contextmanager
    def told_figures_of(self, worker: StudyWorker) -> Iterator[None]:
        """Report a worker's figures for the duration of the context."""
        over = threading.Event()

        def tell() -> None:
            while not over.wait(TELL_EVERY_S):
                self.tell(worker.activities)

        teller = threading.Thread(target=tell, name="figures")
        teller.start()
        try:
            yield
        finally:
            over.set()
            try:
                teller.join()
            finally:  # the session may tell it to stop just now, and counts what it is told last
                self.tell(worker.activities)


def work(session: _Session, order: _Order) -> None:
    """Work: open GPUs, describe them, wait for the session's go, and search until nothing is left."""
    silence_optuna()
    try:
        with (
            forking(order.measured) as forks,
            fitting_of(order.measured, order.seed, forks.host) as (devices, fits, settings),
        ):
            session.tell([Description.of(device, order.problems) for device in devices])
            session.wait_for_go()
            with StudyStore(order.storage, create=False, lease_s=order.lease_s) as store:
                worker = StudyWorker(
                    store, fits, settings, listener=session.tell, begins_at=order.begins_at, searches=forks.searches
                )
                with session.told_figures_of(worker):
                    worker.run()
            session.leave(LEFT)
    except BoTuneError as error:
        session.leave(_Failed(one_line(error)))


def main() -> None:
    """Be a worker of the session at the other end of a socket, whose file descriptor is the argument."""
    connection = Connection(int(sys.argv[1]))
    try:
        with suppress(EOFError), interruptible(exit_codes.INTERRUPTED, within_s=ENDS_WITHIN_S):
            order = connection.recv()
            work(_Session(connection), order)
    except KeyboardInterrupt:
        sys.exit(exit_codes.INTERRUPTED)


@contextmanager
def _ctrl_c_not_inherited() -> Iterator[None]:
    """Keep Ctrl-C from processes started in this context, since the session tells them what to do."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT])
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


class _Member:
    """The session's side of a worker.

    Attributes:
        activities: what it has done, session by session.
        was_stopped: whether it was told to stop.
    """

    def __init__(self, order: _Order) -> None:
        ours, theirs = socket.socketpair()
        with theirs, _ctrl_c_not_inherited():
            self.process = subprocess.Popen(
                python_command(MODULE, str(theirs.fileno())), pass_fds=[theirs.fileno()], stdin=subprocess.DEVNULL
            )
        self._forget = at_exit(self.process.kill)
        self.connection: Connection = Connection(ours.detach())
        self.say(order)
        self.activities: Sequence[SessionActivity] = ()
        self.was_stopped = False

    def descriptions(self) -> Sequence[Description]:
        """Wait for the descriptions of its GPUs. Raises InputError."""
        try:
            said = self.connection.recv()
        except EOFError:
            said = _Failed("it exited before it reported its GPUs")
        if isinstance(said, _Failed):
            raise InputError(f"--workers: {said.message}")
        found: Sequence[Description] = said
        return found

    def say(self, word: object) -> None:
        """Send it a message. If it has ended, the message is dropped."""
        with suppress(OSError):
            self.connection.send(word)

    def stop(self) -> None:
        """Tell it to stop, unless its work is done."""
        self.was_stopped = True
        self.say(STOP)

    def end(self) -> None:
        """Tell it to stop, and wait until it is gone."""
        self.stop()
        with suppress(subprocess.TimeoutExpired):
            self.process.wait(STOPPED_WITHIN_S)
        self.process.kill()
        self.process.wait()
        self._forget()
        self.connection.close()


class HostWorkers:
    """The workers of a session on this host. Their GPUs are open once ``descriptions`` has returned.

    Args:
        count: how many processes.

    Raises:
        InputError: there are fewer GPUs than workers, or one cannot be used.
    """

    def __init__(self, count: int, measured: Measured, storage: str, lease_s: float, seed: int) -> None:
        self._count, self._measured = count, measured
        self._storage, self._lease_s, self._seed = storage, lease_s, seed
        self._members: list[_Member] = []
        self._begun: set[str] = set()
        self._failed: set[str] = set()

    def descriptions(self, problems: Sequence[Problem]) -> list[Description]:
        """Start the workers and return their GPUs described for these problems, each type once. Raises InputError."""
        for number, measured in enumerate(self._shares()):
            order = _Order(measured, self._storage, self._lease_s, self._seed, number / self._count, problems)
            self._members.append(_Member(order))
        found = {one.gpu.name: one for member in self._members for one in member.descriptions()}
        return list(found.values())

    def _shares(self) -> list[Measured]:
        """Return what each worker measures with: its GPUs, and its share of the compilers."""
        measured = self._measured
        if measured.recordings is not None:
            return [measured] * self._count
        gpus = host_gpus(measured)
        if len(gpus) < self._count:
            raise InputError(
                f"--workers: expected at most one worker for each of this host's {len(gpus)} GPUs, got {self._count}"
            )
        jobs = max(1, (measured.jobs or cores(CORES_KEPT)) // self._count)
        shares = (gpus[number :: self._count] for number in range(self._count))
        return [replace(measured, gpus=",".join(map(str, share)), jobs=jobs) for share in shares]

    def activities(self) -> Sequence[Sequence[SessionActivity]]:
        """Return what each worker has done so far, session by session; at most half a second old."""
        return [member.activities for member in self._members]

    def listener(self, listen: Listener) -> Listener:
        """Return the session's own listener, which leaves out what a worker reports about studies that it has begun."""

        def others(event: Event) -> None:
            begun = isinstance(event, StudyStarted | StudyFinished) and event.name in self._begun
            if not begun and not (isinstance(event, StudyFailed) and event.name in self._failed):
                listen(event)

        return others

    @contextmanager
    def at_work(self, note: Callable[[str], None], listen: Listener) -> Iterator[threading.Event]:
        """Have the workers work for the duration of the context. The yielded event is set once they have all ended.

        Args:
            note: called when a worker fails.
            listen: called for events of studies, from several threads.
        """
        if not self._members:  # recordings need no description, so the workers have not been started
            self.descriptions(())
        ended = threading.Event()
        threads = [
            threading.Thread(target=self._hear, args=(member, note, listen), name="worker") for member in self._members
        ]

        def wait() -> None:
            for thread in threads:
                thread.join()
            ended.set()

        waiting = threading.Thread(target=wait, name="workers")
        for member in self._members:
            member.say(GO)
        for thread in (*threads, waiting):
            thread.start()
        try:
            yield ended
        finally:
            for member in self._members:
                member.stop()
            waiting.join()

    def _hear(self, member: _Member, note: Callable[[str], None], listen: Listener) -> None:
        with suppress(EOFError, OSError):
            while (said := member.connection.recv()) != LEFT:
                self._take(member, said, note, listen)
            return
        code = member.process.wait()
        if code and not member.was_stopped:
            note(f"a worker was lost with exit code {code}")

    def _take(self, member: _Member, said: Any, note: Callable[[str], None], listen: Listener) -> None:
        match said:
            case tuple():
                member.activities = said
            case _Failed(message):
                note(f"a worker failed: {message}")
            case StudyElsewhere():  # another of these workers has it
                pass
            case _:
                if isinstance(said, StudyStarted):
                    self._begun.add(said.name)
                if isinstance(said, StudyFailed):
                    self._failed.add(said.name)
                listen(said)

    def close(self) -> None:
        """End the workers."""
        for member in self._members:
            member.end()
