"""Tells which NVIDIA GPUs this host has, in the order in which CUDA counts them: a process of its own, since asking the
driver leaves a process unfit to fork children that use it. Torch would take seconds to load for the same answer."""

import ctypes
import json
import sys

UUID_BYTES = 16
BUS_ID_BYTES = 32


def gpu_identities() -> list[tuple[str, str]]:
    """Return UUID and PCI bus id of each GPU that the driver lets this process use; none where there is no driver.

    The UUID has no prefix: of a MIG instance it is the instance's. Either is "" where the driver does not tell.
    """
    try:
        driver = ctypes.CDLL("libcuda.so.1")
    except OSError:
        return []
    count = ctypes.c_int()
    found = driver.cuInit(0) == 0 and driver.cuDeviceGetCount(ctypes.byref(count)) == 0
    return [(_uuid(driver, index), _bus_id(driver, index)) for index in range(count.value if found else 0)]


def _uuid(driver: ctypes.CDLL, index: int) -> str:
    for name in ("cuDeviceGetUuid_v2", "cuDeviceGetUuid"):  # the first knows instances, drivers before CUDA 11.4 do not
        ask, raw = getattr(driver, name, None), (ctypes.c_ubyte * UUID_BYTES)()
        if ask is not None and ask(ctypes.byref(raw), index) == 0:
            digits = bytes(raw).hex()
            return "-".join((digits[:8], digits[8:12], digits[12:16], digits[16:20], digits[20:]))
    return ""


def _bus_id(driver: ctypes.CDLL, index: int) -> str:
    ask, text = getattr(driver, "cuDeviceGetPCIBusId", None), ctypes.create_string_buffer(BUS_ID_BYTES)
    return text.value.decode() if ask is not None and ask(text, BUS_ID_BYTES, index) == 0 else ""


def main() -> None:
    """Print them."""
    sys.stdout.write(json.dumps(gpu_identities()))
