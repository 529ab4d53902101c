"""A Triton driver that knows a target and cannot launch anything, to compile for a GPU that is not there."""

import triton
from triton.backends.compiler import GPUTarget

from bo_tune.core.problem import GpuInfo

FIRST_DEVICE = 1_000
"""Devices are numbered from here on, where no machine has GPUs."""

_seen: list[GPUTarget] = []


class OfflineDriver:
    """Answers the questions that Triton's compiler asks a driver.

    Each target gets a device number of its own, because a jit function keeps one target for each number it has seen.

    Attributes:
        gpu: the GPU to compile for, for launchers that need more than the target; None if it is not known.
    """

    def __init__(self, target: GPUTarget, gpu: GpuInfo | None = None) -> None:
        self.target = target
        self.gpu = gpu
        if target not in _seen:
            _seen.append(target)
        self._device = FIRST_DEVICE + _seen.index(target)

    def get_current_target(self) -> GPUTarget:
        """Return the target to compile for."""
        return self.target

    def get_current_device(self) -> int:
        """Return the number under which jit functions keep this target."""
        return self._device

    def get_current_stream(self, device: int) -> int:
        """Return the default stream; nothing is ever launched on it."""
        return 0

    def is_active(self) -> bool:
        """Say that the driver may be used."""
        return True


def activate(target: GPUTarget, gpu: GpuInfo | None = None) -> None:
    """Make Triton compile for this target in this process, with or without a GPU.

    ``JITFunction.warmup`` then fills Triton's cache with the very binaries that a launch on such a GPU looks up.
    """
    triton.runtime.driver.set_active(OfflineDriver(target, gpu))
