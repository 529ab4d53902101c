"""Inputs, references and tolerances of fused MoE LoRA, whoever wrote the kernels.

Notation: T tokens, K experts per token, P = T·K pairs, S slices, L adapter slots of the engine, E experts on this rank,
R rank, H length of shrink's product, N width of a slice of expand's product.
"""

from dataclasses import dataclass, field

import torch

from bo_tune.core.conditions import Conditions
from bo_tune.core.problem import LoraProblem
from bo_tune.kernels.lora.operation import LoraInputs, LoraOperation, draw, dtype_of
from bo_tune.kernels.lora.tokens import TokenGroups, draw_assignment
from bo_tune.kernels.moe import naive
from bo_tune.kernels.moe.blocks import MoeBlocks, draw_experts
from bo_tune.kernels.moe.spec import MoeLoraSpec, MoeOneLaunchSpec, experts_of
from bo_tune.kernels.operation import DEFAULT_CONDITIONS

RELATIVE_TOLERANCE = {"bfloat16": 1e-2, "float16": 2e-3}
"""The output is rounded to the weights' type; with split k, once per share. Each rounding errs by up to 2**-8
(bfloat16) or 2**-11, at random."""


@dataclass(slots=True)
class MoeInputs(LoraInputs):
    """Inputs of one problem.

    Attributes:
        chosen: experts of each token, of all ranks, int32 ``[T, K]``.
        routing: weight of each pair, float32 ``[T, K]``.
        initial: content of the output before each launch.
        expanding: weights of the second product, for a kernel that runs both in one launch.
        blocks: the pairs in blocks, by block_m; made on first use.
        ordered: what shrink hands to expand in the order of the blocks, for launches that want it so, by block_m: S × L
            × room × R.
        launched: the block_m of the last launch.
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
    """The result of one of the kernels. The subclasses launch a kernel that computes it.
    kernel     ``x``                 ``weights``      ``expanding``      ``out``
    =========  ====================  ===============  =================  ==================
    shrink     [T, H], w2: [P, H]    S × [L, E, R, H]                    [S, P, R]
    expand     [S, P, R]             S × [L, E, N, R]                    [P, S·N], added to
    one launch [T, H], w2: [P, H]    S × [L, E, R, H] S × [L, E, N, R]   [P, S·N], added to
    =========  ====================  ===============  =================  ==================
    """

    def __init__(self, spec: MoeLoraSpec | MoeOneLaunchSpec) -> None:
        self.name, self.spec = spec.name, spec
        self.is_w13 = "w13" in spec.name
        """Whether it is for gate and up. Those see a token's activations, and no routing weight."""
        self.shrinks, self.expands = not spec.name.endswith("expand"), not spec.name.endswith("shrink")

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
        """Draw inputs for tokens whose adapters and experts are given."""
        dtype, experts, slices = dtype_of(problem), experts_of(problem), problem.num_slices
        length, width = self.spec.product_length(problem), self.spec.product_width(problem)
        at_once = self.shrinks and self.expands
        pairs = problem.m * experts.top_k

        def weights(rows: int, columns: int) -> tuple[torch.Tensor, ...]:
            shape = (problem.max_loras, experts.local, rows, columns)
            return tuple(draw(shape, dtype, generator, device, scale=columns**-0.5) for _ in range(slices))

        x_shape = (problem.m if self.is_w13 else pairs, length) if self.shrinks else (slices, pairs, length)
        if self.expands:
            initial = draw((pairs, slices * width), dtype, generator, device)
        else:
            initial = torch.zeros((slices, pairs, width), dtype=dtype, device=device)
        return MoeInputs(
            problem=problem,
            x=draw(x_shape, dtype, generator, device),
            weights=weights(problem.k if at_once else width, length),
            expanding=weights(width, problem.k) if at_once else (),
            groups=groups,
            out=initial.clone(),
            chosen=chosen,
            routing=torch.rand((problem.m, experts.top_k), generator=generator, device=device),
            initial=initial,
        )

    def inputs_bytes(self, inputs: MoeInputs) -> int:
        more = (inputs.chosen, inputs.routing, inputs.initial, *inputs.expanding, *inputs.ordered.values())
        blocks = sum(blocks.nbytes for blocks in inputs.blocks.values())
        return LoraOperation.inputs_bytes(self, inputs) + sum(tensor.nbytes for tensor in more) + blocks

    def reset(self, inputs: MoeInputs) -> None:
        inputs.out.copy_(inputs.initial)

    def poison(self, inputs: MoeInputs) -> None:
        """Do as ``reset``. The kernels add, or share k, so a skipped element shows as its old value."""
        self.reset(inputs)

    def reference(self, inputs: MoeInputs) -> torch.Tensor:
        result, routed = inputs.x, (inputs.groups.assignment, inputs.chosen)
        if self.shrinks:
            result = naive.moe_shrink(result, inputs.weights, *routed)
        if self.expands:
            routing = None if self.is_w13 else inputs.routing.flatten()
            weights = inputs.expanding if self.shrinks else inputs.weights
            result = naive.moe_expand(result, weights, *routed, inputs.initial, routing)
        return result

    def tolerance(self, problem: LoraProblem) -> float:
        return RELATIVE_TOLERANCE[problem.dtype]
