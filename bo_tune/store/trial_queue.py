"""Trials on their way into the database: stored by a thread of their own, many in one transaction.

A study goes on while its trials are being stored, but never far ahead: once the oldest trial not yet stored has waited
for a second, whoever brings another waits too. So a kill loses at most what was measured in the last second, and a
trial is reported only once it cannot be lost.

A study whose lease was lost takes no trials any more: those still waiting are dropped, untold, and whoever brings
another learns of it. The trials of other studies are stored all the same.
"""

import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field

from optuna.trial import FrozenTrial

from bo_tune.errors import LeaseLostError

MOST_BEHIND_S = 1.0
"""How long a trial may wait before others have to wait for it."""

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
            What it raises is raised again by every later ``put`` and ``flush``.

    Attributes:
        busy_s: seconds spent storing.
    """

    def __init__(self, store: Callable[[Sequence[Written]], set[Writer]]) -> None:
        self._store = store
        self._lost: set[Writer] = set()
        self._waiting: list[_Item] = []
        self._since: float | None = None
        self._draining: Future[None] | None = None
        self._lock = threading.Lock()
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="trials")
        self.busy_s = 0.0

    def put(self, writer: Writer, trial: FrozenTrial, then: Callable[[], None]) -> None:
        """Hand over a trial; ``then`` is called, in the storing thread, when it is stored.

        Raises:
            LeaseLostError: the study is another's by now.
        """
        self._check(writer)
        draining = self._draining
        if draining is not None and (draining.done() or self._is_behind()):
            draining.result()
        with self._lock:
            self._waiting.append(_Item(writer, trial, then))
            if self._draining is None:
                self._draining = self._thread.submit(self._drain)

    def flush(self, writer: Writer | None = None) -> None:
        """Wait until everything handed over is stored, and told.

        Raises:
            LeaseLostError: the study of this writer is another's by now.
        """
        draining = self._draining
        if draining is not None:
            draining.result()
        self._check(writer)

    def lose(self, writer: Writer) -> None:
        """Take note that a lease is lost."""
        self._lost.add(writer)

    def _check(self, writer: Writer | None) -> None:
        if writer in self._lost:
            raise LeaseLostError(LOST)

    def close(self) -> None:
        """Store what is left and end the thread."""
        self._thread.shutdown()

    def _is_behind(self) -> bool:
        since = self._since
        return since is not None and time.monotonic() - since > MOST_BEHIND_S

    def _drain(self) -> None:
        """Store all that is waiting, and what comes meanwhile. Where it fails it stays the last that was tried."""
        while True:
            with self._lock:
                batch, self._waiting = self._waiting, []
                if not batch:
                    self._draining = self._since = None
                    return
            self._since = batch[0].since
            start = time.perf_counter()
            self._lost |= self._store([(item.writer, item.trial) for item in batch])
            self.busy_s += time.perf_counter() - start
            for item in batch:
                if item.writer not in self._lost:
                    item.then()
