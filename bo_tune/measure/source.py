"""Where the code of the kernels comes from.

A *kernel source* is a module with a function ``operation(name)`` that returns a kernel's ``Operation``: the project's
own kernels, those of an installed vLLM, a user's. Worker processes are told its name and import it themselves; only
then are torch and triton loaded.
"""

from collections.abc import Callable
from importlib import import_module
from typing import TYPE_CHECKING, Any, cast

if TYPE_CHECKING:
    from bo_tune.kernels.operation import Operation

BUILTIN = "bo_tune.kernels.operations"
"""The project's own kernels."""

VLLM = "bo_tune.kernels.vllm.operations"
"""Those of the installed vLLM."""


def operations_of(source: str) -> "Callable[[str], Operation[Any]]":
    """Return the function ``operation`` of a kernel source, by the name of its module."""
    return cast("Callable[[str], Operation[Any]]", import_module(source).operation)
