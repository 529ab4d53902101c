"""Tells which vLLM is installed, and whether its LoRA kernels can be tuned. Imports neither torch nor vLLM."""

import importlib.util
import re
import sys
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path
from types import MappingProxyType

from bo_tune.core.surroundings import MOE
from bo_tune.errors import InputError

KERNELS_PACKAGE = "vllm.lora.ops.triton_ops"

LAUNCHERS: Mapping[str, tuple[str, str]] = MappingProxyType(
    {
        "lora_shrink": (f"{KERNELS_PACKAGE}.lora_shrink_op", "_lora_shrink"),
        "lora_expand": (f"{KERNELS_PACKAGE}.lora_expand_op", "_lora_expand"),
        **{
            f"{MOE}_{part}_{half}": (f"{KERNELS_PACKAGE}.fused_moe_lora_op", f"_{MOE}_{half}")
            for part in ("w13", "w2")
            for half in ("shrink", "expand")
        },
        **{f"{MOE}_{part}": (f"{KERNELS_PACKAGE}.fused_moe_lora_op", f"_run_{MOE}_one_shot") for part in ("w13", "w2")},
    }
)
"""Module and name of the function with which vLLM launches each kernel."""

NEEDED = ("lora_shrink", "lora_expand")
"""Kernels that every vLLM with LoRA has."""

_NO_VERSION = "dev"
"""vLLM's version if its build did not write one."""


class VllmError(InputError):
    """The installed vLLM's kernels cannot be tuned. The message names its version and the obstacle."""


def unavailable() -> str | None:
    """Say why the installed vLLM's kernels cannot be tuned, or None if no reason is known.

    Looks for files and imports nothing. Errors on import show only when ``operations.operation`` is called.
    """
    there = installed_kernels()
    if there is None:
        return "vLLM is not installed"
    missing = next((LAUNCHERS[name][0] for name in NEEDED if name not in there), None)
    return None if missing is None else f"{described()} has no module {missing}"


def installed_kernels() -> list[str] | None:
    """Return the kernels whose modules the installed vLLM has; None if vLLM is not installed. Imports nothing."""
    spec = importlib.util.find_spec("vllm")
    if spec is None or spec.submodule_search_locations is None:
        return None
    folders = [Path(folder) for folder in spec.submodule_search_locations]
    files = {module: Path(*module.split(".")[1:]).with_suffix(".py") for module, _ in LAUNCHERS.values()}
    there = {module for module, file in files.items() if any((folder / file).is_file() for folder in folders)}
    return [name for name, (module, _) in LAUNCHERS.items() if module in there]


def version() -> str | None:
    """Return the version of the imported vLLM, or else of the installed one; None if neither is known.

    The suffix that names a CUDA build is left out, because the kernels' text is the same.
    """
    text = getattr(sys.modules.get("vllm"), "__version__", None)
    if text is None:
        try:
            text = metadata.version("vllm")
        except metadata.PackageNotFoundError:
            return None
    return None if text == _NO_VERSION else re.sub(r"\+(cu|cpu|rocm)\w*$", "", text)


def described() -> str:
    """Name the installed vLLM in a message."""
    return f"vllm {version() or '(version unknown)'}"


def refusal(problem: str) -> VllmError:
    """Return the error for something that the installed vLLM lacks or does differently."""
    return VllmError(f"{described()}: {problem}; --kernels builtin tunes bo_tune's own kernels instead")
