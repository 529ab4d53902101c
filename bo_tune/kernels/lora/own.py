"""Compilation and launch of the project's own LoRA kernels, as far as all of them share it."""

import hashlib
from abc import abstractmethod
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import torch

from bo_tune.core.problem import GpuInfo, LoraProblem
from bo_tune.core.space import Config
from bo_tune.kernels.call import KernelCall
from bo_tune.kernels.lora import jit
from bo_tune.kernels.lora.operation import AnyInputs, LoraOperation


class OwnLoraOperation(LoraOperation[AnyInputs]):
    """One of the project's own kernels. The subclasses know its arguments."""

    kernel: ClassVar[Any]
    optional_constants: ClassVar[Mapping[str, int]]
    """Config keys that may be absent, with their default values."""
    digest: ClassVar[str]

    @property
    def source(self) -> str:
        return f"bo_tune {self.digest}"

    def call(self, inputs: AnyInputs, config: Config, gpu: GpuInfo | None = None) -> KernelCall:
        problem = inputs.problem
        effective = self._effective(problem, config)
        options = {name: effective[name] for name in ("num_warps", "num_stages", "num_ctas")}
        # Triton fuses multiply and add by default up to 3.9. That default changes, so say it outright.
        options["enable_fp_fusion"] = True
        return KernelCall(self.kernel, self.grid(problem, effective), self.arguments(inputs, effective), options)

    def effective_config(self, problem: LoraProblem, config: Config, gpu: GpuInfo) -> dict[str, int]:
        """Return the config that runs, which is the same on every GPU. With a ragged k, the loop is never pipelined."""
        return self._effective(problem, config)

    def _effective(self, problem: LoraProblem, config: Config) -> dict[str, int]:
        effective = {"num_ctas": 1, **self.optional_constants, **config}
        if not self.even_k(problem, effective):
            effective["num_stages"] = 1
        return effective

    @abstractmethod
    def even_k(self, problem: LoraProblem, config: Config) -> bool:
        """Say whether the tiles cover k without a ragged end. This is compiled in."""

    @abstractmethod
    def grid(self, problem: LoraProblem, config: Config) -> tuple[int, int, int]:
        """Return the programs to launch. The engine's default has one group slot more than it has adapters."""

    @abstractmethod
    def arguments(self, inputs: AnyInputs, effective: Config) -> tuple[Any, ...]:
        """Return the kernel's arguments in order: run-time arguments first, then compiled-in ones."""


def source_digest(op_file: Path) -> str:
    """Return ten hex digits of a digest over a kernel's file and the jit functions that kernels share."""
    text = op_file.read_bytes() + Path(jit.__file__).read_bytes()
    return hashlib.sha256(text).hexdigest()[:10]


def cdiv(a: int, b: int) -> int:
    """Divide, rounding up."""
    return -(-a // b)


def weights_argument(weights: tuple[torch.Tensor, ...]) -> torch.Tensor:
    """Return the weights of a single slice, or a table of the slices' addresses, uint64 ``[S]``."""
    return weights[0] if len(weights) == 1 else address_table(weights)


def address_table(weights: tuple[torch.Tensor, ...]) -> torch.Tensor:
    """Return a table of the slices' addresses, uint64 ``[S]``."""
    addresses = [weight.data_ptr() for weight in weights]
    return torch.tensor(addresses, dtype=torch.uint64).to(weights[0].device)
