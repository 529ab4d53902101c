"""Prints which NVIDIA GPUs this host has, in CUDA's order.

This is a process of its own, because a process that has asked the driver must not fork children that use it. Torch
would give the same answer, but takes seconds to load.
"""

import ctypes
import json
import sys
from collections.abc import Mapping
from typing import Any

UUID_BYTES = 16
BUS_ID_BYTES = 32
NAME_BYTES = 256

ATTRIBUTES: Mapping[str, int] = {
    "registers_per_sm": 12,
    "sm_count": 16,
    "l2_bytes": 38,
    "threads_per_sm": 39,
    "major": 75,
    "minor": 76,
    "shared_memory_bytes": 97,
}
"""Numbers of ``CUdevice_attribute``, by the fields of ``GpuInfo``. Torch and Triton's loader ask for the same ones. The
registers are those of a block; on all GPUs so far, a block may have all registers of a multiprocessor."""


def gpu_identities() -> list[tuple[str, str, dict[str, Any] | None]]:
    """Return UUID, PCI bus id and description (``GpuInfo``) of each usable GPU; none if there is no driver.

    The UUID has no prefix; a MIG instance has its own. If the driver does not say, UUID or bus id is "", and the
    description is None.
    """
    try:
        driver = ctypes.CDLL("libcuda.so.1")
    except OSError:
        return []
    count = ctypes.c_int()
    found = driver.cuInit(0) == 0 and driver.cuDeviceGetCount(ctypes.byref(count)) == 0
    return [
        (_uuid(driver, index), _bus_id(driver, index), _description(driver, index))
        for index in range(count.value if found else 0)
    ]


def _uuid(driver: ctypes.CDLL, index: int) -> str:
    for name in ("cuDeviceGetUuid_v2", "cuDeviceGetUuid"):  # only _v2 knows instances; CUDA before 11.4 lacks it
        ask, raw = getattr(driver, name, None), (ctypes.c_ubyte * UUID_BYTES)()
        if ask is not None and ask(ctypes.byref(raw), index) == 0:
            digits = bytes(raw).hex()
            return "-".join((digits[:8], digits[8:12], digits[12:16], digits[16:20], digits[20:]))
    return ""


def _bus_id(driver: ctypes.CDLL, index: int) -> str:
    ask, text = getattr(driver, "cuDeviceGetPCIBusId", None), ctypes.create_string_buffer(BUS_ID_BYTES)
    return text.value.decode() if ask is not None and ask(text, BUS_ID_BYTES, index) == 0 else ""


def _description(driver: ctypes.CDLL, index: int) -> dict[str, Any] | None:
    ask, name = getattr(driver, "cuDeviceGetAttribute", None), ctypes.create_string_buffer(NAME_BYTES)
    if ask is None or driver.cuDeviceGetName(name, NAME_BYTES, index) != 0:
        return None
    value, told = ctypes.c_int(), dict[str, Any]()
    for field, attribute in ATTRIBUTES.items():
        if ask(ctypes.byref(value), attribute, index) != 0:
            return None
        told[field] = value.value
    return {"name": name.value.decode(), "capability": [told.pop("major"), told.pop("minor")], **told}


def main() -> None:
    """Print the GPUs."""
    sys.stdout.write(json.dumps(gpu_identities()))
