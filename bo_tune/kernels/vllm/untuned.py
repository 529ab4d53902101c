"""The config that the installed vLLM runs without tuned files, for experts' kernels and Mamba's. vLLM is asked.

A few plain functions of vLLM decide which files it ships, and what it does without one.
"""

import builtins
import functools
import json
import os
import re
from collections.abc import Callable, Mapping
from functools import lru_cache
from pathlib import Path
from types import CodeType, SimpleNamespace
from typing import Any

from bo_tune.core.conclusion import SHARED
from bo_tune.core.problem import GpuInfo, LoraProblem, Problem
from bo_tune.errors import one_line
from bo_tune.kernels.experts.rule import TRITONS, filled
from bo_tune.kernels.experts.spec import ExpertsSpec
from bo_tune.kernels.experts.step import ENGINE_NAMES, INT4, ExpertsStep
from bo_tune.kernels.mamba.spec import MambaSpec
from bo_tune.kernels.mamba.step import MambaStep
from bo_tune.kernels.moe.spec import MoeLoraSpec, MoeOneLaunchSpec, experts_of
from bo_tune.kernels.moe.untuned import as_read, general_config
from bo_tune.kernels.plain_text import code_of, files_of
from bo_tune.kernels.spec import AnySpec
from bo_tune.kernels.vllm.installed import VllmError, refusal

OF_BASE_MODEL = "try_get_optimal_moe_config"
"""vLLM's function that the base model's experts call."""

ASKED = "try_get_optimal_moe_lora_config"
"""vLLM's function that the LoRA layers call if ``VLLM_TUNED_CONFIG_FOLDER`` is not set. It calls ``OF_BASE_MODEL``."""

READS_FILES = "get_moe_configs"
"""vLLM's function that reads a shipped file."""

MODULES = ("model_executor/layers/fused_moe/fused_moe.py", "lora/layers/utils.py", "utils/platform_utils.py")
"""Files that define these functions and their helpers. The shipped files are in a folder beside the first."""

OF_MAMBA = "_try_get_optimal_ssm_config_cached"
"""vLLM's function that a Mamba-2 layer's decode step calls."""

MAMBA_MODULES = ("model_executor/layers/mamba/ops/mamba_ssm.py", "utils/platform_utils.py")
MAMBA_SHIPPED = ("configs", "selective_state_update")
"""Folder of the shipped files, beside the first of these."""

BLACKWELL = 10
"""Major compute capability of the GPUs for which Mamba's rule differs."""

NOT_UNDERSTOOD = (ArithmeticError, AttributeError, ImportError, LookupError, NameError, OSError, TypeError, ValueError)
"""Errors that functions of another vLLM may raise here."""


def untuned_config(spec: AnySpec, problem: Problem, gpu: GpuInfo) -> dict[str, int]:
    """Return the config with which an engine without tuned files launches a kernel.

    For experts' kernels and Mamba's, the installed vLLM is asked. If only vLLM's kernel modules are installed, which
    do not hold the files that it ships, vLLM's general rule counts.

    Raises:
        VllmError: the answer of the installed vLLM is not understood.
    """
    if isinstance(spec, ExpertsSpec):
        return _of_base_model(spec, problem, gpu)
    if isinstance(spec, MambaSpec):
        return _of_mamba(spec, problem, gpu)
    if not isinstance(problem, LoraProblem) or not isinstance(spec, MoeLoraSpec | MoeOneLaunchSpec):
        return spec.default_config(problem)
    part = spec.parts[0] if isinstance(spec, MoeOneLaunchSpec) else spec
    config = untuned_configs(part, problem, gpu)(problem.m)
    return config if part is spec else {SHARED: config[SHARED]}


def untuned_configs(spec: MoeLoraSpec, problem: LoraProblem, gpu: GpuInfo) -> Callable[[int], dict[str, int]]:
    """Return a function that maps a number of tokens to a fused MoE kernel's untuned config.

    The function raises ``VllmError``, too.

    Args:
        problem: a problem of the kernel, with any m.
    """
    functions, experts = _functions(), experts_of(problem)
    if functions is None:
        return lambda m: spec.as_used(general_config(m, experts.local), problem)
    i = spec.intermediate(problem)
    layer = {"w1_shape": (experts.local, 2 * i, problem.n), "w2_shape": (experts.local, problem.n, i)}

    def ask(m: int) -> dict[str, int]:
        try:
            # The LoRA layers name no type of weights, whatever those of the base model are.
            asked = _asked(functions, gpu.name, gpu.backend, ASKED)
            found = asked(op_type=spec.name, rank=problem.k, top_k=experts.top_k, dtype=None, M=m, **layer)
            config = as_read(found)
            return {name: int(config[name]) for name in spec.search_space.names}
        except NOT_UNDERSTOOD as error:
            raise _untold(ASKED, error) from error

    return ask


