"""Trials on their way into the database: stored by a thread of their own, many in one transaction.

A study goes on while its trials are being stored, but never far ahead: once the oldest trial not yet stored has waited
for a second, whoever brings another waits too. So a kill loses at most what was measured in the last second, and a
trial is reported only once it cannot be lost.
"""

import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field

from optuna.trial import FrozenTrial

MOST_BEHIND_S = 1.0
"""How long a trial may wait before others have to wait for it."""

Numbered = tuple[int, FrozenTrial]
"""A trial, and the number of its study in the database."""


@dataclass(frozen=True, slots=True)
class _Item:
    study_id: int
    trial: FrozenTrial
    then: Callable[[], None]
    since: float = field(default_factory=time.monotonic)


class TrialQueue:
    """Stores trials in the order given.

    Args:
        store: adds trials in one transaction; what it raises is raised again by every later ``put`` and ``flush``.

    Attributes:
        busy_s: seconds spent storing.
    """

    def __init__(self, store: Callable[[Sequence[Numbered]], None]) -> None:
        self._store = store
        self._waiting: list[_Item] = []
        self._since: float | None = None
        self._draining: Future[None] | None = None
        self._lock = threading.Lock()
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="trials")
        self.busy_s = 0.0

    def put(self, study_id: int, trial: FrozenTrial, then: Callable[[], None]) -> None:
        """Hand over a trial; ``then`` is called, in the storing thread, when it is stored."""
        draining = self._draining
        if draining is not None and (draining.done() or self._is_behind()):
            draining.result()
        with self._lock:
            self._waiting.append(_Item(study_id, trial, then))
            if self._draining is None:
                self._draining = self._thread.submit(self._drain)

    def flush(self) -> None:
        """Wait until everything handed over is stored, and told."""
        draining = self._draining
        if draining is not None:
            draining.result()

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
            self._store([(item.study_id, item.trial) for item in batch])
            self.busy_s += time.perf_counter() - start
            for item in batch:
                item.then()
