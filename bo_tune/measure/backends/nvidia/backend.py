"""NVIDIA, as the process that tunes knows it."""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import ClassVar

from bo_tune.core.gpus import TargetGpu, target_gpu
from bo_tune.core.problem import DEFAULT_BACKEND
from bo_tune.measure.backends.base import Backend, FittedGpu, GpuIdentity, gpus_printed_by
from bo_tune.measure.backends.nvidia.nvml import NvmlWatch, driver_release, fitted_gpus
from bo_tune.measure.watch.neighbours import GpuWatch

COUNT_MODULE = "bo_tune.measure.backends.nvidia.gpu_count"

ASK_WITHOUT_A_CONTEXT = {"PYTORCH_NVML_BASED_CUDA_CHECK": "1"}
"""Makes torch ask the driver's management library whether there is a GPU. Some sources, such as vLLM, ask on import,
and that must leave no CUDA context behind for children to inherit."""

KERNEL_MODULE = Path("/proc/driver/nvidia/version")
"""The file in which the driver's kernel module names its release."""

_CAPABILITY = re.compile(r"[1-9][0-9]{1,2}")


class Nvidia(Backend):
    """GPUs that CUDA drives."""

    name = DEFAULT_BACKEND
    vendor = "NVIDIA"
    has_graphs = True
    device = "CUDA device"
    assembler = "ptxas"
    children = "bo_tune.measure.backends.nvidia.children"
    environment: ClassVar[Mapping[str, str]] = ASK_WITHOUT_A_CONTEXT
    target_form = "cuda:CC with a compute capability, like cuda:90"
    visibility = ("CUDA_VISIBLE_DEVICES",)
    driver_help = (
        "install NVIDIA's driver on the host; pass GPUs into a container with --gpus all (Docker, with the "
        "NVIDIA Container Toolkit) or --nv (Apptainer)"
    )
    partition_help = (
        "create a GPU instance (nvidia-smi mig -cgi … -C) and name it in CUDA_VISIBLE_DEVICES, or turn "
        "partitioning off (nvidia-smi -mig 0)"
    )
    processes_help = "nvidia-smi"

    def identities(self) -> Sequence[GpuIdentity]:
        """Return the GPUs as CUDA counts them. Raises DeviceError."""
        return gpus_printed_by(COUNT_MODULE)

    def driver_release(self) -> str | None:
        """Ask the kernel module, or else the management library."""
        try:
            return KERNEL_MODULE.read_text()
        except (OSError, ValueError):
            return driver_release()

    def fitted(self) -> Sequence[FittedGpu]:
        """Ask the management library."""
        return [FittedGpu(*gpu) for gpu in fitted_gpus()]

    def watch(self, identity: GpuIdentity) -> GpuWatch:
        """Ask the management library. Raises WatchError."""
        return NvmlWatch(identity)

    def target_gpu(self, architecture: str, name: str | None) -> TargetGpu | None:
        """Return the GPU of a compute capability, if its datasheet is known."""
        return target_gpu(divmod(int(architecture), 10), name) if _CAPABILITY.fullmatch(architecture) else None
