"""The GPU that Triton compiles for in this process. It may be absent."""

from functools import lru_cache

import torch
import triton

from bo_tune.core.problem import DEFAULT_BACKEND, GpuInfo

INTERPRETER = GpuInfo("Triton's interpreter", (0, 0), sm_count=1, shared_memory_bytes=0)
"""Stands in for a GPU if there is none and nothing is compiled for one."""


def gpu_at_hand(device: torch.device, backend: str = DEFAULT_BACKEND, architecture: str = "") -> GpuInfo:
    """Describe a GPU of this process by what torch and Triton's loader say about it.

    Args:
        device: the device, with its number.
        backend: the backend of the GPU (``GpuInfo.backend``).
        architecture: the compilers' name for it, if its capability does not determine it.
    """
    properties = torch.cuda.get_device_properties(device)
    limits = triton.runtime.driver.active.utils.get_device_properties(device.index)  # the limits that its loader checks
    return GpuInfo(
        name=torch.cuda.get_device_name(device),
        capability=torch.cuda.get_device_capability(device),
        sm_count=properties.multi_processor_count,
        shared_memory_bytes=limits["max_shared_mem"],
        registers_per_sm=limits["max_num_regs"],
        threads_per_sm=properties.max_threads_per_multi_processor,
        l2_bytes=properties.L2_cache_size,
        backend=backend,
        architecture=architecture,
    )


def target_gpu() -> GpuInfo:
    """Return the GPU that Triton compiles for: the one that an offline driver was told, or the one at hand."""
    if triton.knobs.runtime.interpret:
        return INTERPRETER
    driver = triton.runtime.driver.active
    told: GpuInfo | None = getattr(driver, "gpu", None)
    return told if told is not None else _of_driver(driver.get_current_device())


@lru_cache(maxsize=16)
def _of_driver(index: int) -> GpuInfo:
    target = triton.runtime.driver.active.get_current_target()
    architecture = target.arch if isinstance(target.arch, str) else ""
    return gpu_at_hand(torch.device("cuda", index), target.backend, architecture)
