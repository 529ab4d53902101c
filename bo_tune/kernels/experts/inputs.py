"""Inputs, references and tolerance of the base model's experts, whoever wrote the kernels.

Notation: T tokens, K experts per token, P = T·K pairs, E experts on this rank, H hidden size, U width of the first
product, N length of the second.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field

import torch

from bo_tune.core.conditions import Conditions
from bo_tune.core.problem import SizedProblem
from bo_tune.core.space import ConfigKey
from bo_tune.kernels.call import PreparedLaunch
from bo_tune.kernels.experts.operands import Drawer, Operands
from bo_tune.kernels.experts.step import FP8, ExpertsStep
from bo_tune.kernels.lora.operation import draw
from bo_tune.kernels.moe.blocks import MoeBlocks, draw_experts
from bo_tune.kernels.operation import DEFAULT_CONDITIONS, META, Operation, Verdict

RELATIVE_TOLERANCE = {"bfloat16": 1e-2, "float16": 2e-3}
"""Tolerance of a product that is summed in float32 and rounded once: by up to 2**-9 (bfloat16) or 2**-12, at random.
Integer weights add a rounding."""

FP8_TOLERANCE = 3e-2
"""Tolerance of a product in fp8. Hopper sums it in fewer bits than float32 has, and the engine rounds to bfloat16."""


@dataclass(frozen=True, slots=True)
class RightProducts:
    """Both right products, in float32."""

    products: tuple[torch.Tensor, torch.Tensor]

    @property
    def nbytes(self) -> int:
        """Device memory in use, in bytes."""
        return sum(product.nbytes for product in self.products)


@dataclass(slots=True)
class ExpertsInputs:
    """Inputs of both products of one problem.

    The second product has an input of its own. In a layer, an activation stands between the two; it is not tuned.

    Attributes:
        operands: activations ``[T, H]`` and ``[P, N]`` with weights ``[E, U, H]`` and ``[E, H, N]``, and their scales.
        outs: ``[T, K, U]`` and ``[T, K, H]``.
        chosen: experts of each token, of all ranks, int32 ``[T, K]``.
        routing: weight of each pair, float32 ``[T, K]``.
        blocks: the pairs in blocks, by rows per block; made on first use.
        prepared: both launches with nothing left to decide, by config.
    """

    problem: SizedProblem
    operands: tuple[Operands, Operands]
    outs: tuple[torch.Tensor, torch.Tensor]
    chosen: torch.Tensor
    routing: torch.Tensor
    blocks: dict[int, MoeBlocks] = field(default_factory=dict, init=False, repr=False)
    prepared: dict[ConfigKey, PreparedLaunch] = field(default_factory=dict, init=False, repr=False)

    def in_blocks(self, rows: int) -> MoeBlocks:
        """Return the pairs in blocks of this many rows, as if all tokens had one and the same adapter."""
        if rows not in self.blocks:
            assignment = torch.zeros(len(self.chosen), dtype=torch.int32, device=self.chosen.device)
            experts = ExpertsStep.of(self.problem).experts
            self.blocks[rows] = MoeBlocks.of(assignment, self.chosen, 1, experts, rows)
        return self.blocks[rows]


class ExpertsOperation(Operation[SizedProblem, ExpertsInputs]):
    """The results of both products. The subclasses launch kernels that compute them.

    With x and w of each product's operands, ``outs[0][t, c] = x[t] @ w[e].T`` and ``outs[1][t, c] = routing[t, c] ·
    x[p] @ w[e].T``. Here p is the pair of token t with its c-th choice, expert e. The result is zero if another rank
    holds e.
    """

    def __init__(self) -> None:
        self._drawer = Drawer()

    def make_inputs(
        self, problem: SizedProblem, *, seed: int, device: torch.device, conditions: Conditions = DEFAULT_CONDITIONS
    ) -> ExpertsInputs:
        step, generator = ExpertsStep.of(problem), torch.Generator(device).manual_seed(seed)
        chosen = draw_experts(step.m, step.experts, generator, device, conditions)
        return self.assemble(problem, chosen, generator)

    def meta_inputs(self, problem: SizedProblem) -> ExpertsInputs:
        step = ExpertsStep.of(problem)
        chosen = torch.empty((step.m, step.experts.top_k), dtype=torch.int32, device=META)
        return self.assemble(problem, chosen, None)

    def assemble(self, problem: SizedProblem, chosen: torch.Tensor, generator: torch.Generator | None) -> ExpertsInputs:
        """Draw inputs for tokens whose experts are given. On the meta device, draw nothing."""
        step, device = ExpertsStep.of(problem), chosen.device
        dtype: torch.dtype = getattr(torch, step.dtype)
        first, second = (self._drawer.draw(step, index, generator, device) for index in range(2))
        return ExpertsInputs(
            problem,
            (first, second),
            (
                draw((*chosen.shape, step.up), dtype, generator, device),
                draw((*chosen.shape, step.hidden), dtype, generator, device),
            ),
            chosen,
            torch.rand(chosen.shape, generator=generator, device=device),
        )

    def inputs_bytes(self, inputs: ExpertsInputs) -> int:
        tensors = sum(tensor.nbytes for tensor in (*inputs.outs, inputs.chosen, inputs.routing))
        blocks = sum(blocks.nbytes for blocks in inputs.blocks.values())
        return tensors + blocks + sum(operands.nbytes for operands in inputs.operands)

    def reset(self, inputs: ExpertsInputs) -> None:
        """Do nothing: each launch writes every element of the outputs."""

    def poison(self, inputs: ExpertsInputs) -> None:
        for out in inputs.outs:
            out.fill_(torch.nan)

    def right(self, inputs: ExpertsInputs) -> RightProducts:
        return RightProducts((_product(inputs, 0), _product(inputs, 1)))

    def judge(self, inputs: ExpertsInputs, right: RightProducts) -> Verdict:
        step = ExpertsStep.of(inputs.problem)
        allowed = FP8_TOLERANCE if step.weights == FP8 else RELATIVE_TOLERANCE[step.dtype]
        errors = [_error(out, product) for out, product in zip(inputs.outs, right.products, strict=True)]
        wrong = [
            f"{name} product: relative error {error:.3g}"
            for name, error in zip(("first", "second"), errors, strict=True)
            if not error <= allowed  # NaN is no better
        ]
        finite = all(error < torch.inf for error in errors)
        return Verdict(max(errors) if finite else None, "; ".join(wrong))


def _error(out: torch.Tensor, right: torch.Tensor) -> float:
    """Return the relative distance of an output from the right one, or its size if the right one is all zero."""
    size = torch.linalg.vector_norm(right)
    return float(torch.linalg.vector_norm(out.float() - right) / (size if size > 0 else 1.0))


def _product(inputs: ExpertsInputs, index: int) -> torch.Tensor:
    """Compute one of the two products in float32, expert by expert."""
    operands, out = inputs.operands[index], inputs.outs[index]
    found = torch.zeros(out.shape, dtype=torch.float32, device=out.device).flatten(0, 1)
    share = len(found) // len(operands.x)
    for expert, pairs in _visits(inputs.chosen, len(operands.held.w)):
        found[pairs] = operands.rows(pairs // share) @ operands.weight(expert).T
    if index:
        found *= inputs.routing.flatten()[:, None]
    return found.view(out.shape)


def _visits(chosen: torch.Tensor, local: int) -> Iterator[tuple[int, torch.Tensor]]:
    """Yield each expert of this rank that is visited, with its pairs."""
    for expert in range(local):
        if (chosen == expert).any():
            yield expert, (chosen.flatten() == expert).nonzero().flatten()
