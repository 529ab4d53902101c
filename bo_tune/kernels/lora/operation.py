"""The part of a LoRA operation that does not depend on whose kernel it launches: inputs and right results."""

from abc import abstractmethod
from dataclasses import dataclass, field
from typing import TypeVar

import torch

from bo_tune.core.conditions import Conditions
from bo_tune.core.problem import LoraProblem
from bo_tune.core.space import ConfigKey
from bo_tune.kernels.call import PreparedLaunch
from bo_tune.kernels.lora.tokens import TokenGroups, draw_assignment
from bo_tune.kernels.operation import DEFAULT_CONDITIONS, META, KernelOperation, Verdict


@dataclass(slots=True, kw_only=True)
class LoraInputs:
    """Tensors of one problem. The subclasses give their shapes."""

    problem: LoraProblem
    x: torch.Tensor
    weights: tuple[torch.Tensor, ...]
    groups: TokenGroups
    out: torch.Tensor
    prepared: dict[ConfigKey, PreparedLaunch] = field(default_factory=dict, init=False, repr=False)


AnyInputs = TypeVar("AnyInputs", bound=LoraInputs)


class LoraOperation(KernelOperation[LoraProblem, AnyInputs]):
    """A LoRA kernel with its inputs, and one output whose norm is compared with a reference.

    Subclasses define the result, and their subclasses the launch.
    """

    name: str

    def make_inputs(
        self, problem: LoraProblem, *, seed: int, device: torch.device, conditions: Conditions = DEFAULT_CONDITIONS
    ) -> AnyInputs:
        generator = torch.Generator(device).manual_seed(seed)
        assignment = draw_assignment(problem.m, problem.max_loras, generator, device, conditions)
        return self.assemble(problem, TokenGroups.of(assignment, problem.max_loras), generator, device)

    @abstractmethod
    def assemble(
        self, problem: LoraProblem, groups: TokenGroups, generator: torch.Generator | None, device: torch.device
    ) -> AnyInputs:
        """Draw inputs for tokens that are already grouped. On the meta device, without a generator, draw nothing."""

    def meta_inputs(self, problem: LoraProblem) -> AnyInputs:
        tokens, slots = problem.m, problem.max_loras + 1
        sizes = (tokens, tokens, slots, slots + 1, slots)
        groups = TokenGroups(*(torch.empty(size, dtype=torch.int32, device=META) for size in sizes))
        return self.assemble(problem, groups, None, META)

    def inputs_bytes(self, inputs: AnyInputs) -> int:
        tensors = (inputs.x, *inputs.weights, *inputs.groups.arguments, inputs.groups.assignment, inputs.out)
        return sum(tensor.nbytes for tensor in tensors)

    def output(self, inputs: AnyInputs) -> torch.Tensor:
        """Return the output of the last launch."""
        return inputs.out

    @abstractmethod
    def reference(self, inputs: AnyInputs) -> torch.Tensor:
        """Return the right output, computed naively in float32."""

    @abstractmethod
    def tolerance(self, problem: LoraProblem) -> float:
        """Return the largest relative error (Frobenius norm) of a right result."""

    def right(self, inputs: AnyInputs) -> torch.Tensor:
        return self.reference(inputs).to(self.output(inputs).dtype)

    def judge(self, inputs: AnyInputs, right: torch.Tensor) -> Verdict:
        difference = torch.linalg.vector_norm(self.output(inputs).float() - right.float())
        error = float(difference / torch.linalg.vector_norm(right.float()))
        is_right = error <= self.tolerance(inputs.problem)
        return Verdict(error, "" if is_right else f"relative error {error:.3g}")


def dtype_of(problem: LoraProblem) -> torch.dtype:
    """Return the torch type of the problem's activations and weights."""
    dtype: torch.dtype = getattr(torch, problem.dtype)
    return dtype


def draw(
    shape: tuple[int, ...],
    dtype: torch.dtype,
    generator: torch.Generator | None,
    device: torch.device,
    scale: float = 1.0,
) -> torch.Tensor:
    """Draw normally distributed values; on the meta device none, as torch would spend 2 s importing its compiler."""
    if device.type == "meta":
        return torch.empty(shape, dtype=dtype, device=device)
    values = torch.randn(shape, generator=generator, device=device, dtype=torch.float32)
    return values.mul_(scale).to(dtype)


def draw_weights(
    problem: LoraProblem, generator: torch.Generator | None, device: torch.device
) -> tuple[torch.Tensor, ...]:
    """Draw the weights of each slice, ``[L, 1, N_s, k]``, scaled so that products are as large as activations."""
    return tuple(
        draw((problem.max_loras, 1, width, problem.k), dtype_of(problem), generator, device, scale=problem.k**-0.5)
        for width in problem.slice_sizes
    )
