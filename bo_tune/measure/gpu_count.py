"""Prints how many NVIDIA GPUs this host has, as the driver counts them: a process of its own, since asking the driver
leaves a process unfit to fork children that use it. Torch would take seconds to load for the same answer."""

import ctypes
import sys


def gpu_count() -> int:
    """Return how many GPUs the driver lets this process use; 0 where there is no driver."""
    try:
        driver = ctypes.CDLL("libcuda.so.1")
    except OSError:
        return 0
    count = ctypes.c_int()
    found = driver.cuInit(0) == 0 and driver.cuDeviceGetCount(ctypes.byref(count)) == 0
    return count.value if found else 0


def main() -> None:
    """Print it."""
    sys.stdout.write(str(gpu_count()))
