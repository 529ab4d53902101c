"""The child process that compiles. Has no CUDA context."""

import time
from typing import Any

import triton
from triton.backends.compiler import GPUTarget
from triton.compiler.errors import CompilationError
from triton.runtime.errors import PTXASError

from bo_tune.errors import one_line
from bo_tune.measure.cubin import resources_of
from bo_tune.measure.device import Build, Compiled
from bo_tune.measure.messages import CompileRequest
from bo_tune.measure.offline_driver import activate
from bo_tune.measure.source import operations_of
from bo_tune.outcome import Compilation, Invalid, InvalidReason
from bo_tune.processes.worker import serve

WARP_SIZE = 32

COMPILER_ERRORS = (CompilationError, PTXASError, RuntimeError, ValueError, AssertionError)
"""What Triton, its passes and ptxas raise for a config that cannot be compiled. Anything else ends the process,
which costs the trial all the same."""


class Compiler:
    """Compiles the kernels of one source into Triton's cache, where the GPU process finds the binaries."""

    def __init__(self, source: str) -> None:
        self._operation = operations_of(source)
        self._cached = True
        triton.knobs.compilation.listener = self._listen

    def _listen(self, *, cache_hit: bool, **_: Any) -> None:
        """Learn from Triton whether the last compile was found in its cache."""
        self._cached = cache_hit

    def answer(self, request: CompileRequest) -> Build:
        """Compile one config."""
        self._cached = True  # Triton says nothing of a kernel that this process has already compiled
        start = time.perf_counter()
        try:
            kernel = self._operation(request.problem.kernel).warmup(request.problem, request.config)
        except COMPILER_ERRORS as error:
            elapsed = Compilation(time.perf_counter() - start)
            detail = f"{type(error).__name__}: {one_line(error)}"
            return Invalid(InvalidReason.COMPILE_ERROR, detail, compilation=elapsed)
        compilation = Compilation(time.perf_counter() - start, self._cached)
        return Compiled(compilation, resources_of(kernel.asm["cubin"], kernel.metadata.shared))


def main(arguments: list[str], fd: int) -> None:
    """Compile for one compute capability (``90``) the kernels of one source until the parent is gone."""
    capability, source = arguments
    activate(GPUTarget("cuda", int(capability), WARP_SIZE))
    serve(fd, Compiler(source).answer)
