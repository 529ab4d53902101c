"""A GPU through ``torch.cuda``, which serves CUDA and ROCm alike."""

import torch
import triton

from bo_tune.core.conditions import Timing
from bo_tune.core.problem import DEFAULT_BACKEND, GpuInfo
from bo_tune.measure.backends.base import GpuSide
from bo_tune.measure.gpu.timing import Timer, timer


class TorchGpu(GpuSide):
    """What is the same for all vendors that torch calls ``cuda``.

    Attributes:
        backend: whose GPU it is (``Backend.name``).
    """

    backend = DEFAULT_BACKEND

    def __init__(self, index: int) -> None:
        self.device = torch.device("cuda", index)
        torch.cuda.set_device(self.device)

    def info(self) -> GpuInfo:
        """Return what torch and Triton's loader say of the GPU."""
        properties = torch.cuda.get_device_properties(self.device)
        limits = triton.runtime.driver.active.utils.get_device_properties(self.device.index)  # what its loader checks
        return GpuInfo(
            name=torch.cuda.get_device_name(self.device),
            capability=torch.cuda.get_device_capability(self.device),
            sm_count=properties.multi_processor_count,
            shared_memory_bytes=limits["max_shared_mem"],
            registers_per_sm=limits["max_num_regs"],
            threads_per_sm=properties.max_threads_per_multi_processor,
            l2_bytes=properties.L2_cache_size,
            backend=self.backend,
            architecture=self.architecture(),
        )

    def architecture(self) -> str:
        """Return how compilers call the GPU, where its capability does not say (``GpuInfo.architecture``)."""
        return ""

    def free_bytes(self) -> float:
        return torch.cuda.mem_get_info()[0]

    def synchronize(self) -> None:
        torch.cuda.synchronize()

    def timer(self, timing: Timing) -> Timer:
        return timer(timing, self.device)
