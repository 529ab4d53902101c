"""The child process that compiles. It uses no GPU."""

import base64
import json
import os
import time
from collections.abc import Sequence
from types import MappingProxyType
from typing import Any

import numpy as np
import triton
from triton.compiler.errors import CompilationError

from bo_tune.core.outcome import Compilation, Invalid, InvalidReason, Resources
from bo_tune.core.problem import GpuInfo, Problem
from bo_tune.core.space import Config
from bo_tune.errors import InputError, one_line
from bo_tune.formats.pack.identity import Identity
from bo_tune.measure.backends.base import CompilerSide, compiler_side
from bo_tune.measure.compile.compilers import Examples, Facts, Refused, binary_name
from bo_tune.measure.compile.identity import kernel_text, toolchain, versions
from bo_tune.measure.compile.offline_driver import activate
from bo_tune.measure.device import Build, Compiled
from bo_tune.measure.source import operations_of
from bo_tune.processes.worker import Call, called, serve

NICENESS = 10
"""Compilers give way to the GPU process, whose launches are timed, and to the tuner, which feeds it."""

COMPILER_ERRORS = (CompilationError, RuntimeError, ValueError, AssertionError)
"""What Triton and its passes raise for a config that cannot be compiled, in addition to the errors of the vendor's
assembler. Anything else ends the process, which also costs just the trial."""

LONGEST_CAUSE = 400
"""Characters that are kept of a compile's error, since an assembler may print a lot."""


class Compiler:
    """Compiles the kernels of one source into Triton's cache, where the GPU process finds the binaries.

    Args:
        source: the kernel source, see ``measure.source``.
        gpu: the GPU to compile for, which need not be here.
        vendor: the GPU's vendor.
    """

    def __init__(self, source: str, gpu: GpuInfo, vendor: CompilerSide) -> None:
        self._source, self._gpu, self._vendor = source, gpu, vendor
        self._operation = operations_of(source)
        self._cached = True
        self._launchers = True
        triton.knobs.compilation.listener = self._listen

    def _listen(self, *, cache_hit: bool, **_: Any) -> None:
        """Learn from Triton whether its cache had a compile. A config counts as cached if all its kernels were."""
        self._cached &= cache_hit

    def answer(self, call: Call) -> object:
        """Call a method. A refusal by the kernel source is an answer too, except for a compile, which it ends."""
        try:
            return called(self, call)
        except InputError as error:  # for example, an unsuitable installed vLLM
            if call[0] == "compile":
                raise
            return Refused(one_line(error))

    def source(self, kernel: str) -> str:
        """Return which code of a kernel is compiled."""
        return self._operation(kernel).source

    def note(self, problem: Problem) -> str | None:
        """Return what the user should know about tuning a problem's kernel."""
        return self._operation(problem.kernel).note(problem, self._gpu)

    def decided_by(self, problem: Problem) -> tuple[str, ...]:
        """Name the kernels that decide for a problem's kernel."""
        return self._operation(problem.kernel).decided_by(problem, self._gpu)

    def versions(self) -> dict[str, str]:
        """Return the versions of torch and Triton."""
        return versions()

    def identity(self, examples: Examples = MappingProxyType({})) -> Identity:
        """Return what binaries depend on, besides problem and config."""
        texts = {name: kernel_text(self._operation(name), *asked) for name, asked in examples.items()}
        tools = toolchain(self._vendor, triton.runtime.driver.active.get_current_target())
        return Identity(tools, self._gpu.target, self._source, texts)

    def facts(self, problem: Problem, names: Sequence[str], rows: Sequence[Sequence[int]]) -> Facts:
        """Return what a kernel makes of configs. ``rows`` holds their values, in the order of ``names``."""
        kernel, configs = self._operation(problem.kernel), [dict(zip(names, row, strict=True)) for row in rows]
        runs = [kernel.effective_config(problem, config, self._gpu) for config in configs]
        ran = tuple(sorted(runs[0]))
        values = [[found[name] for name in ran] for found in runs] if runs != configs else []
        keys = (kernel.compile_key(problem, config, self._gpu) for config in configs)
        return Facts(ran, np.array(values, dtype=np.int64).tobytes(), b"".join(map(binary_name, keys)))

    def compile(self, problem: Problem, config: Config) -> Build:
        """Compile one config."""
        self._cached = True  # Triton reports nothing for a kernel that this process has compiled before
        start = time.perf_counter()
        try:
            kernels = self._operation(problem.kernel).compile(problem, config)
        except (*COMPILER_ERRORS, *self._vendor.errors) as error:
            elapsed = Compilation(time.perf_counter() - start)
            return Invalid(InvalidReason.COMPILE_ERROR, cause_of(error), compilation=elapsed)
        compilation = Compilation(time.perf_counter() - start, self._cached)
        for kernel in kernels:
            self._build_launcher(kernel)
        first, *more = dict.fromkeys(entry_of(kernel.hash) for kernel in kernels) or (None,)
        return Compiled(
            compilation, Resources.most(map(self._vendor.resources, kernels)), first, tuple(filter(None, more))
        )

    def _build_launcher(self, kernel: Any) -> None:
        """Build a kernel's launcher, too. That fails if there is no GPU driver to link with, which does no harm."""
        if self._launchers:
            try:
                self._vendor.build_launcher(kernel)
            except Exception:  # noqa: BLE001 - from Triton's internals, which differ between versions
                self._launchers = False


def cause_of(error: BaseException) -> str:
    """Return in one line why a compile failed. For errors in the kernel's text, give place, line and cause."""
    while isinstance(error.__cause__, CompilationError):
        error = error.__cause__  # the error in a function that the kernel calls has the cause
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


def main(arguments: list[str], fd: int) -> None:
    """Compile the kernels of one source for one GPU until the parent is gone.

    Args:
        arguments: the GPU (``GpuInfo``) in JSON, the kernel source, and the vendor's module (``Backend.children``).
        fd: connection to the parent.
    """
    description, source, children = arguments
    gpu, vendor = GpuInfo.from_json(json.loads(description)), compiler_side(children)
    os.nice(NICENESS)
    activate(vendor.target(gpu), gpu)
    serve(fd, Compiler(source, gpu, vendor).answer)
