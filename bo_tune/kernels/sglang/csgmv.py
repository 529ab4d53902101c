"""SGLang's chunked LoRA kernels, launched as SGLang launches them.

Only their text is run (``plain_text``), without SGLang's cache of binaries, whose keys leave out some tuned parameters.
SGLang's Python launchers are asked what they launch. Shrink is launched in one piece, as SGLang does unless it is told
to split the product (``SGLANG_ENABLE_LORA_CSGMV_SPLIT_K``).
"""

import hashlib
import threading
from collections.abc import Callable
from functools import lru_cache, partial
from types import SimpleNamespace
from typing import Any, Optional

import torch
import triton
import triton.language as tl

from bo_tune.core.problem import GpuInfo, SizedProblem
from bo_tune.core.space import Config, ConfigKey, config_key
from bo_tune.errors import one_line
from bo_tune.kernels.call import KernelCall
from bo_tune.kernels.csgmv.inputs import CsgmvInputs, CsgmvOperation
from bo_tune.kernels.csgmv.spec import NO_LIMIT
from bo_tune.kernels.csgmv.step import EXPAND, SHRINK, CsgmvStep
from bo_tune.kernels.plain_text import code_of
from bo_tune.kernels.sglang.installed import EXPAND_FILE, SHRINK_FILE, SglangError, file_of, refusal, version

LAUNCHERS = {
    SHRINK: (SHRINK_FILE, "chunked_sgmv_lora_shrink_forward", "_chunked_lora_shrink_kernel", "get_lora_shrink_config"),
    EXPAND: (EXPAND_FILE, "chunked_sgmv_lora_expand_forward", "_chunked_lora_expand_kernel", "get_lora_expand_config"),
}
"""File, launcher, kernel and lookup function of each kernel."""

REGISTERS = "maxnreg"

NOT_UNDERSTOOD = (ArithmeticError, AssertionError, AttributeError, LookupError, NameError, TypeError, ValueError)
"""Errors that the launcher of another SGLang may raise here."""


class CsgmvLauncher:
    """Finds out what SGLang launches for a product. Safe to use from several threads.

    Raises:
        SglangError: the installed SGLang has no such kernel and launcher.
    """

    def __init__(self, kernel: str) -> None:
        name, self._launcher, jit, lookup = LAUNCHERS[kernel]
        file = file_of(name)
        self.digest = hashlib.sha256(file.read_bytes()).hexdigest()[:10]
        self._config: Config = {}
        self._asked: list[dict[str, Any]] = []
        self._calls: list[KernelCall] = []
        self._lock = threading.Lock()
        namespace: dict[str, Any] = {"__name__": f"sglang.{name[:-3].replace('/', '.')}", **_GIVEN}
        try:
            exec(code_of((file,), self._launcher, is_plain=False), namespace)
            self._function, launched = namespace[self._launcher], namespace[jit]
        except NOT_UNDERSTOOD as error:
            raise self._failure(error) from error
        namespace |= {jit: _Noted(launched, self._note), lookup: self._look_up}

    def capture(self, arguments: dict[str, Any], config: Config, key: dict[str, int]) -> KernelCall:
        """Run the launcher and return what it would have launched.

        Args:
            config: names as in SGLang's files. Triton decides on missing parameters.
            key: the key under which the launcher must look up its config.

        Raises:
            SglangError: the launcher does anything else than look up one config and launch one kernel.
        """
        with self._lock:
            self._calls.clear()
            self._asked.clear()
            self._config = config
            try:
                self._function(**arguments)
            except NOT_UNDERSTOOD as error:
                raise self._failure(error) from error
            if self._asked != [key]:
                raise refusal(f"{self._launcher} looks its config up under {self._asked}, instead of once under {key}")
            if len(self._calls) != 1:
                raise refusal(f"{self._launcher} launches {len(self._calls)} kernels instead of one")
            return self._calls[0]

    def _look_up(self, **key: Any) -> dict[str, int]:
        self._asked.append(key)
        return dict(self._config)

    def _note(self, kernel: Any, grid: Any, *arguments: Any, **options: Any) -> None:
        self._calls.append(KernelCall(kernel, tuple(map(int, grid)), arguments, options))

    def _failure(self, error: Exception) -> SglangError:
        return refusal(f"{self._launcher} cannot be used: {type(error).__name__}: {one_line(error)}")


