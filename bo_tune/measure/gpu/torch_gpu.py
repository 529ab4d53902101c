"""A GPU through ``torch.cuda``, which serves CUDA and ROCm alike."""

import torch

from bo_tune.core.conditions import Timing
from bo_tune.core.problem import DEFAULT_BACKEND, GpuInfo
from bo_tune.kernels.target import gpu_at_hand
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
        return gpu_at_hand(self.device, self.backend, self.architecture())

    def architecture(self) -> str:
        """Return how compilers call the GPU, where its capability does not say (``GpuInfo.architecture``)."""
        return ""

    def free_bytes(self) -> float:
        return torch.cuda.mem_get_info()[0]

    def synchronize(self) -> None:
        torch.cuda.synchronize()

    def timer(self, timing: Timing) -> Timer:
        return timer(timing, self.device)
