"""Tests in a process of its own whether torch and Triton can be imported, and a kernel compiled and launched.

It prints lines of JSON: ``torch`` and ``triton`` (versions), ``torch_fault`` and ``triton_fault`` (why one cannot be
imported). It then waits for a line on stdin. On ``go`` it opens the GPU, which nobody should be watching yet.
``refusal`` says why the GPU cannot be used for tuning, ``gpu`` describes it, ``assembler`` is the release of its
assembler. ``launched`` says whether a kernel's result was right, after ``seconds``, and ``launch_fault`` what went
wrong.
"""

import json
import sys
import time
from importlib import import_module
from typing import Any

from bo_tune.errors import one_line
from bo_tune.measure.backends.base import compiler_side, gpu_side
from bo_tune.measure.backends.registry import backend_named

GO = "go"


def main() -> None:
    """Print each answer as it is found. The arguments are the backend and the GPU's number."""
    children, index = backend_named(sys.argv[1]).children, int(sys.argv[2])
    if not all([_imported("torch"), _imported("triton")]):
        return
    if sys.stdin.readline().strip() != GO:
        return
    try:
        _examine(children, index)
    except Exception as error:  # noqa: BLE001 - whatever torch, Triton and the driver raise is the answer
        _tell(launch_fault=f"{type(error).__name__}: {one_line(error)}")


def _imported(package: str) -> bool:
    try:
        _tell(**{package: getattr(import_module(package), "__version__", "unknown")})
    except Exception as error:  # noqa: BLE001 - a broken installation may raise anything
        _tell(**{f"{package}_fault": f"{type(error).__name__}: {one_line(error)}"})
        return False
    return True


def _examine(children: str, index: int) -> None:
    kind = gpu_side(children)
    refusal = kind.refusal(index)
    _tell(refusal=refusal)
    if refusal is not None:
        return
    side, compiler = kind(index), compiler_side(children)
    gpu = side.info()
    _tell(gpu={"name": gpu.name, "target": gpu.target, "free_bytes": side.free_bytes()})
    _tell(assembler=compiler.assembler_version(compiler.target(gpu)))
    before = time.perf_counter()
    right = import_module("bo_tune.measure.examined.trial_kernel").is_right(side.device)
    side.synchronize()
    _tell(launched=right, seconds=round(time.perf_counter() - before, 3))


def _tell(**found: Any) -> None:
    sys.stdout.write(json.dumps(found) + "\n")
    sys.stdout.flush()
