"""One launch of a user's kernel: its arguments in order, those of a config among them."""

import inspect
from collections.abc import Hashable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from triton.runtime.jit import MockTensor

from bo_tune.core.problem import SizedProblem
from bo_tune.core.space import Config
from bo_tune.errors import InputError
from bo_tune.kernels.lora.operation import PreparedLaunch, int_specialisation
from bo_tune.kernels.user.kernel import LAUNCH_OPTIONS, Kernel

ALIGNMENT = 16
"""Bytes by which Triton compiles for addresses that are divisible."""


class StandIn(MockTensor):  # type: ignore[misc]  # Triton has no types
    """Stands for a tensor where nothing is launched: of its type, and aligned as it would be on a GPU."""

    def __init__(self, tensor: torch.Tensor) -> None:
        super().__init__(tensor.dtype)
        # Memory is allocated at addresses that are divisible by much more; a view may begin anywhere.
        self.offset = int(tensor.storage_offset()) * tensor.element_size() % ALIGNMENT

    def data_ptr(self) -> int:
        """What the address leaves, divided by the alignment."""
        return self.offset


@dataclass(frozen=True, slots=True)
class Call:
    """A kernel with its grid and everything it is given.

    Attributes:
        function: Triton's jit function.
        grid: programs along three axes.
        parameters: every parameter of the kernel with its value, in the kernel's order; tensors on the meta device
            where nothing is to be launched.
        options: launch options that are no parameters of the kernel.
        named: parameters that are given by their names: launch options too, as for ``triton.Config``.
    """

    function: Any
    grid: tuple[int, int, int]
    parameters: Mapping[str, Any]
    options: Mapping[str, Any]
    named: frozenset[str] = frozenset()

    @classmethod
    def of(cls, kernel: Kernel, problem: SizedProblem, arguments: Mapping[str, Any], config: Config) -> "Call":
        """Put a call together.

        Raises:
            InputError: a parameter has no value, or an argument is none of the kernel's.
        """
        params = kernel.decode(config)
        check_arguments(kernel, arguments)
        values = {**kernel.parameters, **arguments, **params}
        own = kernel.parameters
        options = {name: value for name, value in params.items() if name in LAUNCH_OPTIONS and name not in own}
        named = frozenset(name for name in LAUNCH_OPTIONS if name in own and (name in params or name in arguments))
        ordered = {name: values[name] for name in own}
        return cls(kernel.function, kernel.programs(problem, params), ordered, options, named)

    def launch(self) -> PreparedLaunch | None:
        """Launch through Triton's cache; return the launches that follow, or None under the interpreter."""
        first, rest = self._split(self.parameters)
        compiled = self.function[self.grid](*first, **rest, **self.options)
        return None if compiled is None else PreparedLaunch(compiled[self.grid], tuple(self.parameters.values()))

    def warmup(self) -> Any:
        """Compile for the active Triton target without launching, and return Triton's compiled kernel."""
        first, rest = self._split({name: _without_memory(value) for name, value in self.parameters.items()})
        return self.function.warmup(*first, grid=self.grid, **rest, **self.options)

    def _split(self, arguments: Mapping[str, Any]) -> tuple[list[Any], dict[str, Any]]:
        """Return arguments by their places, and from the first that must have its name on, by their names.

        Triton takes launch options from what it is given by name, the kernel's parameters among it.
        """
        names = list(arguments)
        first = min((names.index(name) for name in self.named), default=len(names))
        by_name = {name: arguments[name] for name in names[first:]}
        silent = [name for name in LAUNCH_OPTIONS if name in by_name and name not in self.named]  # has its default
        return [arguments[name] for name in names[:first]], {n: v for n, v in by_name.items() if n not in silent}

    def specialisation(self) -> Hashable:
        """Return what is compiled in: equal for calls that share one binary, on one GPU."""
        parts = [
            value if parameter.is_constexpr else _kind(value)
            for parameter, value in zip(self.function.params, self.parameters.values(), strict=True)
        ]
        options = {**self.options, **{name: self.parameters[name] for name in self.named}}
        return self.function.__name__, tuple(map(repr, parts)), tuple(sorted(options.items()))


def check_arguments(kernel: Kernel, arguments: Mapping[str, Any]) -> None:
    """Raise InputError where what ``inputs`` returns is not what the kernel takes."""
    for name in arguments:
        if name not in kernel.parameters:
            known = ", ".join(kernel.parameters)
            raise InputError(f"{kernel.name}: inputs: {name!r} is no argument of the kernel; it takes {known}")
        if name in kernel.values:
            raise InputError(f"{kernel.name}: inputs: {name!r} is in the search space already")
    given = {*arguments, *kernel.values}
    missing = [n for n, default in kernel.parameters.items() if n not in given and default is inspect.Parameter.empty]
    if missing:
        raise InputError(f"{kernel.name}: inputs: no value for {', '.join(missing)}, in the search space neither")
    for name in kernel.outputs:
        if not isinstance(arguments.get(name), torch.Tensor):
            raise InputError(f"{kernel.name}: output: {name!r} is no tensor")


def _without_memory(value: Any) -> Any:
    """Return what stands for an argument where nothing is launched."""
    if isinstance(value, tuple):
        return tuple(map(_without_memory, value))
    return StandIn(value) if isinstance(value, torch.Tensor) else value


def _kind(value: Any) -> Hashable:
    """How Triton tells run-time arguments apart: tensors by type and alignment, integers by what divides them."""
    if isinstance(value, tuple):
        return tuple(map(_kind, value))
    if isinstance(value, torch.Tensor):
        return value.dtype, StandIn(value).offset == 0
    if isinstance(value, int) and not isinstance(value, bool):
        return int_specialisation(value)
    return type(value).__name__
