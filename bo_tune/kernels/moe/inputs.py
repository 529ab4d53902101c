"""Fused MoE LoRA, whoever's kernels they are: inputs, references, tolerances.

Notation: T tokens, K experts that each visits, P = T·K pairs, S slices, L adapter slots of the engine, E experts on
this rank, H length and N width of the product.
"""

from abc import abstractmethod
from dataclasses import dataclass, field
from typing import ClassVar

import torch

from bo_tune.core.conditions import Conditions
from bo_tune.core.problem import LoraProblem
from bo_tune.kernels.lora.operation import LoraInputs, LoraOperation, draw, dtype_of
from bo_tune.kernels.lora.tokens import TokenGroups, draw_assignment
from bo_tune.kernels.moe import naive
from bo_tune.kernels.moe.blocks import MoeBlocks, draw_experts
from bo_tune.kernels.moe.spec import MOE_SPECS, MoeLoraSpec, experts_of
from bo_tune.kernels.operation import DEFAULT_CONDITIONS

SPECS = {spec.name: spec for spec in MOE_SPECS}

RELATIVE_TOLERANCE = {"bfloat16": 1e-2, "float16": 2e-3}
"""The output is rounded to the weights' type, where k is split once for each share: up to 2**-8 (bfloat16) or 2**-11
each time, at random."""


@dataclass(slots=True)
class MoeInputs(LoraInputs):
    """Inputs of one problem.

    Attributes:
        chosen: experts that each token visits, of all ranks, int32 ``[T, K]``.
        routing: weight of each pair, float32 ``[T, K]``.
        initial: what the output holds before each launch.
        expanding: weights of the second product, of a kernel that runs both in one launch.
        blocks: the pairs in blocks, by block_m: made when they are first asked for.
        ordered: what one kernel hands to the next in the order of the blocks, for launches that want it so, by block_m:
            S × L × room × R.
        launched: the block_m that was launched last.
    """

    chosen: torch.Tensor
    routing: torch.Tensor
    initial: torch.Tensor
    expanding: tuple[torch.Tensor, ...] = ()
    blocks: dict[int, MoeBlocks] = field(default_factory=dict, init=False, repr=False)
    ordered: dict[int, torch.Tensor] = field(default_factory=dict, init=False, repr=False)
    launched: int = field(default=0, init=False, repr=False)

    def in_blocks(self, block_m: int) -> MoeBlocks:
        """Return the pairs in blocks."""
        if block_m not in self.blocks:
            experts = experts_of(self.problem)
            self.blocks[block_m] = MoeBlocks.of(
                self.groups.assignment, self.chosen, self.problem.max_loras, experts, block_m
            )
        return self.blocks[block_m]


