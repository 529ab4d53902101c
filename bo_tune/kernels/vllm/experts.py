"""vLLM's kernel of the base model's experts, launched for both products of a layer as vLLM launches it.

Only its text is run (``plain_text``). As for the other kernels, its Python launcher is asked what it launches. Torch
sorts the tokens into blocks, beforehand and untimed, in the same layout as vLLM's compiled ``moe_align_block_size``. A
small number of tokens is not sorted. Blocks of experts on other ranks are launched, and write zeros, as in an engine
with adapters. Integers with a scale for each group have a kernel of their own.
"""

import functools
import hashlib
import threading
from collections.abc import Hashable, Sequence
from dataclasses import replace
from functools import cached_property, lru_cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
import triton
import triton.language as tl

from bo_tune.core.problem import GpuInfo, SizedProblem
from bo_tune.core.space import Config, ConfigKey, config_key
from bo_tune.errors import one_line
from bo_tune.kernels.experts.inputs import ExpertsInputs, ExpertsOperation
from bo_tune.kernels.experts.step import FP8, KERNEL, ExpertsStep
from bo_tune.kernels.plain_text import code_of, files_of
from bo_tune.kernels.target import target_gpu
from bo_tune.kernels.vllm.installed import VllmError, refusal, version
from bo_tune.kernels.vllm.kernel_call import CapturedCall
from bo_tune.kernels.vllm.launcher import Recorder, TargetPlatform, import_module

MODULES = ("model_executor/layers/fused_moe/utils.py", "model_executor/layers/fused_moe/fused_moe.py")
"""Files that define the launcher and its helpers. The last has the launcher and the kernel."""

LAUNCHER, JIT_KERNEL = "invoke_fused_moe_triton_kernel", "fused_moe_kernel"
"""Launcher and kernel of weights in 16 bits and fp8."""

OF_GROUPS = "invoke_fused_moe_wna16_triton_kernel", "fused_moe_kernel_gptq_awq"
"""Launcher and kernel of integers with a scale for each group of a row."""

NOT_UNDERSTOOD = (ArithmeticError, AssertionError, AttributeError, LookupError, NameError, TypeError, ValueError)
"""Errors that the launcher of another vLLM may raise here."""


class ExpertsLauncher:
    """Finds out what vLLM launches for one product. Safe to use from several threads.

    Args:
        launcher: name of the function that launches.
        kernel: name of the kernel that it launches.

    Raises:
        VllmError: the installed vLLM has no such kernel and launcher.
    """

    def __init__(self, launcher: str = LAUNCHER, kernel: str = JIT_KERNEL) -> None:
        import_module("vllm")  # which knows its version
        found = files_of(MODULES)
        files = tuple(filter(None, found))
        if found[-1] is None:
            raise refusal(f"it has no {MODULES[-1]}, where {KERNEL} should be")
        self.digest = hashlib.sha256(b"".join(file.read_bytes() for file in files)).hexdigest()[:10]
        self._platform = TargetPlatform()
        self._calls: list[CapturedCall] = []
        self._lock = threading.Lock()
        self._name = launcher
        namespace = self._namespace(files)
        try:
            self._function, jitted = namespace[launcher], namespace[kernel]
        except KeyError as error:
            raise refusal(f"{MODULES[-1]} has no {error.args[0]}") from None
        namespace[kernel] = Recorder(jitted, self._note)
        # Some functions ask the GPU once and cache the answer, as it never changes there.
        self._kept = [value for value in namespace.values() if hasattr(value, "cache_clear")]

    def _namespace(self, files: tuple[Path, ...]) -> dict[str, Any]:
        """Return the names that the text defines, with stand-ins for functions that ask the present GPU or warn."""
        environment = SimpleNamespace(VLLM_TRITON_USE_TD=None)
        given = {"torch": torch, "triton": triton, "tl": tl, "Any": Any, "functools": functools, "envs": environment}
        namespace: dict[str, Any] = {"__name__": f"vllm.{MODULES[-1][:-3].replace('/', '.')}", **given}
        try:
            # The kernel's lines are looked up in the file that its code names, which is the first.
            exec(code_of(files[::-1], self._name, is_plain=False), namespace)
        except NOT_UNDERSTOOD as error:
            raise self._failure(error) from error
        ignored = dict.fromkeys(("warn_if_moe_use_td_ineffective", "set_triton_allocator"), _ignore)
        namespace.update({"current_platform": self._platform, **ignored})
        return namespace

    def capture(self, arguments: dict[str, Any], gpu: GpuInfo) -> CapturedCall:
        """Run the launcher and return what it would have launched on a GPU. Raises VllmError."""
        with self._lock:
            self._calls.clear()
            if self._platform.gpu != gpu:
                self._platform.capability, self._platform.gpu = gpu.capability, gpu
                for kept in self._kept:
                    kept.cache_clear()
            try:
                self._function(**arguments)
            except NOT_UNDERSTOOD as error:
                raise self._failure(error) from error
            if len(self._calls) != 1:
                raise refusal(f"{self._name} launches {len(self._calls)} kernels instead of one")
            return self._calls[0]

    def _failure(self, error: Exception) -> VllmError:
        return refusal(f"{self._name} cannot be used: {type(error).__name__}: {one_line(error)}")

    def _note(self, kernel: Any, grid: Any, *arguments: Any, **options: Any) -> None:
        programs = tuple(map(int, grid(options) if callable(grid) else grid))
        self._calls.append(CapturedCall(kernel, programs, arguments, options, {}))


