"""One launch of a user's kernel: its arguments in order, those of a config among them."""

import inspect
from collections.abc import Mapping
from typing import Any

import torch

from bo_tune.core.problem import SizedProblem
from bo_tune.core.space import Config
from bo_tune.errors import InputError
from bo_tune.kernels.call import KernelCall
from bo_tune.kernels.spec import LAUNCH_OPTIONS
from bo_tune.kernels.user.kernel import Kernel


def call_of(kernel: Kernel, problem: SizedProblem, arguments: Mapping[str, Any], config: Config) -> KernelCall:
    """Put a call together: arguments by their places, and from the first that must have its name on, by their names.

    Triton takes launch options from what it is given by name, the kernel's parameters among it.

    Raises:
        InputError: a parameter has no value, or an argument is none of the kernel's.
    """
    own, params = kernel.parameters, kernel.decode(config)
    check_arguments(kernel, arguments)
    values = {**own, **arguments, **params}
    # A parameter that is named like a launch option and keeps its default sets none.
    silent = {name for name in LAUNCH_OPTIONS if name in own and name not in params and name not in arguments}
    names = list(own)
    first = min((names.index(name) for name in LAUNCH_OPTIONS if name in own and name not in silent), default=len(own))
    options = {name: value for name, value in params.items() if name in LAUNCH_OPTIONS and name not in own}
    by_name = {name: values[name] for name in names[first:] if name not in silent}
    positional = tuple(values[name] for name in names[:first])
    return KernelCall(kernel.function, kernel.programs(problem, params), positional, {**by_name, **options})


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
