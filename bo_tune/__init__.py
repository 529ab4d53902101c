"""Bayesian optimisation of Triton kernels.

``Kernel``, ``Operation``, ``tune`` and ``grid`` tune your own kernels (``docs/own-kernel.md``). The command line
``bo-tune`` tunes vLLM's LoRA kernels. Importing the package loads nothing else: a name is loaded when it is first used,
because the processes that compile and measure import the package too.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from bo_tune.api import Best, grid, tune
    from bo_tune.core.conclusion import StopRule
    from bo_tune.errors import InputError
    from bo_tune.kernels.autotuned.tuner import autotune
    from bo_tune.kernels.user.callable import Operation
    from bo_tune.kernels.user.check.tolerance import Tolerance
    from bo_tune.kernels.user.frozen import best, freeze
    from bo_tune.kernels.user.kernel import Kernel
    from bo_tune.recorded import tune_recorded

__all__ = [
    "Best",
    "InputError",
    "Kernel",
    "Operation",
    "StopRule",
    "Tolerance",
    "autotune",
    "best",
    "freeze",
    "grid",
    "tune",
    "tune_recorded",
]

_HOMES = {
    "Best": "bo_tune.api",
    "InputError": "bo_tune.errors",
    "Kernel": "bo_tune.kernels.user.kernel",
    "Operation": "bo_tune.kernels.user.callable",
    "StopRule": "bo_tune.core.conclusion",
    "Tolerance": "bo_tune.kernels.user.check.tolerance",
    "autotune": "bo_tune.kernels.autotuned.tuner",
    "best": "bo_tune.kernels.user.frozen",
    "freeze": "bo_tune.kernels.user.frozen",
    "grid": "bo_tune.api",
    "tune": "bo_tune.api",
    "tune_recorded": "bo_tune.recorded",
}


def __getattr__(name: str) -> object:
    if name == "__version__":
        return import_module("bo_tune.cli.version").program_version()
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
