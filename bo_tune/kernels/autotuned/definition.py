"""A kernel under ``bo_tune.autotune`` in the form in which it is tuned. Its problems are recorded calls."""

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

from bo_tune.core.problem import Size, SizedProblem
from bo_tune.errors import InputError
from bo_tune.kernels.autotuned.calls import tuned_call
from bo_tune.kernels.autotuned.described import made
from bo_tune.kernels.user.check.memory import tensor_of
from bo_tune.kernels.user.check.reference import RightOutputs, right_outputs
from bo_tune.kernels.user.definition import Params
from bo_tune.kernels.user.kernel import Kernel
from bo_tune.kernels.user.operation import UserInputs, UserKernel
from bo_tune.kernels.user.values import Value


@dataclass(frozen=True, eq=False, kw_only=True)
class AutotunedKernel(Kernel):
    """The definition to tune for a kernel under ``bo_tune.autotune``. Without a reference, the first config is right.

    Args:
        fill: changes the arguments that were made for a call. It writes numbers where random ones will not do.
    """

    fill: Callable[[dict[str, Any]], object] | None = None

    makes: ClassVar[str] = "the recorded call"
    is_its_function: ClassVar[bool] = True

    @property
    def own_functions(self) -> tuple[Any, ...]:
        return (self.jit,)

    @property
    def functions(self) -> tuple[Any, ...]:
        """The functions that affect the results. This package makes arguments and grids, so they do not count."""
        more = (*self.decorated.heuristics.values(), *self.decorated.hooks)
        return (self.jit, self.fill, *more)

    @property
    def restored(self) -> tuple[str, ...]:
        """Arguments to restore from the start. Others that launches write are found out."""
        return self.decorated.restore

    def check_sizes(self, names: Any) -> None:
        """Check nothing: this package makes the problems."""

    def arguments(self, sizes: Mapping[str, Size], device: Any) -> Mapping[str, Any]:
        found = made(tuned_call(sizes).arguments, device)
        if self.fill is not None:
            self.fill(found)
        return {name: value for name, value in found.items() if name in self.parameters}

    def outputs_in(self, arguments: Mapping[str, Any]) -> tuple[str, ...]:
        return tuple(name for name in self.output_names if tensor_of(arguments.get(name)) is not None)

    def more_options(self, problem: SizedProblem) -> Mapping[str, Any]:
        return made(tuned_call(dict(problem.sizes)).options, None)

    def operation_at(self, home: Path) -> "AutotunedOperation":
        """Return the operation. ``home`` is the file that defines it."""
        return AutotunedOperation(self, home)

    def allows(self, problem: SizedProblem, params: Params) -> bool:
        place = self._places.get(self._place(params))
        return place is not None and self._grid_of(problem)[place] >= 0

    def programs(self, problem: SizedProblem, params: Params) -> tuple[int, int, int]:
        """Return the recorded grid. A config that is not allowed has none, and is not launched."""
        place = self._places.get(self._place(params))
        number = -1 if place is None else self._grid_of(problem)[place]
        grid = tuned_call(dict(problem.sizes)).grids[number] if number >= 0 else ()
        first, second, third = (*grid, 1, 1, 1)[:3]
        return first, second, third

    def _grid_of(self, problem: SizedProblem) -> tuple[int, ...]:
        grid_of = tuned_call(dict(problem.sizes)).grid_of
        if len(grid_of) != len(self.listed):
            raise InputError(f"{self.name}: its configs have changed since the call was recorded; record it again")
        return grid_of

    @cached_property
    def _places(self) -> Mapping[tuple[Value, ...], int]:
        return {self._place(params): place for place, params in enumerate(self.listed)}


class AutotunedOperation(UserKernel):
    """A recorded call as an operation. Which arguments are tensors, and may be outputs, differs between calls."""

    def _check_arguments(self, arguments: Mapping[str, Any]) -> None:
        super()._check_arguments(arguments)
        if not self.kernel.outputs_in(arguments):
            raise InputError(f"{self.kernel.name}: no argument is a tensor, so its results cannot be checked")

    def right(self, inputs: UserInputs) -> RightOutputs:
        of_call = replace(self.kernel, output=self.kernel.outputs_in(inputs.arguments))
        return right_outputs(of_call, inputs.arguments, lambda given: self._run_default(inputs.problem, given))


def defined(tuner: Any, *, outputs: tuple[str, ...] = (), fill: Callable[..., object] | None = None) -> AutotunedKernel:
    """Return the definition to tune for a kernel under ``bo_tune.autotune``.

    Args:
        outputs: names of its outputs, if known.

    Raises:
        InputError: it cannot be tuned.
    """
    function = tuner.base_fn
    parameters = inspect.signature(function).parameters.items()
    constants = {name for name, parameter in parameters if "constexpr" in str(parameter.annotation)}
    chosen = {name for config in tuner.configs for name in config.all_kwargs()}
    may_be = outputs or tuple(name for name, _ in parameters if name not in constants | chosen)
    kernel = AutotunedKernel(
        tuner,
        inputs=_recorded,
        grid=_recorded,
        output=may_be,
        in_place=not outputs,
        fill=fill,
    )
    object.__setattr__(kernel, "defined_in", function.__module__)
    return kernel


def _recorded(*_: Any) -> Any:
    raise AssertionError("told by the recorded call")
