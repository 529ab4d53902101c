"""NVIDIA in the child processes: the compilers' side, and that of the process that owns a GPU."""

import ctypes
import os
import subprocess
from typing import Any

import torch
from triton.backends.compiler import GPUTarget
from triton.backends.nvidia.driver import CudaLauncher
from triton.compiler.compiler import make_backend
from triton.runtime.errors import PTXASError

from bo_tune.core.outcome import Resources
from bo_tune.core.problem import GpuInfo
from bo_tune.measure.backends import base
from bo_tune.measure.backends.nvidia.cubin import resources_of
from bo_tune.measure.gpu.torch_gpu import TorchGpu

WARP_SIZE = 32


class CompilerSide(base.CompilerSide):
    """Triton's compiler with ptxas."""

    errors = (PTXASError,)

    def target(self, gpu: GpuInfo) -> GPUTarget:
        major, minor = gpu.capability
        return GPUTarget("cuda", 10 * major + minor, WARP_SIZE)

    def resources(self, kernel: Any) -> Resources:
        return resources_of(kernel.asm["cubin"], kernel.metadata.shared)

    def assembler_version(self, target: GPUTarget) -> str:
        """Return ptxas's version text, which Triton puts before the capability in its cache keys."""
        version: str = make_backend(target).hash().rpartition("-")[0]
        return version

    def build_launcher(self, kernel: Any) -> None:
        """Put the kernel's launcher into Triton's cache, too.

        Triton 3.6 needs a C module for each signature. Building it takes a C compiler half a second, and would hold up
        the GPU process at the first launch.
        """
        CudaLauncher(kernel.src, kernel.metadata)


class GpuSide(TorchGpu):
    """A GPU with its CUDA context."""

    @classmethod
    def refusal(cls, index: int) -> str | None:
        return refusal(index, torch.version, torch.cuda)

    def driver_version(self) -> str:
        command = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
        try:
            return subprocess.run(command, capture_output=True, text=True, timeout=20, check=True).stdout.split()[0]
        except (OSError, subprocess.SubprocessError, IndexError):
            return "unknown"


def gpu_is_in_use() -> bool:
    """Say whether this process has begun to use CUDA. Does not load the driver."""
    try:
        driver = ctypes.CDLL("libcuda.so.1", mode=os.RTLD_NOLOAD)
    except OSError:  # not loaded
        return False
    return bool(driver.cuDeviceGetCount(ctypes.byref(ctypes.c_int())) == 0)  # otherwise it is not initialised


def refusal(index: int, torch_version: Any, cuda: Any) -> str | None:
    """Say why a device cannot be used for tuning, or return None.

    Args:
        torch_version: ``torch.version``.
        cuda: ``torch.cuda``.
    """
    if torch_version.hip:
        return "this is an AMD GPU (torch is built for ROCm), but only NVIDIA GPUs are supported"
    if torch_version.xpu:
        return "torch is built for Intel GPUs, but only NVIDIA GPUs are supported"
    if not torch_version.cuda:
        return "torch is built without CUDA"
    if not cuda.is_available():
        return "no NVIDIA GPU was found"
    if index >= cuda.device_count():
        return f"there is no such device; this host has only {cuda.device_count()}"
    return None
