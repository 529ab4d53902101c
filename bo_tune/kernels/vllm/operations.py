"""The installed vLLM's kernels by name: a kernel source like ``kernels.operations``."""

from collections.abc import Callable, Mapping
from contextlib import suppress
from functools import cache
from typing import Any

import torch

from bo_tune.core.problem import LoraProblem
from bo_tune.core.space import Config
from bo_tune.kernels.experts.step import KERNEL as EXPERTS
from bo_tune.kernels.lora.inputs import ExpandInputs, ExpandOperation, ShrinkInputs, ShrinkOperation, adds_inputs
from bo_tune.kernels.lora.operation import LoraInputs
from bo_tune.kernels.mamba.step import KERNEL as MAMBA
from bo_tune.kernels.operation import Operation
from bo_tune.kernels.registry import engine_spec, kernel_spec
from bo_tune.kernels.vllm.captured import VllmOperation
from bo_tune.kernels.vllm.experts import VllmExperts
from bo_tune.kernels.vllm.installed import VllmError, refusal
from bo_tune.kernels.vllm.mamba import VllmMamba
from bo_tune.kernels.vllm.moe import VLLM_MOE_OPERATIONS


class VllmShrink(ShrinkOperation, VllmOperation[ShrinkInputs]):
    """vLLM's shrink."""

    def arguments(self, inputs: ShrinkInputs, config: Config, capability: tuple[int, int]) -> dict[str, Any]:
        weights = list(inputs.weights)
        return {**_common_arguments(inputs), "lora_a_weights": weights, "scaling": inputs.scale}

    def lookup(self, problem: LoraProblem) -> dict[str, Any]:
        return {"op_type": "shrink", **_lookup_sizes(problem, hidden_size=problem.k, rank=problem.n)}


class VllmExpand(ExpandOperation, VllmOperation[ExpandInputs]):
    """vLLM's expand."""

    def arguments(self, inputs: ExpandInputs, config: Config, capability: tuple[int, int]) -> dict[str, Any]:
        weights, adds = list(inputs.weights), adds_inputs(inputs.problem)
        return {**_common_arguments(inputs), "lora_b_weights": weights, "offset_start": 0, "add_inputs": adds}

    def lookup(self, problem: LoraProblem) -> dict[str, Any]:
        sizes = _lookup_sizes(problem, hidden_size=problem.n, rank=problem.k)
        return {"op_type": "expand", **sizes, "add_inputs": adds_inputs(problem)}


def _common_arguments(inputs: LoraInputs) -> dict[str, Any]:
    problem, groups = inputs.problem, inputs.groups
    return {
        "inputs": inputs.x,
        "output_tensor": inputs.out,
        "token_lora_mapping": groups.assignment,
        "token_indices_sorted_by_lora_ids": groups.tokens,
        "num_tokens_per_lora": groups.rows,
        "lora_token_start_loc": groups.starts,
        "lora_ids": groups.adapters,
        "no_lora_flag_cpu": torch.tensor([False]),
        # This is the engine's default. Surplus programs end at once.
        "num_active_loras": torch.tensor([problem.max_loras + 1], dtype=torch.int32),
    }


def _lookup_sizes(problem: LoraProblem, *, hidden_size: int, rank: int) -> dict[str, int]:
    max_loras = int(engine_spec(problem.kernel).table_key(problem)[0])
    sizes = {"max_loras": max_loras, "batch": problem.m, "num_slices": problem.num_slices}
    return {**sizes, "hidden_size": hidden_size, "rank": rank}


_OPERATIONS: Mapping[str, Callable[[], Operation[Any, Any]]] = {
    "lora_shrink": VllmShrink,
    "lora_expand": VllmExpand,
    **VLLM_MOE_OPERATIONS,
    EXPERTS: VllmExperts,
    MAMBA: VllmMamba,
}


@cache
def operation(name: str) -> Operation[Any, Any]:
    """Return the operation of one of vLLM's kernels.

    Raises:
        InputError: the name is unknown.
        VllmError: the installed vLLM has no form of the kernel that is known here.
    """
    kernel_spec(name)
    if name not in _OPERATIONS:
        raise refusal(f"bo_tune cannot tune its {name}, only {', '.join(_OPERATIONS)}")
    return _OPERATIONS[name]()


# Import now if possible. A full vLLM takes seconds to import, too long for a worker's first request. Processes forked
# after this import have it already. ``operation`` reports what fails.
with suppress(VllmError):
    for _name in _OPERATIONS:
        operation(_name)
