"""A kernel source whose shrink kernel fails on purpose: the five ways in which a config can take a GPU process down.

A config's block_m, block_n, … decide (``fault_of``), so that a fault belongs to its config like a real one.
"""

import os
import zlib
from collections.abc import Mapping
from functools import cache
from typing import Any

import torch
import triton
import triton.language as tl

from bo_tune.core.conditions import Conditions
from bo_tune.core.problem import LoraProblem
from bo_tune.core.space import Config
from bo_tune.kernels.lora.inputs import ShrinkInputs
from bo_tune.kernels.lora.shrink import LoraShrink
from bo_tune.kernels.operation import DEFAULT_CONDITIONS, Operation

FAULTS = ("illegal address", "infinite loop", "device assert", "exit", "out of memory")
PERCENT_EACH = 5


@triton.jit
def store_far_away(target, offset):  # type: ignore[no-untyped-def]
    """Write where no memory is, if the offset read is large enough."""
    tl.store(target + tl.load(offset), 1.0)


@triton.jit
def wait_for_ever(flag):  # type: ignore[no-untyped-def]
    """Wait for a flag that nobody sets."""
    while tl.load(flag, volatile=True) == 0.0:
        pass


def fault_of(problem: LoraProblem, config: Mapping[str, int]) -> str | None:
    """Say how a config fails, or None: ``PERCENT_EACH`` of all configs in each way."""
    text = f"{problem.m} {sorted(config.items())}"
    drawn = zlib.crc32(text.encode()) % 100 // PERCENT_EACH
    return FAULTS[drawn] if drawn < len(FAULTS) else None


def offset_of(elements: int) -> torch.Tensor:
    """Return an offset for ``store_far_away``."""
    return torch.full((1,), elements, dtype=torch.int64, device="cuda")


@cache
def load_kernels() -> None:
    """Compile and launch the kernels once, harmlessly: a fault should cost what it costs, and no compile."""
    store_far_away[(1,)](torch.zeros(1, device="cuda"), offset_of(0))
    wait_for_ever[(1,)](torch.ones(1, device="cuda"))
    torch.cuda.synchronize()


def commit(fault: str) -> None:
    """Do what takes a GPU process down."""
    memory = torch.zeros(1, device="cuda")
    match fault:
        case "illegal address":
            store_far_away[(1,)](memory, offset_of(1 << 40))
        case "infinite loop":
            wait_for_ever[(1,)](memory)
        case "device assert":
            torch._assert_async(memory)
        case "exit":
            os._exit(3)
        case "out of memory":
            torch.empty(1 << 45, dtype=torch.uint8, device="cuda")


class FaultyShrink(LoraShrink):
    """The project's shrink kernel, with faults."""

    @property
    def source(self) -> str:
        return "faulty"

    def make_inputs(
        self, problem: LoraProblem, *, seed: int, device: torch.device, conditions: Conditions = DEFAULT_CONDITIONS
    ) -> ShrinkInputs:
        load_kernels()
        return super().make_inputs(problem, seed=seed, device=device, conditions=conditions)

    def launch(self, inputs: ShrinkInputs, config: Config) -> None:
        fault = fault_of(inputs.problem, config)
        if fault is not None:
            commit(fault)
        super().launch(inputs, config)


def operation(name: str) -> Operation[Any, Any]:
    """Return the one kernel of this source."""
    assert name == "lora_shrink"
    return FaultyShrink()
