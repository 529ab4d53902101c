"""When Python looks for objects in cycles: for as long as it does, nothing else is done."""

import gc
from collections.abc import Iterator
from contextlib import contextmanager

YOUNG_OBJECTS = 50_000
"""After how many new objects those in cycles are looked for; 700 by default."""


@contextmanager
def garbage_sought_seldom() -> Iterator[None]:
    """Look for objects in cycles seldom while it lasts.

    A session holds a million objects for as long as it lasts, and leaves few in cycles. Looking through all of them
    holds up every thread for a tenth of a second or so, time and again.
    """
    before = gc.get_threshold()
    gc.set_threshold(YOUNG_OBJECTS, *before[1:])
    try:
        yield
    finally:
        gc.set_threshold(*before)


@contextmanager
def garbage_not_sought() -> Iterator[None]:
    """Look for no objects in cycles while it lasts: for what reads much, keeps it, and is soon done.

    Of ten thousand studies a million objects are read, and half the time went into looking through them.
    """
    before = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if before:
            gc.enable()