class MoeOperation(LoraOperation[MoeInputs]):
    """What one of the kernels computes. The subclasses know which one, and those of these a kernel that does."""

    per_token: ClassVar[bool] = False
    """Whether all experts of a token see the same activations."""
    weighted: ClassVar[bool] = False
    """Whether the routing's weights multiply the result."""

    @property
    def spec(self) -> MoeLoraSpec:
        """The kernel's spec."""
        return SPECS[self.name]

    def make_inputs(
        self, problem: LoraProblem, *, seed: int, device: torch.device, conditions: Conditions = DEFAULT_CONDITIONS
    ) -> MoeInputs:
        generator = torch.Generator(device).manual_seed(seed)
        assignment = draw_assignment(problem.m, problem.max_loras, generator, device, conditions)
        chosen = draw_experts(problem.m, experts_of(problem), generator, device, conditions)
        return self.assemble_routed(problem, TokenGroups.of(assignment, problem.max_loras), chosen, generator, device)

    def assemble(
        self, problem: LoraProblem, groups: TokenGroups, generator: torch.Generator | None, device: torch.device
    ) -> MoeInputs:
        experts = experts_of(problem)
        if device.type == "meta":
            chosen = torch.empty((problem.m, experts.top_k), dtype=torch.int32, device=device)
        else:
            chosen = draw_experts(problem.m, experts, generator, device, DEFAULT_CONDITIONS)
        return self.assemble_routed(problem, groups, chosen, generator, device)

    def assemble_routed(
        self,
        problem: LoraProblem,
        groups: TokenGroups,
        chosen: torch.Tensor,
        generator: torch.Generator | None,
        device: torch.device,
    ) -> MoeInputs:
        """Draw inputs for tokens whose adapters and experts are settled."""
        dtype, experts = dtype_of(problem), experts_of(problem)
        length, width = self.spec.product_length(problem), self.spec.product_width(problem)
        weights = tuple(
            draw((problem.max_loras, experts.local, width, length), dtype, generator, device, scale=length**-0.5)
            for _ in range(problem.num_slices)
        )
        initial = self.initial(problem, width, generator, device)
        routing = torch.rand((problem.m, experts.top_k), generator=generator, device=device)
        return MoeInputs(
            problem=problem,
            x=draw(self.activations(problem, length), dtype, generator, device),
            weights=weights,
            groups=groups,
            out=initial.clone(),
            chosen=chosen,
            routing=routing,
            initial=initial,
        )

    @abstractmethod
    def activations(self, problem: LoraProblem, length: int) -> tuple[int, ...]:
        """Shape of the activations."""

    @abstractmethod
    def initial(
        self, problem: LoraProblem, width: int, generator: torch.Generator | None, device: torch.device
    ) -> torch.Tensor:
        """What the output holds before a launch."""

    def inputs_bytes(self, inputs: MoeInputs) -> int:
        more = sum(tensor.nbytes for tensor in (inputs.chosen, inputs.routing, *inputs.expanding))
        made = sum(blocks.nbytes for blocks in inputs.blocks.values())
        made += sum(tensor.nbytes for tensor in inputs.ordered.values())
        return LoraOperation.inputs_bytes(self, inputs) + more + made

    def reset(self, inputs: MoeInputs) -> None:
        inputs.out.copy_(inputs.initial)

    def poison(self, inputs: MoeInputs) -> None:
        """As ``reset``: the kernels add, or share k, so that a skipped element shows as what was there before."""
        inputs.out.copy_(inputs.initial)

    def tolerance(self, problem: LoraProblem) -> float:
        return RELATIVE_TOLERANCE[problem.dtype]


class MoeShrinkOperation(MoeOperation):
    """Shrink: ``x`` [T, H] or [P, H], ``weights`` S × [L, E, R, H], ``out`` [S, P, R], in the weights' type."""

    def activations(self, problem: LoraProblem, length: int) -> tuple[int, ...]:
        return (problem.m if self.per_token else problem.m * experts_of(problem).top_k, length)

    def initial(
        self, problem: LoraProblem, width: int, generator: torch.Generator | None, device: torch.device
    ) -> torch.Tensor:
        shape = (problem.num_slices, problem.m * experts_of(problem).top_k, width)
        return torch.zeros(shape, dtype=dtype_of(problem), device=device)

    def reference(self, inputs: MoeInputs) -> torch.Tensor:
        return naive.moe_shrink(inputs.x, inputs.weights, inputs.groups.assignment, inputs.chosen)


class MoeExpandOperation(MoeOperation):
    """Expand: ``x`` [S, P, R], ``weights`` S × [L, E, N, R], ``out`` [P, S·N], which is added to."""

    def activations(self, problem: LoraProblem, length: int) -> tuple[int, ...]:
        return (problem.num_slices, problem.m * experts_of(problem).top_k, length)

    def initial(
        self, problem: LoraProblem, width: int, generator: torch.Generator | None, device: torch.device
    ) -> torch.Tensor:
        shape = (problem.m * experts_of(problem).top_k, problem.num_slices * width)
        return draw(shape, dtype_of(problem), generator, device)

    def reference(self, inputs: MoeInputs) -> torch.Tensor:
        routing = inputs.routing.flatten() if self.weighted else None
        return naive.moe_expand(
            inputs.x, inputs.weights, inputs.groups.assignment, inputs.chosen, inputs.initial, routing
        )
