"""Tells which way vLLM takes for a fused MoE LoRA layer. vLLM's own dispatching function is asked.

Some ways run shrink and expand in one launch. For these, the tuned files decide only on block_m, or on nothing.
"""

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from functools import lru_cache
from typing import Any

import torch

from bo_tune.core.problem import LoraProblem
from bo_tune.core.surroundings import MOE
from bo_tune.errors import one_line
from bo_tune.kernels.moe.blocks import room
from bo_tune.kernels.moe.spec import MOE_SPEC, ONE_LAUNCH_SPECS, experts_of, intermediate_of
from bo_tune.kernels.operation import META
from bo_tune.kernels.vllm.installed import KERNELS_PACKAGE, described, refusal
from bo_tune.kernels.vllm.launcher import TargetPlatform, attribute, import_module
from bo_tune.kernels.vllm.private_copy import PrivateCopy

MODULE = f"{KERNELS_PACKAGE}.fused_moe_lora_op"
DISPATCH = f"_{MOE}"
BLOCK_M = 64
SPARSITY = 8
"""vLLM 0.33.0 does not sort tokens into blocks if a layer has at least this many times as many slots (adapters times
experts) as the step has pairs (``SPARSITY_FACTOR`` in ``punica_gpu``). Each pair is then its own block, whatever
block_m is."""


class MoePath(StrEnum):
    """A way to compute a layer."""

    ONE_LAUNCH = "one launch"
    ONE_LAUNCH_UNSORTED = "one launch over tokens that are not sorted into blocks"
    TWO_KERNELS = "two kernels"
    TWO_KERNELS_TMA = "two kernels with tensor descriptors"


_LAUNCHERS = {
    "_run_fused_moe_lora_one_shot": MoePath.ONE_LAUNCH,
    "_run_fused_moe_lora_small_batch": MoePath.ONE_LAUNCH,
    "_fused_moe_lora_shrink": MoePath.TWO_KERNELS,
}
"""The function that vLLM calls on each way. Names that it does not have are ignored."""


@dataclass(frozen=True, slots=True)
class Way:
    """The way in which vLLM computes a layer.

    Attributes:
        pdl: whether its launches overlap (programmatic dependent launch).
    """

    path: MoePath
    pdl: bool = False


def engine_path(problem: LoraProblem, capability: tuple[int, int]) -> MoePath:
    """Return the path of ``engine_way``."""
    return engine_way(problem, capability).path


@lru_cache(maxsize=1024)
def engine_way(problem: LoraProblem, capability: tuple[int, int]) -> Way:
    """Return the way that the installed vLLM takes for a problem's layer, on a GPU of this compute capability.

    Adapters are assumed to be fully sharded if tensor-parallel ranks share them.

    Raises:
        VllmError: vLLM's function does something that is not known here.
    """
    dispatch = attribute(import_module(MODULE), DISPATCH)
    taken: list[Way] = []

    unsorted = is_unsorted(problem)

    def note(path: MoePath) -> Callable[..., None]:
        def launched(*_: Any, use_tma: bool = False, use_gdc: bool = False, **__: Any) -> None:
            taken.append(Way(MoePath.TWO_KERNELS_TMA if use_tma else path, use_gdc))

        return launched

    platform = TargetPlatform()
    platform.capability = capability
    stand_ins: dict[str, object] = {name: note(way) for name, way in _LAUNCHERS.items()}
    stand_ins |= {"_fused_moe_lora_expand": _ignore, "set_triton_allocator": _ignore, "current_platform": platform}
    stand_ins |= {"tensor_model_parallel_all_gather": _same, "tensor_model_parallel_all_reduce": _same}
    function = PrivateCopy(stand_ins, lambda kernel: kernel).function(dispatch)
    try:
        inspect.signature(function).bind(**(arguments := _arguments(problem)))
        function(**arguments)
    except (AssertionError, AttributeError, LookupError, TypeError, ValueError) as error:
        reason = f"{type(error).__name__}: {one_line(error)}"
        raise refusal(f"bo_tune cannot find out from {MODULE}.{DISPATCH} which path it takes: {reason}") from error
    if len(taken) != 1:
        raise refusal(f"bo_tune cannot find out from {MODULE}.{DISPATCH} which path it takes: {taken}")
    return Way(MoePath.ONE_LAUNCH_UNSORTED) if unsorted and taken[0].path is MoePath.ONE_LAUNCH else taken[0]


