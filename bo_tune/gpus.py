"""Datasheet facts of GPUs, by name: for replaying recordings that say no more of their GPU than its name.

Where a GPU is present it is asked instead; nothing here is used for measuring.
"""

from bo_tune.problem import GpuInfo

_KIB = 1024
_MIB = 1024 * _KIB


def _hopper(name: str, sm_count: int, l2_mib: int = 50) -> GpuInfo:
    return GpuInfo(name, (9, 0), sm_count, 227 * _KIB, l2_bytes=l2_mib * _MIB)


def _ampere(name: str) -> GpuInfo:
    return GpuInfo(name, (8, 0), 108, 163 * _KIB, l2_bytes=40 * _MIB)


def _consumer(name: str, capability: tuple[int, int], sm_count: int, l2_mib: int) -> GpuInfo:
    return GpuInfo(name, capability, sm_count, 99 * _KIB, threads_per_sm=1536, l2_bytes=l2_mib * _MIB)


_KNOWN = {
    gpu.name: gpu
    for gpu in (
        _hopper("NVIDIA H100 80GB HBM3", 132),
        _hopper("NVIDIA H100 PCIe", 114),
        _hopper("NVIDIA H100 NVL", 132, l2_mib=60),
        _hopper("NVIDIA H200", 132, l2_mib=60),
        _hopper("NVIDIA H200 NVL", 132, l2_mib=60),
        _hopper("NVIDIA GH200 480GB", 132, l2_mib=60),
        _hopper("NVIDIA H20", 78, l2_mib=60),
        _ampere("NVIDIA A100-SXM4-40GB"),
        _ampere("NVIDIA A100-SXM4-80GB"),
        _ampere("NVIDIA A100-PCIE-40GB"),
        _ampere("NVIDIA A100 80GB PCIe"),
        _consumer("NVIDIA L40S", (8, 9), 142, 96),
        _consumer("NVIDIA L40", (8, 9), 142, 96),
        _consumer("NVIDIA L4", (8, 9), 58, 48),
        _consumer("NVIDIA A10", (8, 6), 72, 6),
        _consumer("NVIDIA A10G", (8, 6), 80, 6),
        _consumer("NVIDIA A40", (8, 6), 84, 6),
        _consumer("NVIDIA RTX A6000", (8, 6), 84, 6),
        _consumer("NVIDIA RTX 6000 Ada Generation", (8, 9), 142, 96),
        _consumer("NVIDIA GeForce RTX 3090", (8, 6), 82, 6),
        _consumer("NVIDIA GeForce RTX 4090", (8, 9), 128, 72),
        GpuInfo("NVIDIA B200", (10, 0), 148, 227 * _KIB, l2_bytes=126 * _MIB),
    )
}


def gpu_of_capability(capability: tuple[int, int]) -> GpuInfo | None:
    """Return the first GPU here of a compute capability, or None."""
    return next((gpu for gpu in _KNOWN.values() if gpu.capability == capability), None)


def known_gpu(name: str) -> GpuInfo | None:
    """Return what is known of a GPU of this name, or None."""
    return _KNOWN.get(name)


def gpu_by_file_name(name: str) -> GpuInfo | None:
    """Return what is known of a GPU by its name as vLLM writes it in file names, or None."""
    return next((gpu for gpu in _KNOWN.values() if gpu.file_name == name), None)


def gpu_by_name(name: str) -> GpuInfo:
    """Return what is known of a GPU of this name (as ``torch.cuda.get_device_name`` gives it).

    A name not in the table gets an H100's figures under its own name. They only shape features that compare configs
    with each other, and the largest shared memory of any GPU here never rules out a config that a recording measured.
    """
    known = _KNOWN.get(name)
    return known if known is not None else _hopper(name, 132)
