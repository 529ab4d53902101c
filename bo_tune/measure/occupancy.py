"""Whether a GPU and its compilers have work, and how long they had none because studies were still deciding.

Notation
    d, g, c     studies deciding or recording; requests the GPU process is working on; compilers at work
    held up     g = 0, c < number of compilers, d > 0: the GPU and at least one compiler have nothing to do, because a
                study that would give them work is still deciding. Only this time is added to a session by the tuner:
                what it does while the GPU measures or all compilers compile costs nothing.
"""

import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Literal

Activity = Literal["deciding", "measuring", "compiling"]


class Occupancy:
    """Counts what studies, compilers and the GPU process are doing on one GPU. Safe to use from several threads.

    Args:
        compilers: number of the GPU's compile processes.
        clock: returns seconds.
    """

    def __init__(self, compilers: int, clock: Callable[[], float] = time.perf_counter) -> None:
        self._compilers, self._clock = compilers, clock
        self._lock = threading.Lock()
        self._at: Counter[Activity] = Counter()
        self._since = clock()
        self._held_up_s = 0.0

    @contextmanager
    def at(self, activity: Activity) -> Iterator[None]:
        """Count one more at this activity for the duration of the context."""
        self._change(activity, 1)
        try:
            yield
        finally:
            self._change(activity, -1)

    def _change(self, activity: Activity, by: int) -> None:
        with self._lock:
            self._count()
            self._at[activity] += by

    def _count(self) -> None:
        now = self._clock()
        if self._at["deciding"] and not self._at["measuring"] and self._at["compiling"] < self._compilers:
            self._held_up_s += now - self._since
        self._since = now

    @property
    def held_up_s(self) -> float:
        """Seconds so far in which the session was held up."""
        with self._lock:
            self._count()
            return self._held_up_s
