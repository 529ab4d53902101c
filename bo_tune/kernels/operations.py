"""The project's own kernels by name. Imports torch and triton; ``registry`` needs neither."""

from collections.abc import Callable, Mapping
from functools import cache, partial
from typing import Any

from bo_tune.errors import InputError
from bo_tune.kernels.lora.expand import LoraExpand
from bo_tune.kernels.lora.shrink import LoraShrink
from bo_tune.kernels.moe.op import OwnMoeOperation
from bo_tune.kernels.moe.spec import MOE_SPECS
from bo_tune.kernels.operation import Operation
from bo_tune.kernels.registry import kernel_spec

_OPERATIONS: Mapping[str, Callable[[], Operation[Any, Any]]] = {
    "lora_shrink": LoraShrink,
    "lora_expand": LoraExpand,
    **{spec.name: partial(OwnMoeOperation, spec) for spec in MOE_SPECS},
}


@cache
def operation(name: str) -> Operation[Any, Any]:
    """Return the operation of one of the project's own kernels.

    Raises:
        InputError: the name is unknown, or only an engine has the kernel.
    """
    kernel_spec(name)
    if name not in _OPERATIONS:
        raise InputError(f"bo_tune has no {name} of its own, only {', '.join(_OPERATIONS)}")
    return _OPERATIONS[name]()
