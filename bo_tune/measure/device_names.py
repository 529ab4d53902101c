"""What users call what measures: ``cuda``, ``cuda:N`` or ``replay:DIR``."""

from dataclasses import dataclass
from pathlib import Path

from bo_tune.errors import InputError
from bo_tune.measure.backends.registry import BACKENDS


@dataclass(frozen=True, slots=True)
class GpuName:
    """GPUs of this host as a user named them.

    Attributes:
        backend: the name of their vendor's, see ``measure.backends``.
        index: which of them; None where the user did not say.
    """

    backend: str
    index: int | None


def gpu_named(device: str, option: str) -> GpuName:
    """Read the name of a device that is no folder of recordings. Raises InputError.

    Args:
        option: where the user gave it, for the message.
    """
    backend, _, number = device.partition(":")
    if backend not in BACKENDS or (number and not number.isdecimal()):
        ways = ", ".join(f"{name}, {name}:N" for name in BACKENDS)
        raise InputError(f"{option}: expected {ways} or replay:DIR, got {device!r}")
    return GpuName(backend, int(number) if number else None)


def recordings_named(device: str) -> Path | None:
    """Return the folder of recordings that a device's name stands for; None where it is none."""
    word, _, folder = device.partition(":")
    return Path(folder) if word == "replay" and folder else None
