"""A GPU used through ``torch.cuda``, which serves both CUDA and ROCm."""

import torch

from bo_tune.core.conditions import Timing
from bo_tune.core.problem import DEFAULT_BACKEND, GpuInfo
from bo_tune.kernels.target import gpu_at_hand
from bo_tune.measure.backends.base import GpuSide
from bo_tune.measure.gpu.timing import Timer, timer


class TorchGpu(GpuSide):
    """The common part of all vendors that torch calls ``cuda``.

    Attributes:
        backend: the vendor's backend (``Backend.name``).
    """

    backend = DEFAULT_BACKEND

    def __init__(self, index: int) -> None:
        self.device = torch.device("cuda", index)
        torch.cuda.set_device(self.device)

    def info(self) -> GpuInfo:
        """Return what torch and Triton's loader say about the GPU."""
        return gpu_at_hand(self.device, self.backend, self.architecture())

    def architecture(self) -> str:
        """Return the compilers' name for the GPU, if its capability does not say (``GpuInfo.architecture``)."""
        return ""

    def free_bytes(self) -> float:
        return torch.cuda.mem_get_info()[0]

    def synchronize(self) -> None:
        torch.cuda.synchronize()

    def timer(self, timing: Timing) -> Timer:
        return timer(timing, self.device)
