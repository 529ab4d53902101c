"""The child process that compiles. Uses no GPU."""

import base64
import json
import os
import time
from typing import Any

import numpy as np
import triton
from triton.compiler.errors import CompilationError
from triton.runtime.cache import triton_key

from bo_tune.core.outcome import Compilation, Invalid, InvalidReason
from bo_tune.core.problem import GpuInfo
from bo_tune.errors import InputError, one_line
from bo_tune.measure.backends.base import CompilerSide, compiler_side
from bo_tune.measure.compile.facts import binary_name
from bo_tune.measure.compile.identity import kernel_text, toolchain
from bo_tune.measure.compile.offline_driver import activate
from bo_tune.measure.device import Build, Compiled
from bo_tune.measure.messages import (
    CompileRequest,
    DecidedByRequest,
    FactsAnswer,
    FactsRequest,
    IdentityAnswer,
    IdentityRequest,
    NoteRequest,
    Refused,
    SourceRequest,
)
from bo_tune.measure.source import operations_of
from bo_tune.processes.worker import serve

NICENESS = 10
"""Compilers give way to the GPU process, whose launches are timed, and to the tuner, which feeds it."""

COMPILER_ERRORS = (CompilationError, RuntimeError, ValueError, AssertionError)
"""What Triton and its passes raise for a config that cannot be compiled, besides what the vendor's assembler raises.
Anything else ends the process, which costs the trial all the same."""


LONGEST_CAUSE = 400
"""Characters of what is told of a compile that failed: an assembler may say a lot."""


class Compiler:
    """Compiles the kernels of one source into Triton's cache, where the GPU process finds the binaries.

    Args:
        source: the kernel source, see ``measure.source``.
        vendor: for whose GPUs.
    """

    def __init__(self, source: str, vendor: CompilerSide) -> None:
        self._operation, self._vendor = operations_of(source), vendor
        self._cached = True
        self._launchers = True
        triton.knobs.compilation.listener = self._listen

    def _listen(self, *, cache_hit: bool, **_: Any) -> None:
        """Learn from Triton whether the last compile was found in its cache."""
        self._cached = cache_hit

    def answer(self, request: object) -> object:
        """Answer one request of any kind."""
        match request:
            case CompileRequest():
                return self._compile(request)
            case FactsRequest() | SourceRequest() | IdentityRequest() | NoteRequest() | DecidedByRequest():
                return self._tell(request)
            case _:
                raise TypeError(f"not a request: {request!r}")

    def _tell(
        self, request: FactsRequest | SourceRequest | IdentityRequest | NoteRequest | DecidedByRequest
    ) -> FactsAnswer | str | IdentityAnswer | Refused | tuple[str, ...] | None:
        try:
            if isinstance(request, SourceRequest):
                return self._operation(request.kernel).source
            if isinstance(request, NoteRequest):
                return self._operation(request.problem.kernel).note(request.problem, request.gpu)
            if isinstance(request, DecidedByRequest):
                return self._operation(request.problem.kernel).decided_by(request.problem, request.gpu)
            if isinstance(request, IdentityRequest):
                texts = {name: kernel_text(self._operation(name), *asked) for name, asked in request.examples.items()}
                return IdentityAnswer(toolchain(self._vendor, triton.runtime.driver.active.get_current_target()), texts)
            kernel, problem, gpu = self._operation(request.problem.kernel), request.problem, request.gpu
            configs = request.configs
            runs = [kernel.effective_config(problem, config, gpu) for config in configs]
            names = tuple(sorted(runs[0]))
            rows = [[found[name] for name in names] for found in runs] if runs != configs else []
            return FactsAnswer(
                names,
                np.array(rows, dtype=np.int64).tobytes(),
                b"".join(binary_name(kernel.compile_key(problem, config, gpu)) for config in configs),
            )
        except InputError as error:  # of an installed vLLM, say, that is not as it should be
            return Refused(one_line(error))

    def _compile(self, request: CompileRequest) -> Build:
        """Compile one config."""
        self._cached = True  # Triton says nothing of a kernel that this process has already compiled
        start = time.perf_counter()
        try:
            kernel = self._operation(request.problem.kernel).warmup(request.problem, request.config)
        except (*COMPILER_ERRORS, *self._vendor.errors) as error:
            elapsed = Compilation(time.perf_counter() - start)
            return Invalid(InvalidReason.COMPILE_ERROR, cause_of(error), compilation=elapsed)
        compilation = Compilation(time.perf_counter() - start, self._cached)
        self._build_launcher(kernel)
        return Compiled(compilation, self._vendor.resources(kernel), entry_of(kernel.hash))

    def _build_launcher(self, kernel: Any) -> None:
        """Build the launcher of a kernel, too. Without a GPU driver to link with none can be built; nothing is lost."""
        if self._launchers:
            try:
                self._vendor.build_launcher(kernel)
            except Exception:  # noqa: BLE001 - of Triton's inner workings, which differ from version to version
                self._launchers = False


def cause_of(error: BaseException) -> str:
    """Return in one line why a compile failed: in the kernel's own text the place, its line and the cause."""
    while isinstance(error.__cause__, CompilationError):
        error = error.__cause__  # of a function that the kernel calls, which has the cause
    told = str(error)
    if isinstance(error, CompilationError):
        told = error.error_message or str(error.__cause__ or "")
        number, lines = getattr(error.node, "lineno", None), (error.src or "").split("\n")
        if number is not None and number <= len(lines):
            told = f"at {number}:{error.node.col_offset}: {lines[number - 1].strip()}: {told}"
    text = " ".join(f"{type(error).__name__}: {told}".split()).removesuffix(":")
    return text if len(text) <= LONGEST_CAUSE else f"{text[: LONGEST_CAUSE - 1]}…"


def entry_of(digest: str) -> str:
    """Return the name that Triton gives to a folder of its cache: a digest in base 32."""
    return base64.b32encode(bytes.fromhex(digest)).decode().rstrip("=")


def before_forking() -> None:
    """Have Triton hash itself, as it does before the first compile of each process: some tenths of a second of reading
    and hashing, for each child at the same time."""
    triton_key()


def main(arguments: list[str], fd: int) -> None:
    """Compile for one GPU the kernels of one source until the parent is gone.

    Args:
        arguments: the GPU (``GpuInfo``) in JSON, the kernel source, and the vendor's module (``Backend.children``).
        fd: where the parent is.
    """
    description, source, children = arguments
    gpu, vendor = GpuInfo.from_json(json.loads(description)), compiler_side(children)
    os.nice(NICENESS)
    activate(vendor.target(gpu), gpu)
    serve(fd, Compiler(source, vendor).answer)
