"""The child process that compiles: ``python -m bo_tune.measure.compile_worker CAPABILITY FD``. Has no CUDA context."""

import sys
import time
from typing import Any

import triton
from triton.backends.compiler import GPUTarget
from triton.compiler.errors import CompilationError
from triton.runtime.errors import PTXASError

from bo_tune.errors import one_line
from bo_tune.kernels.operations import operation
from bo_tune.measure.device import Build, Compiled
from bo_tune.measure.messages import CompileRequest
from bo_tune.measure.offline_driver import activate
from bo_tune.measure.worker import serve
from bo_tune.outcome import Compilation, Invalid, InvalidReason, Resources

WARP_SIZE = 32

COMPILER_ERRORS = (CompilationError, PTXASError, RuntimeError, ValueError, AssertionError)
"""What Triton, its passes and ptxas raise for a config that cannot be compiled. Anything else ends the process,
which costs the trial all the same."""


class _CacheListener:
    """Learns from Triton whether the last compile was found in its cache."""

    cached = False

    def __call__(self, *, cache_hit: bool, **_: Any) -> None:
        self.cached = cache_hit


def compile_config(request: CompileRequest, listener: _CacheListener) -> Build:
    """Compile into Triton's cache, where the GPU process finds the binary."""
    listener.cached = True  # Triton says nothing of a kernel that this process has already compiled
    start = time.perf_counter()
    try:
        kernel = operation(request.problem.kernel).warmup(request.problem, request.config)
    except COMPILER_ERRORS as error:
        elapsed = Compilation(time.perf_counter() - start)
        detail = f"{type(error).__name__}: {one_line(error)}"
        return Invalid(InvalidReason.COMPILE_ERROR, detail, compilation=elapsed)
    compilation = Compilation(time.perf_counter() - start, listener.cached)
    return Compiled(compilation, Resources(shared_memory_bytes=kernel.metadata.shared))


def main() -> None:
    """Compile for one compute capability until the parent is gone."""
    capability, fd = map(int, sys.argv[1:])
    activate(GPUTarget("cuda", capability, WARP_SIZE))
    listener = _CacheListener()
    triton.knobs.compilation.listener = listener
    serve(fd, lambda request: compile_config(request, listener))


if __name__ == "__main__":
    main()
