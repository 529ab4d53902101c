"""Finds out what Triton's cache keys depend on here, by asking Triton. No code is copied from it."""

import hashlib
import platform
from typing import Any

import triton
from triton._C.libtriton import get_cache_invalidating_env_vars
from triton.backends.compiler import GPUTarget
from triton.runtime.cache import triton_key

from bo_tune.core.problem import Problem
from bo_tune.core.space import Config
from bo_tune.formats.pack.identity import KernelText, Toolchain
from bo_tune.kernels.operation import Operation
from bo_tune.measure.backends.base import CompilerSide

DIGITS = 16
"""Hexadecimal digits that are kept of a digest, since people read them."""


def toolchain(vendor: CompilerSide, target: GPUTarget) -> Toolchain:
    """Return the toolchain that compiles for this target of a vendor here."""
    version = vendor.assembler_version(target)
    release = version.strip().splitlines()[-1].strip()
    return Toolchain(
        triton=triton.__version__,
        triton_build=_digest(triton_key()),
        ptxas=f"{release} ({_digest(version)})",
        python=f"{platform.python_implementation()} {'.'.join(platform.python_version_tuple()[:2])}",
        environment=dict(get_cache_invalidating_env_vars()),
    )


def versions() -> dict[str, str]:
    """Return the versions of torch and Triton.

    They are plain text. Torch's own version is an object of a class of torch, so unpickling it would import torch.
    """
    import torch  # noqa: PLC0415 - compiling ahead of a GPU does not need it

    return {"torch": str(torch.__version__), "triton": triton.__version__}


def kernel_text(operation: Operation[Any, Any], problem: Problem, config: Config) -> KernelText:
    """Return which text an operation compiles, by observing what it asks Triton for. Nothing is compiled."""
    digests: list[str] = []

    def note(*, fn: Any, **_: Any) -> bool:
        digests.append(fn.jit_function.cache_key)
        return True  # so that Triton does not go on to compile

    before = triton.knobs.runtime.jit_cache_hook
    triton.knobs.runtime.jit_cache_hook = note
    try:
        compiled = operation.compile(problem, config)
    finally:
        triton.knobs.runtime.jit_cache_hook = before
    digest = digests[0] if digests else compiled[0].src.fn.cache_key  # no hook is called for what was compiled before
    return KernelText(operation.source, digest)


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:DIGITS]
