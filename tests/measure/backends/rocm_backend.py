"""A vendor that bo_tune does not know: AMD's GPUs, of which Triton's compiler is real and the GPU is played.

This is all that there is to it, with ``rocm_children``; ``rocm_kernels`` stands for kernels on such a GPU.
"""

from collections.abc import Mapping, Sequence
from typing import ClassVar

from bo_tune.core.gpus import TargetGpu
from bo_tune.core.problem import GpuInfo
from bo_tune.measure.backends.base import Backend, GpuIdentity
from bo_tune.measure.watch.neighbours import GpuWatch, WatchError

GPU = GpuInfo(
    "AMD Instinct MI300X", (9, 4), 304, 64 * 1024, l2_bytes=4 * 2**20, backend="hip", architecture="gfx942"
)  # fmt: skip


class Rocm(Backend):
    """GPUs that ROCm drives."""

    name = "hip"
    vendor = "AMD"
    device = "HIP device"
    children = "rocm_children"
    environment: ClassVar[Mapping[str, str]] = {"PLAYED_DRIVER": "6.4"}
    target_form = "hip:ARCHITECTURE, like hip:gfx942"

    def identities(self) -> Sequence[GpuIdentity]:
        return [GpuIdentity("first", "")]

    def watch(self, identity: GpuIdentity) -> GpuWatch:
        raise WatchError("nothing watches a GPU that is played")

    def target_gpu(self, architecture: str, name: str | None) -> TargetGpu | None:
        return TargetGpu(GPU) if architecture == GPU.architecture else None
