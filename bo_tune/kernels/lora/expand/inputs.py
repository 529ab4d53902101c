"""Multi-LoRA expand, whoever's kernel it is: inputs, reference, tolerance."""

from dataclasses import dataclass

import torch

from bo_tune.core.problem import LoraProblem
from bo_tune.kernels.lora.expand import naive
from bo_tune.kernels.lora.operation import LoraInputs, LoraOperation, draw, draw_weights, dtype_of
from bo_tune.kernels.lora.tokens import TokenGroups

RELATIVE_TOLERANCE = {"bfloat16": 1e-2, "float16": 2e-3}
"""The output is rounded twice to the weights' type: up to 2**-8 (bfloat16) or 2**-11 each time."""


@dataclass(slots=True)
class ExpandInputs(LoraInputs):
    """Inputs of one expand problem: ``x`` float32 [S, T, R], ``weights`` S × [L, 1, N_s, R], ``out`` [T, sum of N_s].

    ``initial`` is what the output holds before each launch.
    """

    initial: torch.Tensor


class ExpandOperation(LoraOperation[ExpandInputs]):
    """What expand computes. The subclasses know a kernel that does."""

    name = "lora_expand"

    def assemble(
        self, problem: LoraProblem, groups: TokenGroups, generator: torch.Generator | None, device: torch.device
    ) -> ExpandInputs:
        dtype = dtype_of(problem)
        initial = draw((problem.m, sum(problem.slice_sizes)), dtype, generator, device)
        return ExpandInputs(
            problem=problem,
            x=draw((problem.num_slices, problem.m, problem.k), torch.float32, generator, device),
            weights=draw_weights(problem, generator, device),
            groups=groups,
            out=initial.clone(),
            initial=initial,
        )

    def reset(self, inputs: ExpandInputs) -> None:
        inputs.out.copy_(inputs.initial)

    def poison(self, inputs: ExpandInputs) -> None:
        """As ``reset``, with NaN in the rows to overwrite; where the kernel adds, a skipped element keeps its value."""
        inputs.out.copy_(inputs.initial)
        if not adds_inputs(inputs.problem):
            inputs.out[inputs.groups.assignment >= 0] = torch.nan

    def reference(self, inputs: ExpandInputs) -> torch.Tensor:
        return naive.lora_expand(
            inputs.x,
            inputs.weights,
            inputs.groups.assignment,
            inputs.initial,
            add_inputs=adds_inputs(inputs.problem),
        )

    def tolerance(self, problem: LoraProblem) -> float:
        return RELATIVE_TOLERANCE[problem.dtype]


def adds_inputs(problem: LoraProblem) -> bool:
    """Whether the kernel adds to its output; it does unless the problem says otherwise, as in serving."""
    return problem.add_inputs is not False
