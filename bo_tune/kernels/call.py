"""One launch of a Triton kernel with all its arguments: run it, compile it ahead, and tell it from others."""

import inspect
from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

import torch
from triton.runtime.jit import MockTensor
from triton.tools.tensor_descriptor import TensorDescriptor

from bo_tune.kernels.spec import LAUNCH_OPTIONS

LARGEST_INT32 = 2**31 - 1
ALIGNMENT = 16
"""Triton compiles a variant of its own for addresses that are divisible by this many bytes."""


class StandIn(MockTensor):  # type: ignore[misc]  # Triton has no types
    """Stands in for a tensor where nothing is launched. It has the tensor's type, and its alignment on a GPU."""

    def __init__(self, tensor: torch.Tensor) -> None:
        super().__init__(tensor.dtype)
        self.offset = _offset(tensor)

    def data_ptr(self) -> int:
        """Return the remainder of the address after division by the alignment."""
        return self.offset


def _offset(tensor: torch.Tensor) -> int:
    # Memory is allocated at addresses that are divisible by much more, but a view may begin anywhere.
    return int(tensor.storage_offset()) * tensor.element_size() % ALIGNMENT


@dataclass(frozen=True, slots=True)
class PreparedLaunch:
    """A launch with nothing left to decide: the kernel, loaded on its grid, and all arguments."""

    run: Callable[..., None]
    arguments: tuple[Any, ...]
    before: Callable[[], None] | None = None

    def __call__(self) -> None:
        """Launch on the current stream."""
        if self.before is not None:
            self.before()
        self.run(*self.arguments)


@dataclass(frozen=True, slots=True)
class KernelCall:
    """A kernel with its grid and all its arguments.

    Attributes:
        kernel: Triton's jit function.
        grid: programs along the axes, up to three.
        arguments: positional arguments. Tensors are on the meta device if nothing will be launched.
        options: keyword arguments: launch options, and parameters of the kernel.
        before: called before each launch and timed with it; None for nothing.
        parameters: every parameter of the kernel with its value, in the kernel's order.

    Raises:
        TypeError: a parameter has neither a value nor a default, or there are too many values.
    """

    kernel: Any
    grid: tuple[int, ...]
    arguments: tuple[Any, ...]
    options: Mapping[str, Any]
    before: Callable[[], None] | None = field(default=None, kw_only=True)
    parameters: Mapping[str, Any] = field(init=False)

    def __post_init__(self) -> None:
        defaults = _defaults(self.kernel.fn)
        named = {name: value for name, value in self.options.items() if name in defaults}
        values = {**defaults, **dict(zip(defaults, self.arguments, strict=False)), **named}
        missing = any(value is inspect.Parameter.empty for value in values.values())
        if missing or len(self.arguments) > len(defaults):
            raise TypeError(
                f"{self.kernel.__name__} got {len(self.arguments)} arguments and {set(named)}, which do not match its "
                "parameters"
            )
        object.__setattr__(self, "parameters", values)

    def launch(self) -> PreparedLaunch | None:
        """Launch through Triton's cache. Return a faster way to launch again, or None under the interpreter."""
        if self.before is not None:
            self.before()
        compiled = self.kernel[self.grid](*self.arguments, **self.options)
        if compiled is None:
            return None
        # A loaded kernel wants all three axes, and every argument, including those that were compiled in.
        grid = (*self.grid, 1, 1)[:3]
        return PreparedLaunch(compiled[grid], tuple(self.parameters.values()), self.before)

    def warmup(self) -> Any:
        """Compile for the active Triton target without launching, and return Triton's compiled kernel."""
        options = {name: _without_memory(value) for name, value in self.options.items()}
        return self.kernel.warmup(*map(_without_memory, self.arguments), grid=self.grid, **options)

    def specialisation(self) -> Hashable:
        """Return everything that is compiled in. Calls with equal values share one binary on one GPU."""
        parts = (
            repr(value) if parameter.is_constexpr else _kind(value, specialised=not parameter.do_not_specialize)
            for parameter, value in zip(self.kernel.params, self.parameters.values(), strict=True)
        )
        apart = {n: v for n, v in self.options.items() if n in LAUNCH_OPTIONS or n not in self.parameters}
        return self.kernel.__name__, tuple(parts), tuple(sorted(apart.items()))


@lru_cache(maxsize=64)
def _defaults(function: Any) -> Mapping[str, Any]:
    """Return the parameters of a kernel in order, with their defaults."""
    return {name: parameter.default for name, parameter in inspect.signature(function).parameters.items()}


def _without_memory(value: Any) -> Any:
    """Return a stand-in for an argument where nothing is launched."""
    if isinstance(value, tuple):
        return tuple(map(_without_memory, value))
    return StandIn(value) if isinstance(value, torch.Tensor) else value


def _kind(value: Any, *, specialised: bool = True) -> Hashable:
    """Return what Triton specialises on: the type and alignment of tensors, the divisibility of integers."""
    if isinstance(value, tuple):
        return tuple(map(_kind, value))
    if isinstance(value, torch.Tensor):
        return value.dtype, _offset(value) == 0
    if isinstance(value, TensorDescriptor):
        return value.base.dtype, tuple(value.block_shape)
    if isinstance(value, int) and not isinstance(value, bool):
        return int_specialisation(value) if specialised else "int"
    return type(value).__name__


@lru_cache(maxsize=256)
def int_specialisation(value: int) -> str:
    """Return how Triton specialises an integer argument: by its width, and by being 1 or divisible by 16."""
    if value == 1:
        return "1"
    width = "i32" if value <= LARGEST_INT32 else "i64"
    return f"{width} by 16" if value % 16 == 0 else width
