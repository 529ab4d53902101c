"""Trials on their way into the database. A separate thread stores many in one transaction.

A transaction costs the same whether it holds one trial or twenty. So there is at most one in a tenth of a second,
unless someone waits for it, and what arrives meanwhile is stored together. A study goes on, but never far ahead: if the
oldest trial that is not stored has waited for a second, whoever brings another waits, too. So a kill loses at most what
was measured in the last second, and a trial is reported only once it cannot be lost.

A study whose lease was lost takes no more trials. Its waiting trials are dropped without being reported, and whoever
brings another gets an error. The trials of other studies are stored all the same.
"""

import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

from optuna.trial import FrozenTrial

from bo_tune.errors import LeaseLostError

MOST_BEHIND_S = 1.0
"""Time that a trial may wait before others have to wait for it."""

GATHERED_S = 0.1
"""Time between two transactions if nobody waits for them."""

LOST = "another worker has taken the study over"

Writer = tuple[int, int | None]
"""The number of a study in the database, and the token of the lease under which it is written; None without one."""

Written = tuple[Writer, FrozenTrial]
"""A trial, and who adds it to which study."""


@dataclass(frozen=True, slots=True)
class _Item:
    writer: Writer
    trial: FrozenTrial
    then: Callable[[], None]
    since: float = field(default_factory=time.monotonic)


class TrialQueue:
    """Stores trials in the order given.

    Args:
        store: adds trials in one transaction, and returns the writers whose lease is lost, whose trials it left out.
            Every later ``put`` and ``flush`` raises again what it raises.

    Attributes:
        busy_s: seconds spent storing.
    """

    def __init__(self, store: Callable[[Sequence[Written]], set[Writer]]) -> None:
        self._store = store
        self._lost: set[Writer] = set()
        self._waiting: list[_Item] = []
        self._storing: list[_Item] = []
        self._given = self._settled = self._wanted = 0  # counts of trials, in the order given
        self._is_draining = self._is_closing = False
        self._stored_at = float("-inf")
        self._failure: BaseException | None = None
        self._changed = threading.Condition()
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="trials")
        self.busy_s = 0.0

    def put(self, writer: Writer, trial: FrozenTrial, then: Callable[[], None]) -> None:
        """Hand over a trial. ``then`` is called in the storing thread when the trial is stored.

        Raises:
            LeaseLostError: another worker has taken the study.
        """
        self._check(writer)
        with self._changed:
            self._wait_for(lambda: not self._is_behind())
            self._waiting.append(_Item(writer, trial, then))
            self._given += 1
            if not self._is_draining:
                self._is_draining = True
                self._thread.submit(self._drain)

    def flush(self, writer: Writer | None = None) -> None:
        """Wait until everything handed over so far is stored and reported.

        Raises:
            LeaseLostError: another worker has taken this writer's study.
        """
        with self._changed:
            upto = self._wanted = self._given
            self._changed.notify_all()
            self._wait_for(lambda: self._settled >= upto)
        self._check(writer)

    def lose(self, writer: Writer) -> None:
        """Note that a lease is lost."""
        self._lost.add(writer)

    def _check(self, writer: Writer | None) -> None:
        if writer in self._lost:
            raise LeaseLostError(LOST)

    def close(self) -> None:
        """Store what is left and end the thread."""
        with self._changed:
            self._is_closing = True
            self._changed.notify_all()
        self._thread.shutdown()

    def _wait_for(self, ready: Callable[[], bool]) -> None:
        """Wait, holding the lock before and after. Raises what storing raised."""
        self._changed.wait_for(lambda: self._failure is not None or ready())
        if self._failure is not None:
            raise self._failure

    def _is_behind(self) -> bool:
        oldest = [*self._storing[:1], *self._waiting[:1]]
        return bool(oldest) and time.monotonic() - oldest[0].since > MOST_BEHIND_S

    def _drain(self) -> None:
        """Store everything that is waiting, and what arrives meanwhile."""
        try:
            while self._gather():
                self._store_gathered()
        # SystemExit, too: otherwise whoever waits for the trials would wait for ever. The next caller raises it again.
        except BaseException as error:  # noqa: BLE001
            with self._changed:
                self._failure = error
                self._changed.notify_all()

    def _gather(self) -> bool:
        """Take the trials that are stored together next. Returns whether there are any."""
        with self._changed:
            if not self._waiting:
                self._is_draining = False
                return False
            wait_s = self._stored_at + GATHERED_S - time.monotonic()
            hurried = self._changed.wait_for(lambda: self._is_closing or self._wanted > self._settled, max(0.0, wait_s))
            if not hurried:  # if someone waited, its last trial is in; the next study's first is then stored at once
                self._stored_at = time.monotonic()
            self._storing, self._waiting = self._waiting, []
            return True

    def _store_gathered(self) -> None:
        start = time.perf_counter()
        self._lost |= self._store([(item.writer, item.trial) for item in self._storing])
        self.busy_s += time.perf_counter() - start
        for item in self._storing:
            if item.writer not in self._lost:
                item.then()
        with self._changed:
            self._settled += len(self._storing)
            self._storing = []
            self._changed.notify_all()
