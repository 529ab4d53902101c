"""The one-launch kernels of fused MoE LoRA, whoever's they are: inputs, references, tolerances.

Notation: T tokens, K experts that each visits, P = T·K pairs, S slices, L adapter slots of the engine, E experts on
this rank, R rank, H length of the first product, N width of a slice of the second.
"""

import torch

from bo_tune.core.problem import LoraProblem
from bo_tune.kernels.lora.operation import draw, dtype_of
from bo_tune.kernels.lora.tokens import TokenGroups
from bo_tune.kernels.moe import naive
from bo_tune.kernels.moe.inputs import MoeInputs, MoeOperation
from bo_tune.kernels.moe.one_launch import ONE_LAUNCH_SPECS, MoeOneLaunchSpec
from bo_tune.kernels.moe.spec import experts_of

SPECS = {spec.name: spec for spec in ONE_LAUNCH_SPECS}


class MoeOneLaunchOperation(MoeOperation):
    """Shrink and expand in one launch: ``x`` [T, H] or [P, H], ``weights`` S × [L, E, R, H], ``expanding``
    S × [L, E, N, R], ``out`` [P, S·N], which is added to. The subclasses know of which part of a layer."""

    @property
    def one_launch_spec(self) -> MoeOneLaunchSpec:
        """The kernel's spec."""
        return SPECS[self.name]

    def assemble_routed(
        self,
        problem: LoraProblem,
        groups: TokenGroups,
        chosen: torch.Tensor,
        generator: torch.Generator | None,
        device: torch.device,
    ) -> MoeInputs:
        dtype, experts, rank = dtype_of(problem), experts_of(problem), problem.k
        length, width = self.one_launch_spec.length(problem), self.one_launch_spec.width(problem)

        def weights(rows: int, columns: int) -> tuple[torch.Tensor, ...]:
            shape = (problem.max_loras, experts.local, rows, columns)
            return tuple(draw(shape, dtype, generator, device, scale=columns**-0.5) for _ in range(problem.num_slices))

        initial = self.initial(problem, width, generator, device)
        return MoeInputs(
            problem=problem,
            x=draw(self.activations(problem, length), dtype, generator, device),
            weights=weights(rank, length),
            expanding=weights(width, rank),
            groups=groups,
            out=initial.clone(),
            chosen=chosen,
            routing=torch.rand((problem.m, experts.top_k), generator=generator, device=device),
            initial=initial,
        )

    def activations(self, problem: LoraProblem, length: int) -> tuple[int, ...]:
        return (problem.m if self.per_token else problem.m * experts_of(problem).top_k, length)

    def initial(
        self, problem: LoraProblem, width: int, generator: torch.Generator | None, device: torch.device
    ) -> torch.Tensor:
        shape = (problem.m * experts_of(problem).top_k, problem.num_slices * width)
        return draw(shape, dtype_of(problem), generator, device)

    def reference(self, inputs: MoeInputs) -> torch.Tensor:
        assignment, chosen = inputs.groups.assignment, inputs.chosen
        between = naive.moe_shrink(inputs.x, inputs.weights, assignment, chosen)
        routing = inputs.routing.flatten() if self.weighted else None
        return naive.moe_expand(between, inputs.expanding, assignment, chosen, inputs.initial, routing)
