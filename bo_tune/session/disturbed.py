"""Which studies were measured while something else was going on on their GPU: noted in the database as it happens, so
that no kill loses it, and told."""

import threading
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress

from bo_tune.core.events import GpuNoticed, Listener
from bo_tune.errors import LeaseLostError, StorageError
from bo_tune.measure.device import Device
from bo_tune.store.attributes import DISTURBED_ATTR
from bo_tune.tuning.tuner import Tuner

Disturbances = Mapping[str, Sequence[str] | None]
"""What disturbed studies, by name; None where it is not known that nothing did."""


class Disturbed:
    """Notes what disturbs the studies of a session. Safe to use from several threads.

    Args:
        listener: is told once of each thing that disturbs, or may have gone unnoticed.
    """

    def __init__(self, listener: Listener) -> None:
        self._listener = listener
        self._told: set[str] = set()
        self._lock = threading.Lock()

    def begin(self, devices: Iterable[Device]) -> None:
        """Tell what is known of GPUs before anything is measured."""
        for device in devices:
            if device.unwatched is not None:
                self._tell(device.unwatched, spoils=False)
            if device.monitor is not None and device.monitor.busy is not None:
                self._tell(device.monitor.busy, spoils=True)

    @contextmanager
    def noting(self, device: Device, tuners: Sequence[Tuner]) -> Iterator[Disturbances]:
        """Note what disturbs studies that are measured while this lasts; what is yielded is filled in by its end.

        Raises:
            LeaseLostError, StorageError: at the end; meanwhile the studies meet these themselves.
        """
        found = {tuner.stored.name: tuner.stored.attribute(DISTURBED_ATTR) for tuner in tuners}
        monitor = device.monitor
        if monitor is None:
            yield found
            return

        def note(disturbances: Collection[str]) -> None:
            for text in sorted(disturbances):
                self._tell(f"{device.gpu.name}: {text}: times are spoilt, and marked", spoils=True)
            for tuner in tuners:
                before = found[tuner.stored.name] or []
                found[tuner.stored.name] = sorted({*before, *disturbances})
                if found[tuner.stored.name] != before:
                    with suppress(LeaseLostError, StorageError):
                        tuner.stored.set_attribute(DISTURBED_ATTR, found[tuner.stored.name])

        with monitor.noting(note):
            yield found
        if monitor.blind_to is not None:
            self._tell(monitor.blind_to, spoils=False)
        for tuner in tuners:
            # Of trials that an earlier session recorded nothing is known.
            if monitor.sees_processes and found[tuner.stored.name] is None and not tuner.resumed:
                found[tuner.stored.name] = []
                tuner.stored.set_attribute(DISTURBED_ATTR, [])

    def _tell(self, text: str, *, spoils: bool) -> None:
        with self._lock:
            if text in self._told:
                return
            self._told.add(text)
        self._listener(GpuNoticed(text, spoils))
