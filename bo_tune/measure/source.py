"""The sources of the kernels' code.

A *kernel source* is a module with a function ``operation(name)`` that returns a kernel's ``Operation`` (the project's
own kernels, or those of an installed vLLM), or a user's module or script that holds ``Kernel`` objects. Worker
processes receive its name, or the script's path, and import it themselves. Only then are torch and triton loaded.
"""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, cast

from bo_tune.core.problem import GpuInfo, Problem
from bo_tune.kernels.csgmv.spec import CsgmvSpec
from bo_tune.kernels.sglang import untuned as sglang
from bo_tune.kernels.spec import AnySpec
from bo_tune.kernels.vllm.untuned import untuned_config
from bo_tune.processes.importing import import_source

if TYPE_CHECKING:
    from bo_tune.kernels.operation import Operation

BUILTIN = "bo_tune.kernels.operations"
"""The project's own kernels."""

VLLM = "bo_tune.kernels.vllm.operations"
"""The kernels of the installed vLLM."""

SGLANG = "bo_tune.kernels.sglang.operations"
"""The kernels of the installed SGLang."""


def default_config(source: str, spec: AnySpec, problem: Problem, gpu: GpuInfo) -> dict[str, int]:
    """Return the config that a source's kernel runs with if nothing was tuned. Raises VllmError, SglangError."""
    if source == SGLANG and isinstance(spec, CsgmvSpec):
        return sglang.untuned_config(spec, problem, gpu)
    return untuned_config(spec, problem, gpu) if source == VLLM else spec.default_config(problem)


def operations_of(source: str) -> "Callable[[str], Operation[Any, Any]]":
    """Return a function that finds the operations of a kernel source by name; see ``processes.importing``."""
    module = import_source(source)
    if hasattr(module, "operation"):
        return cast("Callable[[str], Operation[Any, Any]]", module.operation)
    # Imports torch and triton, as the sources above do.
    from bo_tune.kernels.user.operation import operations_in  # noqa: PLC0415

    return operations_in(module)
