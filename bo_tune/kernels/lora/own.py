"""How the project's own LoRA kernels are compiled and launched: what does not depend on which of them it is."""

import hashlib
from abc import abstractmethod
from collections.abc import Hashable, Mapping
from pathlib import Path
from typing import Any, ClassVar

import torch

from bo_tune.core.problem import GpuInfo, LoraProblem
from bo_tune.core.space import Config, config_key
from bo_tune.kernels.lora import jit
from bo_tune.kernels.lora.operation import AnyInputs, LoraOperation, PreparedLaunch, dtype_of


class OwnLoraOperation(LoraOperation[AnyInputs]):
    """One of the project's own kernels as it is launched. The subclasses know its arguments."""

    kernel: ClassVar[Any]
    optional_constants: ClassVar[Mapping[str, int]]
    """Config keys that may be absent, with the values they then have."""
    digest: ClassVar[str]

    @property
    def source(self) -> str:
        return f"bo_tune {self.digest}"

    def first_launch(self, inputs: AnyInputs, config: Config) -> PreparedLaunch | None:
        problem = inputs.problem
        effective = self._effective(problem, config)
        grid = self.grid(problem, effective)
        arguments = (*self.arguments(inputs, effective), *self.constants(problem, effective))
        compiled = self.kernel[grid](*arguments, **_options(effective))
        return None if compiled is None else PreparedLaunch(compiled[grid], arguments)

    def warmup(self, problem: LoraProblem, config: Config) -> Any:
        effective = self._effective(problem, config)
        arguments = (*self.argument_types(problem), *self.constants(problem, effective))
        return self.kernel.warmup(*arguments, grid=(1,), **_options(effective))

    def effective_config(self, problem: LoraProblem, config: Config, gpu: GpuInfo) -> dict[str, int]:
        """See the base class. Holds on every GPU: a ragged k takes the loop that is never pipelined."""
        return self._effective(problem, config)

    def _effective(self, problem: LoraProblem, config: Config) -> dict[str, int]:
        effective = {"num_ctas": 1, **self.optional_constants, **config}
        if not self.even_k(problem, effective):
            effective["num_stages"] = 1
        return effective

    def compile_key(self, problem: LoraProblem, config: Config, gpu: GpuInfo) -> Hashable:
        effective = self._effective(problem, config)
        even_k = self.even_k(problem, effective)
        return self.name, gpu.capability, even_k, self.variant(problem), config_key(effective)

    @abstractmethod
    def even_k(self, problem: LoraProblem, config: Config) -> bool:
        """Whether the programs' tiles cover k without a ragged end: compiled in."""

    @abstractmethod
    def grid(self, problem: LoraProblem, config: Config) -> tuple[int, int, int]:
        """Programs to launch, with one group slot more than the engine has adapters, as it launches by default."""

    @abstractmethod
    def arguments(self, inputs: AnyInputs, effective: Config) -> tuple[Any, ...]:
        """The kernel's run-time arguments."""

    @abstractmethod
    def argument_types(self, problem: LoraProblem) -> tuple[Any, ...]:
        """The run-time arguments with dtypes in place of tensors."""

    @abstractmethod
    def constants(self, problem: LoraProblem, effective: Config) -> tuple[Any, ...]:
        """The kernel's compiled-in arguments, which follow the run-time ones."""

    @abstractmethod
    def variant(self, problem: LoraProblem) -> Hashable:
        """What of the problem is compiled in."""


def _options(effective: Config) -> dict[str, Any]:
    # Fusion of multiply and add is Triton's default up to 3.9 and said outright because that default changes.
    return {
        "num_warps": effective["num_warps"],
        "num_stages": effective["num_stages"],
        "num_ctas": effective["num_ctas"],
        "enable_fp_fusion": True,
    }


def source_digest(op_file: Path) -> str:
    """Return ten hex digits over a kernel's file and the jit functions that kernels share."""
    text = op_file.read_bytes() + Path(jit.__file__).read_bytes()
    return hashlib.sha256(text).hexdigest()[:10]


def cdiv(a: int, b: int) -> int:
    """Divide, rounding up."""
    return -(-a // b)


def weights_dtype(problem: LoraProblem) -> torch.dtype:
    """Return the type of what ``weights_argument`` gives for this problem."""
    return torch.uint64 if problem.num_slices > 1 else dtype_of(problem)


def weights_argument(weights: tuple[torch.Tensor, ...]) -> torch.Tensor:
    """Return the weights of a single slice, or a table of the slices' addresses, uint64 ``[S]``."""
    return weights[0] if len(weights) == 1 else address_table(weights)


def address_table(weights: tuple[torch.Tensor, ...]) -> torch.Tensor:
    """Return a table of the slices' addresses, uint64 ``[S]``."""
    addresses = [weight.data_ptr() for weight in weights]
    return torch.tensor(addresses, dtype=torch.uint64).to(weights[0].device)
