"""Hands out a session's work: each piece once, and again if another worker had it."""

import heapq
import threading
import time
from collections import deque
from collections.abc import Callable

RETRY_S = 0.5
"""Longest time after which a piece that another worker had is handed out again."""

RETRY_EACH_S = 0.005
"""This much longer for each piece that waits: the last few are tried often, and a thousand are not tried too often."""

SOONEST_RETRY_S = 0.05


class Pending:
    """Hands out pieces of work by number. Safe to use from several threads.

    Args:
        count: how many pieces there are.
        first: the piece to begin with. Workers that begin with different ones do not get in each other's way.
        stopped: returns whether to hand out nothing any more. It is called at least twice a second.
    """

    def __init__(self, count: int, stopped: Callable[[], bool], *, first: int = 0) -> None:
        self._stopped = stopped
        self._new: deque[int] = deque([*range(first, count), *range(first)])
        self._later: list[tuple[float, int]] = []  # a heap
        self._handed_out = 0
        self._changed = threading.Condition()

    def take(self) -> int | None:
        """Return the next piece, waiting for one that may come back. Returns None when all are done."""
        with self._changed:
            while not self._stopped():
                piece = self._next()
                if piece is not None:
                    self._handed_out += 1
                    return piece
                if not self._handed_out and not self._later:
                    return None
                self._changed.wait(self._wait_s())
            return None

    @property
    def left(self) -> int:
        """Number of pieces that are not done."""
        with self._changed:
            return len(self._new) + len(self._later) + self._handed_out

    def put_back(self, piece: int) -> None:
        """Give back a piece that another worker has. It is handed out again after a while."""
        with self._changed:
            self._handed_out -= 1
            wait_s = min(RETRY_S, max(SOONEST_RETRY_S, RETRY_EACH_S * len(self._later)))
            heapq.heappush(self._later, (time.monotonic() + wait_s, piece))
            self._changed.notify_all()

    def done(self) -> None:
        """Say that a piece that was handed out is done."""
        with self._changed:
            self._handed_out -= 1
            self._changed.notify_all()

    def _next(self) -> int | None:
        if self._new:
            return self._new.popleft()
        if self._later and self._later[0][0] <= time.monotonic():
            return heapq.heappop(self._later)[1]
        return None

    def _wait_s(self) -> float:
        due_s = self._later[0][0] - time.monotonic() if self._later else RETRY_S
        return max(0.0, min(RETRY_S, due_s))