class _Noted:
    """Stands in for a kernel and passes on the arguments of its launch."""

    def __init__(self, kernel: Any, note: Callable[..., None]) -> None:
        self._kernel, self._note = kernel, note

    def __getitem__(self, grid: Any) -> Callable[..., None]:
        return partial(self._note, self._kernel, grid)


def _uncached(_: Any) -> Callable[[Any], Any]:
    """Stands in for SGLang's decorator of kernels, and leaves them unchanged."""
    return lambda kernel: kernel


_OFF = SimpleNamespace(get=lambda: False)

_GIVEN: dict[str, Any] = {
    "torch": torch, "triton": triton, "tl": tl, "Optional": Optional, "LoRABatchInfo": Any,
    "cached_triton_kernel": _uncached,
    "envs": SimpleNamespace(SGLANG_ENABLE_LORA_CSGMV_SPLIT_K=_OFF, SGLANG_ENABLE_DETERMINISTIC_INFERENCE=_OFF),
}  # fmt: skip
"""Names that the text takes from its modules' imports."""


class SglangCsgmv(CsgmvOperation):
    """One of SGLang's kernels. Raises SglangError if the installed SGLang has no form of it that is known here."""

    def __init__(self, kernel: str) -> None:
        self._launcher = CsgmvLauncher(kernel)
        self._cached_facts = lru_cache(maxsize=2**16)(self._facts)

    @property
    def source(self) -> str:
        """``sglang`` and its version, or a digest of its text if the version is unknown."""
        return f"sglang {version() or self._launcher.digest}"

    def call(self, inputs: CsgmvInputs, config: Config, gpu: GpuInfo | None = None) -> KernelCall:
        step = CsgmvStep.of(inputs.problem)
        key = {"K": step.wide, "R": step.rank, "num_slices": step.slices, "chunk_size": step.chunk}
        given = {name: value for name, value in config.items() if (name, value) != (REGISTERS, NO_LIMIT)}
        arguments = _expanding(inputs) if step.kernel == EXPAND else _shrinking(inputs)
        call = self._launcher.capture(arguments, given, key)
        # Shrink allocates a new output each time. That is not timed.
        return KernelCall(call.kernel, call.grid, call.arguments, {**call.options, "output": inputs.out})

    def effective_config(self, problem: SizedProblem, config: Config, gpu: GpuInfo) -> dict[str, int]:
        return dict(self._cached_facts(problem, config_key(config), gpu))

    def _facts(self, problem: SizedProblem, config: ConfigKey, gpu: GpuInfo) -> ConfigKey:
        """Ask SGLang's launcher for the effective config."""
        call = self.call(self.stand_ins(problem), dict(config), gpu)
        given = {REGISTERS: NO_LIMIT, **call.parameters, **call.options}
        return tuple((name, int(given[name])) for name, _ in config)


def _shrinking(inputs: CsgmvInputs) -> dict[str, Any]:
    """Return the arguments that a layer passes to the launcher of shrink, by name."""
    slices = CsgmvStep.of(inputs.problem).slices
    return {"x": inputs.x, "weights": inputs.weights, "batch_info": inputs.batch, "num_slices": slices}


def _expanding(inputs: CsgmvInputs) -> dict[str, Any]:
    """Return the arguments that a layer passes to the launcher of expand, by name."""
    return {
        "x": inputs.x,
        "weights": inputs.weights,
        "batch_info": inputs.batch,
        "slice_offsets": inputs.offsets,
        "max_slice_size": max(CsgmvStep.of(inputs.problem).widths),
        "base_output": inputs.out,
        "slice_offsets_cpu": inputs.offsets_known,
    }