def largest_unsorted(problem: LoraProblem) -> int:
    """Return the most tokens in a step that are not sorted into blocks, by the rule of vLLM 0.33.0; 0 if all are."""
    experts = experts_of(problem)
    if experts.shards > 1 or experts.local < experts.count:
        return 0
    return experts.local * problem.max_loras // (SPARSITY * experts.top_k)


def is_unsorted(problem: LoraProblem) -> bool:
    """Say whether a step has so few tokens that they are not sorted into blocks."""
    return problem.m <= largest_unsorted(problem)


def deciding_kernels(problem: LoraProblem, capability: tuple[int, int]) -> tuple[str, ...]:
    """Return the kernels that decide on block_m for a problem's layer; none if vLLM takes the two-kernel path.

    Raises like ``engine_path``.
    """
    sorted_at_once = engine_path(problem, capability) is MoePath.ONE_LAUNCH
    return tuple(spec.name for spec in ONE_LAUNCH_SPECS) if sorted_at_once else ()


def path_note(problem: LoraProblem, capability: tuple[int, int]) -> str:
    """Say in one line which way vLLM takes, and how it uses tuned files there."""
    path, rank = engine_path(problem, capability), MOE_SPEC[problem.kernel].rank(problem)
    shared = "fully sharded" if experts_of(problem).shards > 1 else "not fully sharded"
    what = f"{described()} runs MoE LoRA of rank {rank}, {shared}, as {path}"
    match path:
        case MoePath.ONE_LAUNCH:
            return (
                f"{what}: it reads only block_m from these files, and that launch decides on it unless --moe-path "
                "says otherwise; the rest is tuned under that block_m for the two-kernel path, and only that "
                "path uses it"
            )
        case MoePath.ONE_LAUNCH_UNSORTED:
            return (
                f"{what} for at most {largest_unsorted(problem)} of them: it reads nothing from these files, and "
                "the two kernels are tuned"
            )
        case MoePath.TWO_KERNELS | MoePath.TWO_KERNELS_TMA:
            return f"{what}, which are the ones that are tuned"


def _ignore(*_: Any, **__: Any) -> None:
    return


def _same(tensor: torch.Tensor) -> torch.Tensor:
    return tensor


def _arguments(problem: LoraProblem) -> dict[str, Any]:
    """Return the arguments that a layer passes for gate and up, on the meta device."""
    experts, n, i = experts_of(problem), problem.n, intermediate_of(problem)
    rank, slots, slices = MOE_SPEC[problem.kernel].rank(problem), problem.max_loras, 1 if experts.packed else 2
    pairs = problem.m * experts.top_k
    width = room(pairs, experts.count, BLOCK_M)
    blocks = {
        "sorted_token_ids": _empty(slots, width, dtype=torch.int32),
        "expert_ids": _empty(slots, -(-width // BLOCK_M), dtype=torch.int32),
        "num_tokens_post_padded": _empty(slots, dtype=torch.int32),
    }
    unsorted = {
        "sorted_token_ids": None,
        "expert_ids": _empty(pairs, dtype=torch.int32),
        "num_tokens_post_padded": None,
    }
    config = {"block_size_m": BLOCK_M, "block_size_n": 64, "block_size_k": 32, "group_size_m": 8, "num_warps": 4}
    config |= {"num_stages": 3, "split_k": 1}
    return {
        "output": _empty(problem.m, experts.top_k, slices * i),
        "qcurr_hidden_states": _empty(problem.m, n),
        "lora_a_stacked": [_empty(slots, experts.local, rank // experts.shards, n)] * slices,
        "lora_b_stacked": [_empty(slots, experts.local, i, rank)] * slices,
        "topk_weights": _empty(problem.m, experts.top_k, dtype=torch.float32),
        **(unsorted if is_unsorted(problem) else blocks),
        "token_lora_mapping": _empty(problem.m, dtype=torch.int32),
        "max_lora_rank": rank // experts.shards,
        "top_k_num": experts.top_k,
        "lora_ids": _empty(slots + 1, dtype=torch.int32),
        "num_active_loras": torch.tensor([slots + 1], dtype=torch.int32),
        "adapter_enabled": _empty(slots + 1, dtype=torch.int32),
        **{f"{half}_{name}": value for half in ("shrink", "expand") for name, value in config.items()},
        "fully_sharded": experts.shards > 1,
    }


def _empty(*shape: int, dtype: torch.dtype = torch.bfloat16) -> torch.Tensor:
    return torch.empty(shape, dtype=dtype, device=META)
