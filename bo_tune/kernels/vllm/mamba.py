"""vLLM's kernel of a Mamba-2 layer's decode step, launched as vLLM launches it.

Only its text is run (``plain_text``). As for the other kernels, its Python launcher is asked what it launches.
"""

import functools
import hashlib
import json
import os
import threading
from functools import lru_cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
import triton
import triton.language as tl

from bo_tune.core.problem import GpuInfo, SizedProblem
from bo_tune.core.space import Config, ConfigKey, config_key
from bo_tune.errors import one_line
from bo_tune.kernels.mamba.inputs import MambaInputs, MambaOperation
from bo_tune.kernels.mamba.step import KERNEL, MambaStep
from bo_tune.kernels.plain_text import code_of, files_of
from bo_tune.kernels.target import target_gpu
from bo_tune.kernels.vllm.installed import VllmError, refusal, version
from bo_tune.kernels.vllm.kernel_call import CapturedCall
from bo_tune.kernels.vllm.launcher import Recorder, import_module
from bo_tune.kernels.vllm.untuned import is_blackwell

MODULES = ("model_executor/layers/mamba/ops/mamba_ssm.py", "model_executor/layers/mamba/ops/triton_helpers.py")
"""Files that define the launcher and its helpers. The first has the launcher and the kernel."""

LAUNCHER = "selective_state_update"
LOOKUP = "try_get_optimal_ssm_config"
JIT_KERNEL = "_selective_scan_update_kernel"

NULL_BLOCK = 0
"""The block of states that means none."""

NOT_UNDERSTOOD = (ArithmeticError, AssertionError, AttributeError, LookupError, NameError, TypeError, ValueError)
"""Errors that the launcher of another vLLM may raise here."""


class MambaLauncher:
    """Finds out what vLLM launches for a step. Safe to use from several threads.

    Raises:
        VllmError: the installed vLLM has no such kernel and launcher.
    """

    def __init__(self) -> None:
        import_module("vllm")  # which knows its version
        found = files_of(MODULES)
        files = tuple(filter(None, found))
        if found[0] is None:
            raise refusal(f"it has no {MODULES[0]}, where {KERNEL} should be")
        self.digest = hashlib.sha256(b"".join(file.read_bytes() for file in files)).hexdigest()[:10]
        self._config: Config = {}
        self._asked: list[tuple[Any, ...]] = []
        self._calls: list[CapturedCall] = []
        self._lock = threading.Lock()
        namespace = _namespace(files)
        try:
            self._function, kernel, _ = namespace[LAUNCHER], namespace[JIT_KERNEL], namespace[LOOKUP]
        except KeyError as error:
            raise refusal(f"{MODULES[0]} has no {error.args[0]}") from None
        namespace |= {JIT_KERNEL: Recorder(kernel, self._note), LOOKUP: self._look_up}

    def capture(self, arguments: dict[str, Any], config: Config, key: tuple[Any, ...]) -> CapturedCall:
        """Run the launcher and return what it would have launched.

        Args:
            key: the key under which the launcher must look up its config: the arguments of vLLM's lookup.

        Raises:
            VllmError: the launcher does anything else than look up one config and launch one kernel.
        """
        with self._lock:
            self._calls.clear()
            self._asked.clear()
            self._config = config
            try:
                self._function(**arguments)
            except NOT_UNDERSTOOD as error:
                raise _failure(error) from error
            if self._asked != [key]:
                raise refusal(f"{LAUNCHER} looks its config up under {self._asked}, instead of once under {key}")
            if len(self._calls) != 1:
                raise refusal(f"{LAUNCHER} launches {len(self._calls)} kernels instead of one")
            return self._calls[0]

    def _look_up(self, *key: Any) -> tuple[int, int]:
        self._asked.append(key)
        return self._config["BLOCK_SIZE_M"], self._config["num_warps"]

    def _note(self, kernel: Any, grid: Any, *arguments: Any, **options: Any) -> None:
        named = {**dict(zip(kernel.arg_names, arguments, strict=False)), **options}
        programs = tuple(map(int, grid(named) if callable(grid) else grid))
        self._calls.append(CapturedCall(kernel, programs, arguments, options, {}))


class VllmMamba(MambaOperation):
    """vLLM's kernel. Raises VllmError if the installed vLLM has no form of it that is known here."""

    def __init__(self) -> None:
        self._launcher = MambaLauncher()
        self._cached_facts = lru_cache(maxsize=2**14)(self._facts)

    @property
    def source(self) -> str:
        """``vllm`` and its version, or a digest of its text if the version is unknown."""
        return f"vllm {version() or self._launcher.digest}"

    def call(self, inputs: MambaInputs, config: Config, gpu: GpuInfo | None = None) -> CapturedCall:
        step, blackwell = MambaStep.of(inputs.problem), is_blackwell(gpu or target_gpu())
        key = (step.headdim, step.dstate, step.sequences, step.heads, step.state_dtype, blackwell)
        return self._launcher.capture(_arguments(inputs, blackwell=blackwell), config, key)

    def effective_config(self, problem: SizedProblem, config: Config, gpu: GpuInfo) -> dict[str, int]:
        return dict(self._cached_facts(problem, config_key(config), gpu))

    def _facts(self, problem: SizedProblem, config: ConfigKey, gpu: GpuInfo) -> ConfigKey:
        """Ask vLLM's launcher for the effective config."""
        call = self.call(self.stand_ins(problem), dict(config), gpu)
        given = {**call.parameters, **call.options}
        return tuple((name, int(given[name])) for name, _ in config)


def _arguments(inputs: MambaInputs, *, blackwell: bool) -> dict[str, Any]:
    """Return the arguments that a layer passes to the launcher in a step that drafts no tokens, by name."""
    step, (x, b, c) = MambaStep.of(inputs.problem), inputs.parts()
    width, size = step.headdim, step.dstate
    return {
        "state": inputs.states,
        "x": x,
        "dt": inputs.steps[:, :, None].expand(-1, -1, width),
        "A": inputs.decay[:, None, None].expand(-1, width, size),
        "B": b,
        "C": c,
        "D": inputs.skip[:, None].expand(-1, width),
        "dt_bias": inputs.bias[:, None].expand(-1, width),
        "dt_softplus": True,
        "state_batch_indices": inputs.places,
        "dst_state_batch_indices": inputs.places,
        "out": inputs.out,
        "is_blackwell": blackwell,
    }


def _namespace(files: tuple[Path, ...]) -> dict[str, Any]:
    """Return the names that the text defines, with stand-ins for functions that ask the present GPU."""
    given = {"torch": torch, "triton": triton, "tl": tl, "Any": Any, "functools": functools, "json": json, "os": os}
    given |= {"NULL_BLOCK_ID": NULL_BLOCK, "_ssm_config_override": None, "envs": SimpleNamespace()}
    namespace: dict[str, Any] = {"__name__": f"vllm.{MODULES[0][:-3].replace('/', '.')}", **given}
    for text in (files[1:], files[:1]):  # each kernel's lines are looked up in the file that its code names
        asked = LAUNCHER if text == files[:1] else "fast_exp"
        try:
            exec(code_of(text, asked, is_plain=False) if text else "", namespace)
        except NOT_UNDERSTOOD as error:
            raise _failure(error) from error
    return namespace


def _failure(error: Exception) -> VllmError:
    return refusal(f"{LAUNCHER} cannot be used: {type(error).__name__}: {one_line(error)}")
