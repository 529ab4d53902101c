"""One launch of a user's kernel: its arguments in order, including those that a config sets."""

import inspect
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from typing import Any

from triton.tools.tensor_descriptor import TensorDescriptor

from bo_tune.core.problem import SizedProblem
from bo_tune.core.space import Config
from bo_tune.errors import InputError, one_line
from bo_tune.kernels.call import KernelCall
from bo_tune.kernels.spec import LAUNCH_OPTIONS
from bo_tune.kernels.user.check.memory import tensor_of
from bo_tune.kernels.user.definition import Definition
from bo_tune.kernels.user.kernel import Kernel


def call_of(kernel: Kernel, problem: SizedProblem, arguments: Mapping[str, Any], config: Config) -> KernelCall:
    """Put a call together. Arguments are positional up to the first that must be passed by name.

    Triton takes launch options from the arguments passed by name, even if a parameter of the kernel has the same name.
    The code that a config runs before a launch is run here once, because it may decide what is compiled (the block
    shape of a descriptor).

    Raises:
        InputError: a parameter has no value, or an argument is not one of the kernel's.
    """
    own, params = kernel.parameters, kernel.decode(config)
    check_kernel_arguments(kernel, arguments)
    arguments = _with_block_shapes(kernel, arguments, params)
    chosen = {**params, **_heuristic_values(kernel, arguments, params)}
    values = {**own, **arguments, **chosen}
    before = _before(kernel, problem, values, params)
    # A parameter with the name of a launch option sets that option only if it does not keep its default.
    could = [name for name in own if name in kernel.decorated.launch_options]
    silent = {name for name in could if name not in chosen and name not in arguments}
    names = list(own)
    spoken = [name for name in could if name in chosen or (name in LAUNCH_OPTIONS and name not in silent)]
    first = min(map(names.index, spoken), default=len(own))
    set_too = {name: value for name, value in chosen.items() if name not in own and value is not None}
    options = {**kernel.more_options(problem), **set_too}
    by_name = {name: values[name] for name in names[first:] if name not in silent}
    positional = tuple(values[name] for name in names[:first])
    programs = kernel.programs(problem, params)
    return KernelCall(kernel.jit, programs, positional, {**by_name, **options}, before=before)


def _with_block_shapes(kernel: Kernel, arguments: Mapping[str, Any], params: Mapping[str, Any]) -> dict[str, Any]:
    """Copy arguments for this config alone. Tensor descriptors get the block shapes that the config decides."""
    found = {n: replace(value) if isinstance(value, TensorDescriptor) else value for n, value in arguments.items()}
    for name, sides in kernel.block_shapes.items():
        if not isinstance(found[name], TensorDescriptor):
            raise InputError(f"{kernel.name}: block_shapes: {name!r} is not a tensor descriptor")
        try:
            shape = [{**arguments, **params}[side] if isinstance(side, str) else side for side in sides]
            found[name] = replace(found[name], block_shape=shape)
        except (AssertionError, LookupError, TypeError, ValueError) as error:
            raise InputError(f"{kernel.name}: block_shapes: {name!r}: {one_line(error)}") from error
    return found


def _heuristic_values(kernel: Kernel, arguments: Mapping[str, Any], params: Mapping[str, Any]) -> dict[str, Any]:
    try:
        return kernel.decorated.heuristic_values(arguments, params)
    except Exception as error:  # whatever the author's code raises
        why = f"{type(error).__name__}: {one_line(error)}"
        raise InputError(f"{kernel.name}: @triton.heuristics: {why}") from error


def _before(
    kernel: Kernel, problem: SizedProblem, values: dict[str, Any], params: Mapping[str, Any]
) -> Callable[[], None] | None:
    """Return the function that a config needs called before each launch, after calling it once; None for nothing."""
    steps: list[Callable[[], object]] = []
    for tensor in map(partial(_tensor, kernel, values), kernel.zeroed(problem, params)):
        steps.append(tensor.zero_)
    hook = kernel.decorated.hook_of(params) if kernel.space is None else None
    if hook is not None:
        steps.append(partial(hook, values))
    if not steps:
        return None
    kernel.ask("pre_hook", _in_turn, steps)
    return partial(_in_turn, steps)


def _tensor(kernel: Definition, arguments: Mapping[str, Any], name: str) -> Any:
    tensor = tensor_of(arguments.get(name))
    if tensor is None:
        raise InputError(f"{kernel.name}: zero: {name!r} is not a tensor")
    return tensor


def _in_turn(steps: list[Callable[[], object]]) -> None:
    for step in steps:
        step()


def check_kernel_arguments(kernel: Kernel, arguments: Mapping[str, Any]) -> None:
    """Raise InputError if ``inputs`` returns anything but the kernel's arguments."""
    for name in arguments:
        if name not in kernel.parameters:
            known = ", ".join(kernel.parameters)
            raise InputError(f"{kernel.name}: inputs: the kernel has no argument {name!r}; it takes {known}")
        if name in kernel.values:
            raise InputError(f"{kernel.name}: inputs: {name!r} is already in the search space")
    given = {*arguments, *kernel.values, *kernel.decorated.heuristics}
    missing = [n for n, default in kernel.parameters.items() if n not in given and default is inspect.Parameter.empty]
    if missing:
        raise InputError(
            f"{kernel.name}: inputs: there is no value for {', '.join(missing)}, neither here nor in the search space"
        )
    for name in kernel.outputs_in(arguments):
        if tensor_of(arguments.get(name)) is None:
            raise InputError(f"{kernel.name}: output: {name!r} is not a tensor")
