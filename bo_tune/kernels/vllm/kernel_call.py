"""One launch of a Triton kernel, as vLLM's launcher asked for it."""

import inspect
from collections.abc import Hashable, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

import torch
from triton.tools.tensor_descriptor import TensorDescriptor

from bo_tune.kernels.lora.operation import PreparedLaunch, int_specialisation

CONFIG_NAMES = (
    "block_m",
    "block_n",
    "block_k",
    "split_k",
    "group_size_m",
    "num_warps",
    "num_stages",
    "num_ctas",
)
"""What a config can decide, by the names in the tuned files; see ``_named`` for those in kernels."""


@dataclass(frozen=True, slots=True)
class KernelCall:
    """A kernel with its grid and everything it is given.

    Attributes:
        kernel: Triton's jit function.
        grid: programs along the three axes.
        arguments: what is passed by position; tensors, on the meta device where nothing is to be launched.
        options: what is passed by name: launch options, and parameters of the kernel.
        read: what the launcher read of the config that it was given.
        parameters: every parameter of the kernel with its value, in the kernel's order.

    Raises:
        TypeError: a parameter has neither a value nor a default, or there are too many values.
    """

    kernel: Any
    grid: tuple[int, ...]
    arguments: tuple[Any, ...]
    options: Mapping[str, Any]
    read: Mapping[str, int]
    parameters: Mapping[str, Any] = field(init=False)

    def __post_init__(self) -> None:
        defaults = _defaults(self.kernel.fn)
        named = {name: value for name, value in self.options.items() if name in defaults}
        values = {**defaults, **dict(zip(defaults, self.arguments, strict=False)), **named}
        missing = any(value is inspect.Parameter.empty for value in values.values())
        if missing or len(self.arguments) > len(defaults):
            raise TypeError(f"{self.kernel.__name__} is launched with {len(self.arguments)} arguments and {set(named)}")
        object.__setattr__(self, "parameters", values)

    def launch(self) -> PreparedLaunch | None:
        """Launch through Triton's cache; return the launches that follow, or None under the interpreter."""
        compiled = self.kernel[self.grid](*self.arguments, **self.options)
        if compiled is None:
            return None
        # A loaded kernel wants every argument, those that were compiled in included.
        return PreparedLaunch(compiled[self.grid], tuple(self.parameters.values()))

    def warmup(self) -> Any:
        """Compile for the active Triton target without launching, tensors taken to be aligned as torch aligns them."""
        arguments = [value.dtype if isinstance(value, torch.Tensor) else value for value in self.arguments]
        return self.kernel.warmup(*arguments, grid=(1,), **self.options)

    def config(self) -> dict[str, int]:
        """Return the config that is launched, whatever was asked for.

        What was read and went where it is not seen counts as asked for; what was not read does not count.
        """
        values = {**self.parameters, **self.options}
        found = ((name, _named(values, name)) for name in CONFIG_NAMES)
        return {**self.read, **{name: int(value) for name, value in found if value is not None}}

    def specialisation(self) -> Hashable:
        """Return what is compiled in: equal for calls that share one binary, on one GPU."""
        parts = [
            value if parameter.is_constexpr else _kind(value, parameter.do_not_specialize)
            for parameter, value in zip(self.kernel.params, self.parameters.values(), strict=True)
        ]
        options = ((name, value) for name, value in self.options.items() if name not in self.parameters)
        return self.kernel.__name__, tuple(parts), tuple(sorted(options))


def _names(name: str) -> tuple[str, ...]:
    """The names that a parameter of a config may go by in a kernel: block_m, BLOCK_M or BLOCK_SIZE_M."""
    return name, name.upper(), name.upper().replace("BLOCK_", "BLOCK_SIZE_")


CONFIG_PARAMETERS = frozenset(known for name in CONFIG_NAMES for known in _names(name))
"""What a config can decide, by all names that kernels have for it."""


def _named(values: Mapping[str, Any], name: str) -> Any:
    """Return the value that a kernel has under one of the names it may go by."""
    return next((values[known] for known in _names(name) if known in values), None)


@lru_cache(maxsize=64)
def _defaults(function: Any) -> Mapping[str, Any]:
    """Parameters of a kernel in order, with their defaults."""
    return {name: parameter.default for name, parameter in inspect.signature(function).parameters.items()}


def _kind(value: Any, unspecialised: bool) -> Hashable:
    """How Triton tells run-time arguments apart: tensors by their type, integers by what divides them."""
    if isinstance(value, torch.Tensor):
        return value.dtype
    if isinstance(value, TensorDescriptor):
        return value.base.dtype, tuple(value.block_shape)
    if isinstance(value, int) and not isinstance(value, bool):
        return int_specialisation(value) if not unspecialised else "int"
    return type(value).__name__
