"""Checks about once a second, while something is measured on a GPU, whether the GPU also works for others."""

import threading
import time
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager

from bo_tune.errors import DeviceError
from bo_tune.measure.watch.neighbours import (
    BUSY_PERCENT,
    LOST,
    GpuWatch,
    Neighbours,
    Reading,
    WatchError,
    use_by_others,
)

LOOK_EVERY_S = 1.0

LOOKS_BEFORE, BETWEEN_LOOKS_S = 3, 0.5
"""A GPU counts as busy if it is busy at every one of these looks. Work that has just ended, or waking the GPU up, shows
only for a moment."""

Noted = Callable[[Collection[str]], None]
"""Called with what disturbs measurements (``watch.neighbours``)."""


def monitored(
    name: str,
    watch: Callable[[], GpuWatch],
    ours: Callable[[], Collection[int]],
    most: Callable[[], int],
    *,
    require_idle: bool,
) -> "tuple[GpuMonitor | None, str | None]":
    """Return a monitor for a GPU that this session does not use yet, or None and the reason why there is none.

    Args:
        watch: opens what tells how the GPU is used. Raises WatchError if nothing can.
        require_idle: whether to refuse a GPU that others use, or that cannot be watched.

    Raises:
        DeviceError: the GPU is refused.
    """
    monitor, unwatched = None, None
    try:
        monitor = GpuMonitor(name, watch(), ours, most)
    except WatchError as error:
        unwatched = f"bo_tune cannot tell whether others use {name}: {error}"
    found = unwatched if monitor is None else monitor.busy
    if found is not None and require_idle:
        if monitor is not None:
            monitor.close()
        raise DeviceError(f"--require-idle: {found}")
    return monitor, unwatched


class GpuMonitor:
    """Watches one GPU. Safe to use from several threads.

    Args:
        name: of the GPU, for people.
        watch: closed with the monitor.
        ours: returns every process of the session that has had the GPU open so far.
        most: returns how many of them can have it open at once.

    Attributes:
        busy: a line on how others used the GPU before anything of this session did; None if they did not.

    Raises:
        WatchError: nothing can be read.
    """

    def __init__(
        self, name: str, watch: GpuWatch, ours: Callable[[], Collection[int]], most: Callable[[], int]
    ) -> None:
        self._name, self._watch, self._ours, self._most = name, watch, ours, most
        before = self._settled()
        use = use_by_others(before)
        self.busy = f"{name} is busy: {use}" if use else None
        self._neighbours = Neighbours(before)
        self._sees_processes = before.processes is not None
        self._lost = False
        self._noted: dict[int, Noted] = {}
        self._lock = threading.Lock()
        self._closed = threading.Event()
        self._thread: threading.Thread | None = None

    def _settled(self) -> Reading:
        """Return the reading taken before anything of the session uses the GPU."""
        reading = self._watch.read()
        for _ in range(LOOKS_BEFORE - 1):
            if (reading.utilisation_percent or 0) < BUSY_PERCENT:
                break
            time.sleep(BETWEEN_LOOKS_S)
            reading = self._watch.read()
        return reading

    @property
    def blind_spot(self) -> str | None:
        """A line on which use by others the monitor does not notice; None if it notices all."""
        if self._lost or not self._sees_processes:
            return (
                f"bo_tune cannot tell whether others use {self._name} meanwhile: the driver does not show its processes"
            )
        if self._watch.is_slice:
            return f"{self._name} is a MIG instance: bo_tune does not notice what others do on the rest of the GPU"
        return None

    @property
    def sees_processes(self) -> bool:
        """Whether the monitor would notice other processes."""
        return self._sees_processes and not self._lost

    def begin(self) -> None:
        """Start looking: from now on something of the session has the GPU open."""
        self._thread = threading.Thread(target=self._keep_watching, name="gpu-monitor", daemon=True)
        self._thread.start()

    def _keep_watching(self) -> None:
        self._look()
        while not self._closed.wait(LOOK_EVERY_S):
            self._look()

    @contextmanager
    def noting(self, note: Noted) -> Iterator[None]:
        """Tell ``note`` what disturbs measurements during the context. The last look comes after its end.

        ``note`` is called from another thread, or from this one at the end.
        """
        with self._lock:
            self._noted[id(note)] = note
        try:
            yield
        finally:
            self._look()
            with self._lock:
                del self._noted[id(note)]

    def _look(self) -> None:
        with self._lock:
            if self._lost or self._closed.is_set():
                return
            found = self._disturbances()
            noted = list(self._noted.values()) if found else ()
        for note in noted:
            note(found)

    def _disturbances(self) -> frozenset[str]:
        """Read, and return what disturbs measurements. The caller holds the lock."""
        ours, most = self._ours(), self._most()
        try:
            reading = self._watch.read()
        except WatchError:
            self._lost = True
            return frozenset({LOST})
        self._sees_processes = self._neighbours.others(reading, ours, most) is not None
        return self._neighbours.disturbances(reading, ours, most)

    def close(self) -> None:
        """Stop watching."""
        self._closed.set()
        if self._thread is not None:
            self._thread.join()
        self._watch.close()
