"""Controls when Python searches for objects in cycles. Nothing else runs during a search."""

import gc
from collections.abc import Iterator
from contextlib import contextmanager

YOUNG_OBJECTS = 50_000
"""Number of new objects after which Python searches for cycles. The default is 700."""


@contextmanager
def less_frequent_gc() -> Iterator[None]:
    """Search for objects in cycles less often inside the context.

    A session keeps a million objects throughout, and leaves few in cycles. Each search through all of them stops every
    thread for about a tenth of a second.
    """
    before = gc.get_threshold()
    gc.set_threshold(YOUNG_OBJECTS, *before[1:])
    try:
        yield
    finally:
        gc.set_threshold(*before)


@contextmanager
def paused_gc() -> Iterator[None]:
    """Do not search for objects in cycles inside the context. For short work that reads and keeps much.

    Reading ten thousand studies creates a million objects, and half the time went into searching them.
    """
    before = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if before:
            gc.enable()
