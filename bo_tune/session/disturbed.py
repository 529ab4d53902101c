"""Records which studies were measured while something else went on on their GPU.

It is noted in the database as it happens, so that no kill loses it, and told to the listener.
"""

import threading
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress

from bo_tune.core.events import GpuNoticed, Listener
from bo_tune.errors import LeaseLostError, StorageError
from bo_tune.measure.device import Device
from bo_tune.store.attributes import DISTURBED_ATTR
from bo_tune.tuning.tuner import Tuner

Disturbances = Mapping[str, Sequence[str] | None]
"""The disturbances of studies, by name. None if it is not known that nothing did."""


class Disturbed:
    """Notes what disturbs the studies of a session. Safe to use from several threads.

    Args:
        listener: called once for each disturbance, and for each kind that may have gone unnoticed.
    """

    def __init__(self, listener: Listener) -> None:
        self._listener = listener
        self._told: set[str] = set()
        self._lock = threading.Lock()

    def begin(self, devices: Iterable[Device]) -> None:
        """Tell what is known of the GPUs before anything is measured."""
        for device in devices:
            if device.unwatched is not None:
                self._tell(device.unwatched, spoils=False)
            if device.monitor is not None and device.monitor.busy is not None:
                self._tell(device.monitor.busy, spoils=True)

    @contextmanager
    def noting(self, device: Device, tuners: Sequence[Tuner]) -> Iterator[Disturbances]:
        """Note what disturbs studies that are measured in this context. The yielded mapping is complete at its end.

        Raises:
            LeaseLostError, StorageError: at the end. Before that, the studies run into these errors themselves.
        """
        found = {tuner.stored.name: tuner.stored.attribute(DISTURBED_ATTR) for tuner in tuners}
        monitor = device.monitor
        if monitor is None:
            yield found
            return

        def note(disturbances: Collection[str]) -> None:
            for text in sorted(disturbances):
                self._tell(f"{device.gpu.name}: {text}: times are distorted, and marked", spoils=True)
            for tuner in tuners:
                before = found[tuner.stored.name] or []
                found[tuner.stored.name] = sorted({*before, *disturbances})
                if found[tuner.stored.name] != before:
                    with suppress(LeaseLostError, StorageError):
                        tuner.stored.set_attribute(DISTURBED_ATTR, found[tuner.stored.name])

        with monitor.noting(note):
            yield found
        if monitor.blind_spot is not None:
            self._tell(monitor.blind_spot, spoils=False)
        for tuner in tuners:
            # Nothing is known of trials that an earlier session recorded.
            if monitor.sees_processes and found[tuner.stored.name] is None and not tuner.resumed:
                found[tuner.stored.name] = []
                tuner.stored.set_attribute(DISTURBED_ATTR, [])

    def _tell(self, text: str, *, spoils: bool) -> None:
        with self._lock:
            if text in self._told:
                return
            self._told.add(text)
        self._listener(GpuNoticed(text, spoils))
