"""The kernels' operations by name. Imports torch and triton; ``registry`` holds what needs neither."""

from functools import cache
from typing import Any

from bo_tune.errors import InputError
from bo_tune.kernels.lora.expand.op import LoraExpand
from bo_tune.kernels.lora.shrink.op import LoraShrink
from bo_tune.kernels.moe.op import MOE_OPERATIONS
from bo_tune.kernels.operation import Operation
from bo_tune.kernels.registry import kernel_spec

_OPERATIONS: dict[str, type[Operation[Any, Any]]] = {
    operation.name: operation for operation in (LoraShrink, LoraExpand, *MOE_OPERATIONS)
}


@cache
def operation(name: str) -> Operation[Any, Any]:
    """Return how a kernel is compiled and launched.

    Raises:
        InputError: for an unknown name, or that of a kernel that only an engine has.
    """
    kernel_spec(name)
    if name not in _OPERATIONS:
        raise InputError(f"the project has no {name} of its own, only {', '.join(_OPERATIONS)}")
    return _OPERATIONS[name]()
