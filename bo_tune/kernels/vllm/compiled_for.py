"""Which GPU Triton compiles for in this process, asked of its driver.

Some of vLLM's launchers count multiprocessors or look at shared memory before they choose what to compile in.
"""

from dataclasses import dataclass

import triton


@dataclass(frozen=True, slots=True)
class CompiledFor:
    """What launchers ask of a GPU, besides its compute capability."""

    sm_count: int
    shared_memory_bytes: int


def compiled_for() -> CompiledFor:
    """Return what is compiled for: the GPU that an offline driver was told of, or else the one at hand.

    Raises:
        AttributeError: the driver knows a compute capability and no more.
    """
    driver = triton.runtime.driver.active
    told = getattr(driver, "gpu", None)
    if told is not None:
        return CompiledFor(told.sm_count, told.shared_memory_bytes)
    if not hasattr(driver, "utils"):
        raise AttributeError("of the GPU to compile for only the compute capability is known")
    properties = driver.utils.get_device_properties(driver.get_current_device())
    return CompiledFor(properties["multiprocessor_count"], properties["max_shared_mem"])