class VllmExperts(ExpertsOperation):
    """vLLM's kernel, twice. Raises VllmError if the installed vLLM has no form of it that is known here."""

    def __init__(self) -> None:
        super().__init__()
        self._launcher = ExpertsLauncher()
        self._cached_facts = lru_cache(maxsize=2**16)(self._facts)
        self._keys: dict[Hashable, Hashable] = {}

    @cached_property
    def _of_groups(self) -> ExpertsLauncher:
        return ExpertsLauncher(*OF_GROUPS)

    @property
    def source(self) -> str:
        """``vllm`` and its version, or a digest of its text if the version is unknown."""
        return f"vllm {version() or self._launcher.digest}"

    def calls(self, inputs: ExpertsInputs, config: Config, gpu: GpuInfo) -> tuple[CapturedCall, CapturedCall]:
        """Return what vLLM launches for both products on a GPU. Raises VllmError."""
        grouped = ExpertsStep.of(inputs.problem).is_grouped
        launcher = self._of_groups if grouped else self._launcher
        first, second = (launcher.capture(self._arguments(inputs, index, config), gpu) for index in range(2))
        return first, second

    def _arguments(self, inputs: ExpertsInputs, index: int, config: Config) -> dict[str, Any]:
        """Return the arguments that the engine passes to its launcher for a product, by name."""
        step, operands = ExpertsStep.of(inputs.problem), inputs.operands[index]
        given = {
            "A": operands.x,
            "B": operands.held.w,
            "C": inputs.outs[index],
            "B_scale": operands.held.scale,
            "topk_weights": inputs.routing,
            **_in_blocks(inputs, step, config["BLOCK_SIZE_M"]),
            "mul_routed_weight": index == 1,
            "top_k": 1 if index else step.experts.top_k,
            "config": dict(config),
            "block_shape": list(step.block) if step.block else None,
            # For layers whose input is in fp8, the engine uses this type for the output, whatever the model's type.
            "compute_type": tl.bfloat16 if step.weights == FP8 else getattr(tl, step.dtype),
        }
        flags = dict.fromkeys(("use_int8_w8a16", "use_int4_w4a16"), False)
        if step.is_grouped:
            rows = {"topk_weights": inputs.routing if index else None, "config": {**config, "SPLIT_K": 1}}
            return {**given, **rows, **flags, f"use_{step.weights}": True, "B_zp": operands.held.zeros}
        flags |= dict.fromkeys(("use_fp8_w8a8", "use_int8_w8a8", "per_channel_quant"), False)
        named = {f"use_{step.weights}": True} if step.weights else {}
        return {**given, **flags, **named, "A_scale": operands.x_scale}

    def launch(self, inputs: ExpertsInputs, config: Config) -> None:
        key = config_key(config)
        prepared = inputs.prepared.get(key)
        if prepared is not None:
            prepared()
            return
        first, second = (call.launch() for call in self.calls(inputs, config, target_gpu()))
        if first is not None and second is not None:
            inputs.prepared[key] = replace(second, before=first)

    def compile(self, problem: SizedProblem, config: Config) -> Sequence[Any]:
        return [call.warmup() for call in self.calls(self.stand_ins(problem), config, target_gpu())]

    def effective_config(self, problem: SizedProblem, config: Config, gpu: GpuInfo) -> dict[str, int]:
        return dict(self._cached_facts(problem, config_key(config), gpu)[0])

    def compile_key(self, problem: SizedProblem, config: Config, gpu: GpuInfo) -> Hashable:
        return self._cached_facts(problem, config_key(config), gpu)[1]

    def _facts(self, problem: SizedProblem, config: ConfigKey, gpu: GpuInfo) -> tuple[ConfigKey, Hashable]:
        """Ask vLLM's launcher for the effective config and the compile key."""
        calls = self.calls(self.stand_ins(problem), dict(config), gpu)
        given = {**calls[0].parameters, **calls[0].options}
        effective = tuple((name, int(given[name])) for name, _ in config)
        key = (gpu.capability, tuple(call.specialisation() for call in calls))
        return effective, self._keys.setdefault(key, key)  # thousands of calls share a binary, and so the key's memory


def _in_blocks(inputs: ExpertsInputs, step: ExpertsStep, rows: int) -> dict[str, torch.Tensor | None]:
    """Return the arguments about tokens and experts, which are the same for both launches."""
    if not step.is_sorted:
        padded = torch.full((1,), step.pairs * rows, dtype=torch.int32, device=inputs.chosen.device)
        return {
            "sorted_token_ids": None,
            "expert_ids": inputs.chosen.view(-1),
            "num_tokens_post_padded": padded,
        }
    blocks = inputs.in_blocks(rows)
    return {
        "sorted_token_ids": blocks.pairs[0],
        "expert_ids": blocks.experts[0],
        "num_tokens_post_padded": blocks.padded,
    }


def _ignore(*_: Any, **__: Any) -> None:
    return
