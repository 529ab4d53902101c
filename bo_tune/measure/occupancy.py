"""Whether a GPU and its compilers have work, and for how long they had none because studies were still deciding.

Notation
    d, g, c     studies deciding or recording; requests the GPU process is at work on; compilers at work
    held up     g = 0, c < number of compilers, d > 0: the GPU has nothing to do, a compiler has nothing to do, and a
                study that would give them something is not that far yet. Only this is time the tuner adds to a session:
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
    """Counts who is at what on one GPU. Safe to use from several threads.

    Args:
        compilers: compile processes of the GPU.
        clock: seconds.
    """

    def __init__(self, compilers: int, clock: Callable[[], float] = time.perf_counter) -> None:
        self._compilers, self._clock = compilers, clock
        self._lock = threading.Lock()
        self._at: Counter[Activity] = Counter()
        self._since = clock()
        self._held_up_s = 0.0

    @contextmanager
    def at(self, activity: Activity) -> Iterator[None]:
        """Count one more at something while it lasts."""
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
        """Seconds so far in which it was held up."""
        with self._lock:
            self._count()
            return self._held_up_s
