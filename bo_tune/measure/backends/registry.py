"""The vendors whose GPUs can be tuned, by the word that devices and targets begin with."""

from dataclasses import dataclass
from functools import cache
from importlib import import_module
from pathlib import Path

from bo_tune.core.problem import DEFAULT_BACKEND
from bo_tune.errors import InputError
from bo_tune.measure.backends.base import Backend

BACKENDS = {
    DEFAULT_BACKEND: "bo_tune.measure.backends.nvidia.backend:Nvidia",
}
"""Module and class of each vendor, imported on first use."""


def backend_named(name: str) -> Backend:
    """Return the vendor with this backend name. Raises KeyError if there is none."""
    return _loaded(BACKENDS[name])


@cache
def _loaded(place: str) -> Backend:
    module, _, name = place.partition(":")
    made: Backend = getattr(import_module(module), name)()
    return made


@dataclass(frozen=True, slots=True)
class GpuName:
    """GPUs of this host, as a user named them.

    Attributes:
        backend: the name of their vendor's backend, see ``measure.backends``.
        index: which of them; None if the user did not say.
    """

    backend: str
    index: int | None


def gpu_named(device: str, option: str) -> GpuName:
    """Parse the name of a device that is not a folder of recordings. Raises InputError.

    Args:
        option: where the user gave it, for the message.
    """
    backend, _, number = device.partition(":")
    if backend not in BACKENDS or (number and not number.isdecimal()):
        ways = ", ".join(f"{name}, {name}:N" for name in BACKENDS)
        raise InputError(f"{option}: expected {ways} or replay:DIR, got {device!r}")
    return GpuName(backend, int(number) if number else None)


def recordings_named(device: str) -> Path | None:
    """Return the folder of recordings that a device's name stands for, or None."""
    word, _, folder = device.partition(":")
    return Path(folder) if word == "replay" and folder else None
