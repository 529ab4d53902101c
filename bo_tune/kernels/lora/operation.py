"""How the LoRA kernels are compiled and launched: everything that does not depend on which of the two it is."""

import hashlib
from abc import abstractmethod
from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any, ClassVar, TypeVar

import torch

from bo_tune.kernels.lora import jit
from bo_tune.kernels.lora.tokens import TokenGroups, draw_assignment
from bo_tune.kernels.operation import Operation
from bo_tune.problem import GpuInfo, Problem
from bo_tune.space import Config, ConfigKey, config_key

LARGEST_INT32 = 2**31 - 1


@dataclass(frozen=True, slots=True)
class PreparedLaunch:
    """A launch with nothing left to decide: the loaded kernel on its grid, and all arguments."""

    run: Callable[..., None]
    arguments: tuple[Any, ...]


@dataclass(slots=True, kw_only=True)
class LoraInputs:
    """Tensors of one problem. The subclasses give their shapes."""

    problem: Problem
    x: torch.Tensor
    weights: tuple[torch.Tensor, ...]
    groups: TokenGroups
    out: torch.Tensor
    prepared: dict[ConfigKey, PreparedLaunch] = field(default_factory=dict, init=False, repr=False)


AnyInputs = TypeVar("AnyInputs", bound=LoraInputs)


class LoraOperation(Operation[AnyInputs]):
    """A LoRA kernel as it is launched. The subclasses know its arguments."""

    name: ClassVar[str]
    kernel: ClassVar[Any]
    optional_constants: ClassVar[Mapping[str, int]]
    """Config keys that may be absent, with the values they then have."""
    digest: ClassVar[str]

    @property
    def source(self) -> str:
        return f"bo_tune {self.digest}"

    def make_inputs(self, problem: Problem, *, seed: int, device: torch.device) -> AnyInputs:
        generator = torch.Generator(device).manual_seed(seed)
        assignment = draw_assignment(problem.m, problem.max_loras, generator, device)
        return self.assemble(problem, TokenGroups.of(assignment, problem.max_loras), generator, device)

    @abstractmethod
    def assemble(
        self, problem: Problem, groups: TokenGroups, generator: torch.Generator, device: torch.device
    ) -> AnyInputs:
        """Draw inputs for tokens that are already grouped."""

    def inputs_bytes(self, inputs: AnyInputs) -> int:
        tensors = (inputs.x, *inputs.weights, *inputs.groups.arguments, inputs.groups.assignment, inputs.out)
        initial = getattr(inputs, "initial", None)
        return sum(t.nbytes for t in tensors) + (0 if initial is None else initial.nbytes)

    def launch(self, inputs: AnyInputs, config: Config) -> None:
        prepared = inputs.prepared.get(config_key(config))
        if prepared is None:
            self._first_launch(inputs, config)
        else:
            prepared.run(*prepared.arguments)

    def _first_launch(self, inputs: AnyInputs, config: Config) -> None:
        """Launch through Triton's cache, and keep what it found for the launches that follow."""
        problem = inputs.problem
        effective = self._effective(problem, config)
        grid = self.grid(problem, effective)
        arguments = (*self.arguments(inputs), *self.constants(problem, effective))
        compiled = self.kernel[grid](*arguments, **_options(effective))
        if compiled is not None:  # None under the interpreter
            inputs.prepared[config_key(config)] = PreparedLaunch(compiled[grid], arguments)

    def warmup(self, problem: Problem, config: Config) -> Any:
        effective = self._effective(problem, config)
        arguments = (*self.argument_types(problem), *self.constants(problem, effective))
        return self.kernel.warmup(*arguments, grid=(1,), **_options(effective))

    def output(self, inputs: AnyInputs) -> torch.Tensor:
        return inputs.out

    def effective_config(self, problem: Problem, config: Config, gpu: GpuInfo) -> dict[str, int]:
        """See the base class. Holds on every GPU: a ragged k takes the loop that is never pipelined."""
        return self._effective(problem, config)

    def _effective(self, problem: Problem, config: Config) -> dict[str, int]:
        effective = {"num_ctas": 1, **self.optional_constants, **config}
        if not self.even_k(problem, effective):
            effective["num_stages"] = 1
        return effective

    def compile_key(self, problem: Problem, config: Config, gpu: GpuInfo) -> Hashable:
        effective = self._effective(problem, config)
        even_k = self.even_k(problem, effective)
        return self.name, gpu.capability, even_k, self.variant(problem), config_key(effective)

    @abstractmethod
    def even_k(self, problem: Problem, config: Config) -> bool:
        """Whether the programs' tiles cover k without a ragged end: compiled in."""

    @abstractmethod
    def grid(self, problem: Problem, config: Config) -> tuple[int, int, int]:
        """Programs to launch, with one group slot more than the engine has adapters, as it launches by default."""

    @abstractmethod
    def arguments(self, inputs: AnyInputs) -> tuple[Any, ...]:
        """The kernel's run-time arguments."""

    @abstractmethod
    def argument_types(self, problem: Problem) -> tuple[Any, ...]:
        """The run-time arguments with dtypes in place of tensors."""

    @abstractmethod
    def constants(self, problem: Problem, effective: Config) -> tuple[Any, ...]:
        """The kernel's compiled-in arguments, which follow the run-time ones."""

    @abstractmethod
    def variant(self, problem: Problem) -> Hashable:
        """What of the problem is compiled in."""


def _options(effective: Config) -> dict[str, Any]:
    # Fusion of multiply and add is Triton's default up to 3.9 and said outright because that default changes.
    return {
        "num_warps": effective["num_warps"],
        "num_stages": effective["num_stages"],
        "num_ctas": effective["num_ctas"],
        "enable_fp_fusion": True,
    }


@lru_cache(maxsize=256)
def int_specialisation(value: int) -> str:
    """How Triton specialises an integer argument: by its width, and on being one or divisible by 16."""
    if value == 1:
        return "1"
    width = "i32" if value <= LARGEST_INT32 else "i64"
    return f"{width} by 16" if value % 16 == 0 else width


def source_digest(op_file: Path) -> str:
    """Return ten hex digits over a kernel's file and the jit functions it shares."""
    text = op_file.read_bytes() + Path(jit.__file__).read_bytes()
    return hashlib.sha256(text).hexdigest()[:10]


def cdiv(a: int, b: int) -> int:
    """Divide, rounding up."""
    return -(-a // b)


def dtype_of(problem: Problem) -> torch.dtype:
    """Return the torch type of the problem's activations and weights."""
    dtype: torch.dtype = getattr(torch, problem.dtype)
    return dtype


def weights_dtype(problem: Problem) -> torch.dtype:
    """Return the type of what ``weights_argument`` gives for this problem."""
    return torch.uint64 if problem.num_slices > 1 else dtype_of(problem)


def weights_argument(weights: tuple[torch.Tensor, ...]) -> torch.Tensor:
    """Return the weights of a single slice, or a table of the slices' addresses, uint64 ``[S]``."""
    if len(weights) == 1:
        return weights[0]
    addresses = [weight.data_ptr() for weight in weights]
    return torch.tensor(addresses, dtype=torch.uint64).to(weights[0].device)


def draw(
    shape: tuple[int, ...], dtype: torch.dtype, generator: torch.Generator, device: torch.device, scale: float = 1.0
) -> torch.Tensor:
    """Draw normally distributed values."""
    values = torch.randn(shape, generator=generator, device=device, dtype=torch.float32)
    return values.mul_(scale).to(dtype)
