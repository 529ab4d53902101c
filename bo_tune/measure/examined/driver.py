"""Prints what a vendor's driver says about this host's GPUs, in a process that loads neither torch nor triton.

It prints lines of JSON: ``driver`` (its release or null), ``fitted`` (the names of all GPUs in the host, and whether
each is partitioned), ``usable`` (how many this process may use), and for the GPU that will measure, ``busy``,
``blind_spot`` (see ``GpuMonitor``) or ``unwatched`` (why nothing is known).
"""

import json
import sys
from typing import Any

from bo_tune.errors import DeviceError
from bo_tune.measure.backends.base import Backend
from bo_tune.measure.backends.registry import backend_named
from bo_tune.measure.watch.monitor import GpuMonitor
from bo_tune.measure.watch.neighbours import WatchError


def main() -> None:
    """Print each answer as it is found. The arguments are the backend and the GPU's number."""
    vendor, index = backend_named(sys.argv[1]), int(sys.argv[2])
    _tell(driver=vendor.driver_release())
    _tell(fitted=[(gpu.name, gpu.is_partitioned) for gpu in vendor.fitted()])
    try:
        usable = list(vendor.identities())
    except DeviceError as error:
        _tell(uncounted=str(error))
        return
    _tell(usable=len(usable))
    if index < len(usable):
        _tell(**_use(vendor, index, usable[index]))


def _use(vendor: Backend, index: int, identity: Any) -> dict[str, Any]:
    """Return how others use a GPU."""
    try:
        monitor = GpuMonitor(f"{vendor.device} {index}", vendor.watch(identity), lambda: (), lambda: 0)
    except WatchError as error:
        return {"unwatched": str(error)}
    found = {"busy": monitor.busy, "blind_spot": monitor.blind_spot}
    monitor.close()
    return found


def _tell(**found: Any) -> None:
    sys.stdout.write(json.dumps(found) + "\n")
    sys.stdout.flush()
