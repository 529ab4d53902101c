"""What the LoRA operations share, whoever's kernel they launch: inputs, references, prepared launches."""

from abc import abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, ClassVar, TypeVar

import torch

from bo_tune.core.conditions import Conditions
from bo_tune.core.problem import LoraProblem
from bo_tune.core.space import Config, ConfigKey, config_key
from bo_tune.kernels.lora.tokens import TokenGroups, draw_assignment
from bo_tune.kernels.operation import DEFAULT_CONDITIONS, OneOutput

LARGEST_INT32 = 2**31 - 1


@dataclass(frozen=True, slots=True)
class PreparedLaunch:
    """A launch with nothing left to decide: the loaded kernel on its grid, and all arguments."""

    run: Callable[..., None]
    arguments: tuple[Any, ...]


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


class LoraOperation(OneOutput[AnyInputs]):
    """A LoRA kernel with its inputs. The subclasses know what it computes, and those of these how it is launched."""

    name: ClassVar[str]

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
        """Draw inputs for tokens that are already grouped. On the meta device, without a generator, none is drawn."""

    def inputs_bytes(self, inputs: AnyInputs) -> int:
        tensors = (inputs.x, *inputs.weights, *inputs.groups.arguments, inputs.groups.assignment, inputs.out)
        initial = getattr(inputs, "initial", None)
        return sum(t.nbytes for t in tensors) + (0 if initial is None else initial.nbytes)

    def launch(self, inputs: AnyInputs, config: Config) -> None:
        key = config_key(config)
        prepared = inputs.prepared.get(key)
        if prepared is not None:
            prepared.run(*prepared.arguments)
            return
        prepared = self.first_launch(inputs, config)
        if prepared is not None:
            inputs.prepared[key] = prepared

    @abstractmethod
    def first_launch(self, inputs: AnyInputs, config: Config) -> PreparedLaunch | None:
        """Launch through Triton's cache; return the launches that follow, or None under the interpreter."""

    def output(self, inputs: AnyInputs) -> torch.Tensor:
        return inputs.out


@lru_cache(maxsize=256)
def int_specialisation(value: int) -> str:
    """How Triton specialises an integer argument: by its width, and on being one or divisible by 16."""
    if value == 1:
        return "1"
    width = "i32" if value <= LARGEST_INT32 else "i64"
    return f"{width} by 16" if value % 16 == 0 else width


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
    """Draw normally distributed values; none on the meta device, where torch would first import its compiler: 2 s."""
    if device.type == "meta":
        return torch.empty(shape, dtype=dtype, device=device)
    values = torch.randn(shape, generator=generator, device=device, dtype=torch.float32)
    return values.mul_(scale).to(dtype)


def draw_weights(
    problem: LoraProblem, generator: torch.Generator | None, device: torch.device
) -> tuple[torch.Tensor, ...]:
    """Draw the weights of each slice, ``[L, 1, N_s, k]``, such that products have the size of activations."""
    return tuple(
        draw((problem.max_loras, 1, width, problem.k), dtype_of(problem), generator, device, scale=problem.k**-0.5)
        for width in problem.slice_sizes
    )
