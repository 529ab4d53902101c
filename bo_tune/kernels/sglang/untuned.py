"""The config that the installed SGLang runs without tuned files. SGLang's own function is asked.

SGLang ships files for some shapes and GPUs. If there are none for the installed Triton, those of other Triton releases
count.
"""

import json
import os
from functools import lru_cache
from importlib import metadata
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from bo_tune.core.problem import GpuInfo, Problem
from bo_tune.errors import one_line
from bo_tune.kernels.csgmv.spec import CSGMV_SPECS, CsgmvSpec
from bo_tune.kernels.csgmv.step import SHRINK, CsgmvStep
from bo_tune.kernels.plain_text import code_of
from bo_tune.kernels.sglang.installed import LOOKUP_FILE, file_of, refusal

LOOKUPS = {spec.name: f"get_lora_{spec.name.partition('_')[2]}_config" for spec in CSGMV_SPECS}
"""SGLang's lookup functions by kernel."""

NOT_UNDERSTOOD = (ArithmeticError, AttributeError, LookupError, NameError, OSError, TypeError, ValueError)
"""Errors that functions of another SGLang may raise here."""


def untuned_config(spec: CsgmvSpec, problem: Problem, gpu: GpuInfo) -> dict[str, int]:
    """Return the config with which an engine without tuned files launches a kernel.

    Raises:
        SglangError: the answer of the installed SGLang is not understood.
    """
    step = CsgmvStep.of(problem)
    default = spec.default_config(step.problem)
    try:
        function = _asked(file_of(LOOKUP_FILE), spec.name, gpu.name, triton_version() or "")
        found = function(K=step.wide, R=step.rank, num_slices=step.slices, chunk_size=step.chunk)
        return {name: int(found.get(name, value)) for name, value in default.items()}
    except NOT_UNDERSTOOD as error:
        reason = f"{type(error).__name__}: {one_line(error)}"
        raise refusal(
            f"bo_tune cannot find out from {LOOKUPS[spec.name]} what an engine without tuned files runs: {reason}"
        ) from error


def triton_version() -> str | None:
    """Return the version of the installed Triton; None if there is none."""
    try:
        return metadata.version("triton")
    except metadata.PackageNotFoundError:
        return None


@lru_cache(maxsize=16)
def _asked(file: Path, kernel: str, gpu_name: str, triton: str) -> Any:
    """Return SGLang's function, set up for a GPU and a Triton release. It ignores any folder set by the user."""
    quiet = SimpleNamespace(info=_ignore, warning=_ignore)
    rules = {
        f"DEFAULT_{'SHRINK' if spec.name == SHRINK else 'EXPAND'}_CONFIG": dict(spec.engine_default)
        for spec in CSGMV_SPECS
    }
    namespace: dict[str, Any] = {
        "__file__": str(file), "json": json, "logger": quiet, "_logged_configs": set(), **rules,
        "os": SimpleNamespace(environ={}, path=os.path, listdir=os.listdir),
        "triton": SimpleNamespace(__version__=triton), "get_device_name": lambda: gpu_name,
    }  # fmt: skip
    exec(code_of((file,), LOOKUPS[kernel]), namespace)
    return lru_cache(maxsize=2**10)(namespace[LOOKUPS[kernel]])


def _ignore(*_: Any, **__: Any) -> None:
    return
