"""Multi-LoRA shrink, whoever's kernel it is: inputs, reference, tolerance."""

from dataclasses import dataclass

import torch

from bo_tune.core.problem import LoraProblem
from bo_tune.kernels.lora.operation import LoraInputs, LoraOperation, draw, draw_weights, dtype_of
from bo_tune.kernels.lora.shrink import naive
from bo_tune.kernels.lora.tokens import TokenGroups

RELATIVE_TOLERANCE = 1e-4
"""float32 sums in another order differ by 1e-6; one lost tile of 1,000 would differ by 3e-2."""


@dataclass(slots=True)
class ShrinkInputs(LoraInputs):
    """Inputs of one shrink problem: ``x`` [T, H], ``weights`` S × [L, 1, R, H], ``out`` float32 [S, T, R]."""

    scale: float = 0.5


class ShrinkOperation(LoraOperation[ShrinkInputs]):
    """What shrink computes. The subclasses know a kernel that does."""

    name = "lora_shrink"

    def assemble(
        self, problem: LoraProblem, groups: TokenGroups, generator: torch.Generator | None, device: torch.device
    ) -> ShrinkInputs:
        dtype = dtype_of(problem)
        return ShrinkInputs(
            problem=problem,
            x=draw((problem.m, problem.k), dtype, generator, device),
            weights=draw_weights(problem, generator, device),
            groups=groups,
            out=torch.zeros((problem.num_slices, problem.m, problem.n), dtype=torch.float32, device=device),
        )

    def reset(self, inputs: ShrinkInputs) -> None:
        inputs.out.zero_()

    def poison(self, inputs: ShrinkInputs) -> None:
        """As ``reset``: the kernel adds to its output, so that a skipped element shows as zero."""
        inputs.out.zero_()

    def reference(self, inputs: ShrinkInputs) -> torch.Tensor:
        return naive.lora_shrink(inputs.x, inputs.weights, inputs.groups.assignment, inputs.scale)

    def tolerance(self, problem: LoraProblem) -> float:
        return RELATIVE_TOLERANCE
