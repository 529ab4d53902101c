"""The played vendor in the child processes: Triton's compiler for AMD, and a GPU that computes on the host."""

import os
from collections.abc import Callable, Sequence
from typing import Any

import torch
from rocm_backend import GPU
from rocm_kernels import CLOCK
from triton.backends.compiler import GPUTarget

from bo_tune.core.conditions import Timing
from bo_tune.core.outcome import Resources
from bo_tune.core.problem import GpuInfo
from bo_tune.measure.backends import base
from bo_tune.measure.gpu.timing import Timed


class CompilerSide(base.CompilerSide):
    """Triton's compiler with LLVM's assembler."""

    def target(self, gpu: GpuInfo) -> GPUTarget:
        return GPUTarget(gpu.backend, gpu.architecture, 64)

    def resources(self, kernel: Any) -> Resources:
        registers, spilled = (_noted(kernel.asm["hsaco"], name) for name in (b".vgpr_count", b".vgpr_spill_count"))
        return Resources(kernel.metadata.shared, registers, spilled)

    def assembler_version(self, target: GPUTarget) -> str:
        return "LLVM of a played vendor\n20.1"


def _noted(binary: bytes, name: bytes) -> int:
    """Return a number of a binary's metadata, which is MessagePack."""
    at = binary.index(name) + len(name)
    first = binary[at]
    return first if first < 0x80 else int.from_bytes(binary[at + 1 : at + 1 + (1 << first - 0xCC)], "big")


class GpuSide(base.GpuSide):
    """A GPU that is the host's memory and a clock, which kernels put forward."""

    @classmethod
    def refusal(cls, index: int) -> str | None:
        return "there is one GPU" if index else None

    def __init__(self, index: int) -> None:
        self.device = torch.device("cpu")

    def info(self) -> GpuInfo:
        return GPU

    def driver_version(self) -> str:
        return os.environ["PLAYED_DRIVER"]

    def free_bytes(self) -> float:
        return 2**30

    def synchronize(self) -> None:
        if CLOCK.is_broken:
            raise RuntimeError("HIP error: an illegal memory access was encountered")

    def timer(self, timing: Timing) -> "Timer":
        return Timer()


def gpu_is_in_use() -> bool:
    """Say whether this process has broken the GPU already."""
    return CLOCK.is_broken


class Timer:
    """Reads the clock before and after each launch."""

    def time_in_turn(
        self, launches: Sequence[Callable[[], None]], rounds: int, restore: Callable[[], None] = lambda: None
    ) -> Timed:
        runtimes: list[list[float]] = [[] for _ in launches]
        for _ in range(rounds):
            for launch, times in zip(launches, runtimes, strict=True):
                restore()
                start = CLOCK.now_us
                launch()
                times.append(CLOCK.now_us - start)
        return Timed(runtimes, rounds * len(launches), 0)
