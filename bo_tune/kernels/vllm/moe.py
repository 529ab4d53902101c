"""vLLM's fused MoE LoRA kernels: the two-kernel path without TMA, as fully sharded LoRAs run, and the one-launch path.

Sorting tokens into blocks, which comes before either, is no part of what is launched here, nor timed.
"""

from typing import Any, ClassVar

import torch

from bo_tune.kernels.moe.inputs import MoeExpandOperation, MoeInputs, MoeOperation, MoeShrinkOperation
from bo_tune.kernels.moe.one_launch_inputs import MoeOneLaunchOperation
from bo_tune.kernels.moe.spec import experts_of
from bo_tune.kernels.vllm.captured import VllmOperation
from bo_tune.kernels.vllm.installed import VllmError
from bo_tune.kernels.vllm.moe_path import deciding_kernels, path_note
from bo_tune.problem import Experts, GpuInfo, Problem
from bo_tune.space import Config


class VllmMoeLaunch(MoeOperation, VllmOperation[MoeInputs]):
    """One of the kernels as vLLM launches it, on either path."""

    @property
    def least_problem(self) -> Problem:
        return Problem(self.name, 1, 1, 1, 16, 16, 16, experts=Experts(1, 1))

    def lookup(self, problem: Problem) -> None:
        """None: the layer looks configs up, and passes them on."""

    def tokens_in_blocks(self, inputs: MoeInputs, config: Config) -> dict[str, Any]:
        """What every kernel is given of tokens, experts and adapters."""
        problem, experts = inputs.problem, experts_of(inputs.problem)
        blocks = inputs.in_blocks(config["block_m"])
        return {
            "block_size_m": config["block_m"],
            "topk_weights": inputs.routing,
            "sorted_token_ids": blocks.pairs,
            "expert_ids": blocks.experts,
            "num_tokens_post_padded": blocks.padded,
            "token_lora_mapping": inputs.groups.assignment,
            "top_k_num": experts.top_k,
            "lora_ids": inputs.groups.adapters,
            "adapter_enabled": torch.ones(problem.max_loras + 1, dtype=torch.int32, device=inputs.x.device),
            # As the engine does by default: surplus programs end at once.
            "num_active_loras": torch.tensor([problem.max_loras + 1], dtype=torch.int32),
            "mul_routed_weight": not self.for_w13,
        }

    @property
    def for_w13(self) -> bool:
        """Whether the kernel is of gate and up: those see a token's activations, and no routing weight."""
        return "w13" in self.name


class VllmMoeOperation(VllmMoeLaunch):
    """One of the four kernels of the two-kernel path."""

    path: ClassVar[str] = " (two-kernel path: no TMA, no PDL)"

    def note(self, problem: Problem, gpu: GpuInfo) -> str | None:
        try:
            return path_note(problem, gpu.capability)
        except VllmError as error:
            return str(error)

    def decided_by(self, problem: Problem, gpu: GpuInfo) -> tuple[str, ...]:
        try:
            return deciding_kernels(problem, gpu.capability)
        except VllmError:  # which ``note`` says
            return ()

    def shared_arguments(self, inputs: MoeInputs, config: Config) -> dict[str, Any]:
        """What both shrink and expand are given."""
        given = self.tokens_in_blocks(inputs, config)
        problem, experts = inputs.problem, experts_of(inputs.problem)
        return {
            **given,
            **{f"block_size_{axis}": config[f"block_{axis}"] for axis in "nk"},
            **{name: config[name] for name in ("num_warps", "num_stages")},
            "group_size_m": config.get("group_size_m", 8),
            "split_k": config.get("split_k", 1),
            "device": inputs.x.device,
            "M": problem.m,
            "EM": given["sorted_token_ids"].shape[1],
            "num_tokens": problem.m * experts.top_k,
            "num_experts": experts.local,
            "num_slices": problem.num_slices,
            "use_gdc": False,
            "use_tma": False,
        }


class VllmMoeShrink(MoeShrinkOperation, VllmMoeOperation):
    """vLLM's shrink."""

    def arguments(self, inputs: MoeInputs, config: Config) -> dict[str, Any]:
        problem = inputs.problem
        shape = (problem.num_slices, problem.m, experts_of(problem).top_k, -1)
        return {
            **self.shared_arguments(inputs, config),
            "a_intermediate_cache1": inputs.out.view(shape),
            "qcurr_hidden_states": inputs.x,
            "lora_a_stacked": list(inputs.weights),
            "N": self.spec.product_width(problem),
            "K": self.spec.product_length(problem),
        }


class VllmMoeExpand(MoeExpandOperation, VllmMoeOperation):
    """vLLM's expand."""

    def arguments(self, inputs: MoeInputs, config: Config) -> dict[str, Any]:
        problem = inputs.problem
        width, rank = self.spec.product_width(problem), self.spec.product_length(problem)
        return {
            **self.shared_arguments(inputs, config),
            "output": inputs.out.view(problem.m, experts_of(problem).top_k, -1),
            "a_intermediate_cache1": inputs.x,
            "lora_b_stacked": list(inputs.weights),
            "N": width,
            "K": rank,
            "max_lora_rank": rank,
            "w1_output_dim_size": width,
            "offset": 0,
            "add_inputs": True,
        }


class VllmMoeW13Shrink(VllmMoeShrink):
    """Gate and up, shrink."""

    name = "fused_moe_lora_w13_shrink"
    per_token = True


class VllmMoeW13Expand(VllmMoeExpand):
    """Gate and up, expand."""

    name = "fused_moe_lora_w13_expand"


class VllmMoeW2Shrink(VllmMoeShrink):
    """Down, shrink."""

    name = "fused_moe_lora_w2_shrink"


class VllmMoeW2Expand(VllmMoeExpand):
    """Down, expand."""

    name = "fused_moe_lora_w2_expand"
    weighted = True


class VllmMoeOneLaunch(MoeOneLaunchOperation, VllmMoeLaunch):
    """Shrink and expand in vLLM's one launch, which takes block_m alone from the files."""

    path: ClassVar[str] = " (one-launch path)"

    def arguments(self, inputs: MoeInputs, config: Config) -> dict[str, Any]:
        problem = inputs.problem
        return {
            **self.tokens_in_blocks(inputs, config),
            "output": inputs.out.view(problem.m, experts_of(problem).top_k, -1),
            "qcurr_hidden_states": inputs.x,
            "lora_a_stacked": list(inputs.weights),
            "lora_b_stacked": list(inputs.expanding),
            "max_lora_rank": problem.k,
            "add_inputs": True,
        }


class VllmMoeW13(VllmMoeOneLaunch):
    """Gate and up."""

    name = "fused_moe_lora_w13"
    per_token = True


class VllmMoeW2(VllmMoeOneLaunch):
    """Down."""

    name = "fused_moe_lora_w2"
    weighted = True


VLLM_MOE_OPERATIONS = (
    VllmMoeW13Shrink,
    VllmMoeW13Expand,
    VllmMoeW2Shrink,
    VllmMoeW2Expand,
    VllmMoeW13,
    VllmMoeW2,
)
