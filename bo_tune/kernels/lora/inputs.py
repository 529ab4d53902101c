"""Inputs, references and tolerances of multi-LoRA shrink and expand, whoever wrote the kernels."""

from dataclasses import dataclass

import torch

from bo_tune.core.problem import LoraProblem
from bo_tune.kernels.lora import naive
from bo_tune.kernels.lora.operation import LoraInputs, LoraOperation, draw, draw_weights, dtype_of
from bo_tune.kernels.lora.tokens import TokenGroups

SHRINK_TOLERANCE = 1e-4
"""float32 sums in another order differ by 1e-6; one lost tile of 1,000 would differ by 3e-2."""

EXPAND_TOLERANCE = {"bfloat16": 1e-2, "float16": 2e-3}
"""The output is rounded twice to the weights' type: up to 2**-8 (bfloat16) or 2**-11 each time."""


@dataclass(slots=True)
class ShrinkInputs(LoraInputs):
    """Inputs of one shrink problem: ``x`` [T, H], ``weights`` S × [L, 1, R, H], ``out`` float32 [S, T, R]."""

    scale: float = 0.5


class ShrinkOperation(LoraOperation[ShrinkInputs]):
    """The result of shrink. The subclasses launch a kernel that computes it."""

    name = "lora_shrink"

    def assemble(
        self, problem: LoraProblem, groups: TokenGroups, generator: torch.Generator | None, device: torch.device
    ) -> ShrinkInputs:
        return ShrinkInputs(
            problem=problem,
            x=draw((problem.m, problem.k), dtype_of(problem), generator, device),
            weights=draw_weights(problem, generator, device),
            groups=groups,
            out=torch.zeros((problem.num_slices, problem.m, problem.n), dtype=torch.float32, device=device),
        )

    def reset(self, inputs: ShrinkInputs) -> None:
        inputs.out.zero_()

    def poison(self, inputs: ShrinkInputs) -> None:
        """Do as ``reset``. The kernel adds to its output, so a skipped element shows as zero."""
        inputs.out.zero_()

    def reference(self, inputs: ShrinkInputs) -> torch.Tensor:
        return naive.lora_shrink(inputs.x, inputs.weights, inputs.groups.assignment, inputs.scale)

    def tolerance(self, problem: LoraProblem) -> float:
        return SHRINK_TOLERANCE


@dataclass(slots=True)
class ExpandInputs(LoraInputs):
    """Inputs of one expand problem: ``x`` float32 [S, T, R], ``weights`` S × [L, 1, N_s, R], ``out`` [T, sum of N_s].

    ``initial`` is what the output holds before each launch.
    """

    initial: torch.Tensor


class ExpandOperation(LoraOperation[ExpandInputs]):
    """The result of expand. The subclasses launch a kernel that computes it."""

    name = "lora_expand"

    def assemble(
        self, problem: LoraProblem, groups: TokenGroups, generator: torch.Generator | None, device: torch.device
    ) -> ExpandInputs:
        initial = draw((problem.m, sum(problem.slice_sizes)), dtype_of(problem), generator, device)
        return ExpandInputs(
            problem=problem,
            x=draw((problem.num_slices, problem.m, problem.k), torch.float32, generator, device),
            weights=draw_weights(problem, generator, device),
            groups=groups,
            out=initial.clone(),
            initial=initial,
        )

    def inputs_bytes(self, inputs: ExpandInputs) -> int:
        return super().inputs_bytes(inputs) + inputs.initial.nbytes

    def reset(self, inputs: ExpandInputs) -> None:
        inputs.out.copy_(inputs.initial)

    def poison(self, inputs: ExpandInputs) -> None:
        """Do as ``reset``, with NaN in rows to overwrite. If the kernel adds, a skipped element keeps its value."""
        inputs.out.copy_(inputs.initial)
        if not adds_inputs(inputs.problem):
            inputs.out[inputs.groups.assignment >= 0] = torch.nan

    def reference(self, inputs: ExpandInputs) -> torch.Tensor:
        assignment, adds = inputs.groups.assignment, adds_inputs(inputs.problem)
        return naive.lora_expand(inputs.x, inputs.weights, assignment, inputs.initial, add_inputs=adds)

    def tolerance(self, problem: LoraProblem) -> float:
        return EXPAND_TOLERANCE[problem.dtype]


def adds_inputs(problem: LoraProblem) -> bool:
    """Say whether the kernel adds to its output. It does, as in serving, unless the problem says otherwise."""
    return problem.add_inputs is not False