def _of_base_model(spec: ExpertsSpec, problem: Problem, gpu: GpuInfo) -> dict[str, int]:
    """Return the config of the base model's experts: that of a shipped file, or the engine's rule."""
    step = ExpertsStep.of(problem)
    functions = _functions()
    if functions is None:
        return spec.default_config(step.problem)
    local, four = step.experts.local, 2 if step.weights == INT4 else 1  # two to a byte
    try:
        asked = _asked(functions, gpu.name, gpu.backend, OF_BASE_MODEL)
        shapes = (local, step.up, step.hidden // four), (local, step.hidden, step.n // four)
        # For weights in 16 bits, the engine names no type.
        found = asked(*shapes, step.experts.top_k, step.weights or None, step.m, step.block)
        config = (
            filled(_with_lower_case_names(found), step)
            if step.is_grouped
            else {**TRITONS, **_with_lower_case_names(found)}
        )
        return {name: int(config[ENGINE_NAMES[name]]) for name in spec.search_space.names}
    except NOT_UNDERSTOOD as error:
        raise _untold(OF_BASE_MODEL, error) from error


def _with_lower_case_names(config: Mapping[str, int]) -> dict[str, int]:
    """Return a config with the names that other kernels use."""
    return {ENGINE_NAMES.get(name, name): value for name, value in config.items()}


def is_blackwell(gpu: GpuInfo) -> bool:
    """Say whether vLLM counts a GPU among those for which Mamba's rule differs."""
    return gpu.is_cuda and gpu.capability[0] == BLACKWELL


def _of_mamba(spec: MambaSpec, problem: Problem, gpu: GpuInfo) -> dict[str, int]:
    """Return the config of a Mamba-2 layer's decode step: that of a shipped file, or the engine's rule."""
    step, files = MambaStep.of(problem), tuple(filter(None, files_of(MAMBA_MODULES)))
    if len(files) < len(MAMBA_MODULES):
        return spec.default_config(step.problem)
    try:
        asked = _asked((code_of(files, OF_MAMBA), files[0]), gpu.name, gpu.backend, OF_MAMBA)
        shape = (step.headdim, step.dstate, step.sequences, step.heads, step.state_dtype)
        block, warps = asked(*shape, is_blackwell(gpu))
        return {"BLOCK_SIZE_M": int(block), "num_warps": int(warps)}
    except NOT_UNDERSTOOD as error:
        raise _untold(OF_MAMBA, error) from error


def _untold(function: str, error: Exception) -> VllmError:
    reason = f"{type(error).__name__}: {one_line(error)}"
    return refusal(f"bo_tune cannot find out from {function} what an engine without tuned files runs: {reason}")


def knows_shipped_files() -> bool:
    """Say whether the installed vLLM has the files that it ships for the base model's experts."""
    return _functions() is not None


def _functions() -> tuple[CodeType, Path] | None:
    """Return the code that defines the functions, and the file beside which the shipped files lie."""
    files = files_of(MODULES)
    if files[0] is None or files[1] is None:
        return None
    return code_of(tuple(filter(None, files)), ASKED), files[0]


@lru_cache(maxsize=16)
def _asked(functions: tuple[CodeType, Path], gpu_name: str, backend: str, function: str) -> Any:
    """Return a function of vLLM's, set up to answer for a GPU."""
    code, file = functions
    platform = SimpleNamespace(
        get_device_name=lambda _=0: gpu_name, is_rocm=lambda: backend == "hip", is_cuda=lambda: backend == "cuda",
        is_cuda_alike=lambda: backend in ("cuda", "hip"), is_xpu=lambda: backend == "xpu", is_cpu=lambda: False,
    )  # fmt: skip
    environment = SimpleNamespace(VLLM_BATCH_INVARIANT=False, VLLM_TUNED_CONFIG_FOLDER=None)
    quiet = SimpleNamespace(info_once=_ignore, warning_once=_ignore, info=_ignore, warning=_ignore, debug=_ignore)
    stand_ins = {"current_platform": platform, "get_config": lambda: None}

    def imported(name: str, *arguments: Any) -> Any:
        return SimpleNamespace(**stand_ins) if name.startswith("vllm") else builtins.__import__(name, *arguments)

    namespace: dict[str, Any] = {
        "__builtins__": {**vars(builtins), "__import__": imported},
        "__file__": str(file), "_CONFIGS_DIR": str(file.parent.joinpath(*MAMBA_SHIPPED)),
        "os": os, "re": re, "json": json, "functools": functools,
        "envs": environment, "logger": quiet, "current_platform": platform,
        "next_power_of_2": lambda value: 1 << (value - 1).bit_length(),
    }  # fmt: skip
    exec(code, namespace)
    if READS_FILES in namespace:
        namespace[READS_FILES] = functools.cache(namespace[READS_FILES])
    return lru_cache(maxsize=2**14)(namespace[function])


def _ignore(*_: Any, **__: Any) -> None:
    return
