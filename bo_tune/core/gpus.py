"""Datasheet facts of GPUs, by name and by compute capability, for work without a GPU.

A GPU that is present is asked instead; nothing here is used to measure. A GPU that is not in these tables is unknown:
another GPU's figures are never passed off as its facts. A stand-in for such figures must be asked for by name
(``stand_in_for``, ``target_gpu``).
"""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from bo_tune.core.problem import GpuInfo

_KIB = 1024
_MIB = 1024 * _KIB

Capability = tuple[int, int]
"""Compute capability: (major, minor)."""


@dataclass(frozen=True, slots=True)
class Limits:
    """Limits of a compute capability ("Technical specifications" in NVIDIA's CUDA programming guide).

    Attributes:
        shared_memory_bytes: most shared memory that one block may use.
        threads_per_sm: most resident threads of a multiprocessor.
    """

    shared_memory_bytes: int
    threads_per_sm: int


LIMITS: Mapping[Capability, Limits] = MappingProxyType(
    {
        (7, 5): Limits(64 * _KIB, 1024),
        (8, 0): Limits(163 * _KIB, 2048),
        (8, 6): Limits(99 * _KIB, 1536),
        (8, 7): Limits(163 * _KIB, 1536),
        (8, 9): Limits(99 * _KIB, 1536),
        (9, 0): Limits(227 * _KIB, 2048),
        (10, 0): Limits(227 * _KIB, 2048),
        (10, 3): Limits(227 * _KIB, 2048),
        (12, 0): Limits(99 * _KIB, 1536),
        (12, 1): Limits(99 * _KIB, 1536),
    }
)

_LARGEST = max(LIMITS.values(), key=lambda limits: limits.shared_memory_bytes)
"""Limits that exclude nothing that any GPU here can run."""


def _gpu(name: str, capability: Capability, sm_count: int, l2_mib: int) -> GpuInfo:
    limits = LIMITS[capability]
    return GpuInfo(
        name, capability, sm_count, limits.shared_memory_bytes, threads_per_sm=limits.threads_per_sm,
        l2_bytes=l2_mib * _MIB,
    )  # fmt: skip


_KNOWN = {
    gpu.name: gpu
    for gpu in (
        _gpu("NVIDIA H100 80GB HBM3", (9, 0), 132, 50),
        _gpu("NVIDIA H100 PCIe", (9, 0), 114, 50),
        _gpu("NVIDIA H100 NVL", (9, 0), 132, 60),
        _gpu("NVIDIA H200", (9, 0), 132, 60),
        _gpu("NVIDIA H200 NVL", (9, 0), 132, 60),
        _gpu("NVIDIA H800", (9, 0), 132, 50),
        _gpu("NVIDIA GH200 480GB", (9, 0), 132, 60),
        _gpu("NVIDIA GH200 144G HBM3e", (9, 0), 132, 60),
        _gpu("NVIDIA H20", (9, 0), 78, 60),
        _gpu("NVIDIA H20-3e", (9, 0), 78, 60),
        _gpu("NVIDIA A100-SXM4-40GB", (8, 0), 108, 40),
        _gpu("NVIDIA A100-SXM4-80GB", (8, 0), 108, 40),
        _gpu("NVIDIA A100-PCIE-40GB", (8, 0), 108, 40),
        _gpu("NVIDIA A100 80GB PCIe", (8, 0), 108, 40),
        _gpu("NVIDIA A800-SXM4-80GB", (8, 0), 108, 40),
        _gpu("NVIDIA A800 80GB PCIe", (8, 0), 108, 40),
        _gpu("NVIDIA A30", (8, 0), 56, 24),
        _gpu("NVIDIA L40S", (8, 9), 142, 96),
        _gpu("NVIDIA L40", (8, 9), 142, 96),
        _gpu("NVIDIA L20", (8, 9), 92, 96),
        _gpu("NVIDIA L4", (8, 9), 58, 48),
        _gpu("NVIDIA A10", (8, 6), 72, 6),
        _gpu("NVIDIA A10G", (8, 6), 80, 6),
        _gpu("NVIDIA A40", (8, 6), 84, 6),
        _gpu("NVIDIA RTX A6000", (8, 6), 84, 6),
        _gpu("NVIDIA RTX 6000 Ada Generation", (8, 9), 142, 96),
        _gpu("NVIDIA GeForce RTX 3090", (8, 6), 82, 6),
        _gpu("NVIDIA GeForce RTX 4090", (8, 9), 128, 72),
        _gpu("Tesla T4", (7, 5), 40, 4),
        _gpu("NVIDIA B200", (10, 0), 148, 126),
        _gpu("NVIDIA GB200", (10, 0), 152, 126),
        _gpu("NVIDIA GeForce RTX 5090", (12, 0), 170, 96),
        _gpu("NVIDIA RTX PRO 6000 Blackwell Workstation Edition", (12, 0), 188, 128),
        _gpu("NVIDIA RTX PRO 6000 Blackwell Max-Q Workstation Edition", (12, 0), 188, 128),
        _gpu("NVIDIA RTX PRO 6000 Blackwell Server Edition", (12, 0), 188, 128),
    )
}


def known_gpu(name: str) -> GpuInfo | None:
    """Return the facts of a GPU by its name, as given by ``torch.cuda.get_device_name``, or None."""
    return _KNOWN.get(name)


def gpu_by_file_name(name: str) -> GpuInfo | None:
    """Return the facts of a GPU by its name as in vLLM's LoRA files, or None."""
    return next((gpu for gpu in _KNOWN.values() if gpu.file_name == name), None)


def stand_in_for(name: str) -> GpuInfo:
    """Return the facts of a GPU of this name, or else an H100's figures under that name, which are not facts.

    For replaying recordings that tell only the name of their GPU. The figures only affect features, which compare
    configs with each other. The shared memory is the largest of any GPU here, so no measured config is excluded.
    """
    known = _KNOWN.get(name)
    return known if known is not None else _gpu(name, (9, 0), 132, 50)


@dataclass(frozen=True, slots=True)
class TargetGpu:
    """A GPU to compile for.

    Attributes:
        gpu: its known facts, with stand-ins for the rest.
        assumed: one line for each unknown figure; empty if all are known.
    """

    gpu: GpuInfo
    assumed: tuple[str, ...] = ()


def target_gpu(capability: Capability, name: str | None = None) -> TargetGpu:
    """Return the GPU of a compute capability for which to choose configs.

    Its limits are those of the capability. If its number of multiprocessors is unknown, another GPU's orders the
    configs. If its shared memory is unknown, it excludes no config.

    Args:
        name: name of the GPU; None for the first GPU here with the capability.
    """
    same = [gpu for gpu in _KNOWN.values() if gpu.capability == capability]
    known = same[0] if name is None and same else _KNOWN.get(name or "")
    if known is not None:
        return TargetGpu(known)
    target = f"cuda:{capability[0]}{capability[1]}"
    called, other, limits = name or f"GPU of {target}", same[0] if same else stand_in_for(""), LIMITS.get(capability)
    assumed = [
        f"bo_tune does not know {called}: it assumes {other.sm_count} multiprocessors, which affects only the "
        "order of the configs"
    ]
    if limits is None:
        assumed.append(f"bo_tune does not know the shared memory of {target}: no config is ruled out because of it")
        limits = _LARGEST
    gpu = GpuInfo(
        called, capability, other.sm_count, limits.shared_memory_bytes, threads_per_sm=limits.threads_per_sm,
        l2_bytes=other.l2_bytes,
    )  # fmt: skip
    return TargetGpu(gpu, tuple(assumed))
