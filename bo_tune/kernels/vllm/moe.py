"""vLLM's fused MoE LoRA kernels: the two-kernel path and the one-launch path.

The two kernels are launched as vLLM's own dispatching function launches them for the layer. They use tensor descriptors
(TMA) and overlapping launches (PDL) where it does, and unsorted tokens where it sorts none. With descriptors, shrink
hands its result to expand in the order of the blocks. If vLLM would launch one kernel instead of two, the two are
launched without either.

Sorting tokens into blocks comes before any of them. It is neither launched here nor timed.
"""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, ClassVar

import torch
import triton

from bo_tune.core.problem import Experts, GpuInfo, LoraProblem
from bo_tune.core.space import Config
from bo_tune.kernels.moe.inputs import MoeInputs, MoeOperation
from bo_tune.kernels.moe.spec import MOE_SPECS, ONE_LAUNCH_SPECS, MoeLoraSpec, MoeOneLaunchSpec, experts_of
from bo_tune.kernels.vllm.captured import VllmOperation
from bo_tune.kernels.vllm.installed import VllmError
from bo_tune.kernels.vllm.kernel_call import CapturedCall
from bo_tune.kernels.vllm.moe_path import MoePath, Way, deciding_kernels, engine_way, is_unsorted, path_note


def two_kernel_way(problem: LoraProblem, capability: tuple[int, int]) -> Way | None:
    """Return how vLLM launches the two kernels of a layer; None if it launches others, or does not tell."""
    try:
        way = engine_way(problem, capability)
    except VllmError:  # ``note`` reports it
        return None
    return way if way.path in (MoePath.TWO_KERNELS, MoePath.TWO_KERNELS_TMA) else None


def allocated(size: int, _alignment: int, _stream: int | None) -> torch.Tensor:
    """Give Triton device memory for tensor descriptors."""
    return torch.empty(size, dtype=torch.int8, device="cuda")


class VllmMoeLaunch(MoeOperation, VllmOperation[MoeInputs]):
    """One of the kernels as vLLM launches it, on either path."""

    def __init__(self, spec: MoeLoraSpec | MoeOneLaunchSpec) -> None:
        MoeOperation.__init__(self, spec)
        VllmOperation.__init__(self)

    @property
    def least_problem(self) -> LoraProblem:
        return LoraProblem(self.name, 1, 1, 1, 16, 16, 16, experts=Experts(1, 1))

    def lookup(self, problem: LoraProblem) -> None:
        """None: the layer looks up configs, and passes them on."""

    def tokens_in_blocks(self, inputs: MoeInputs, config: Config) -> dict[str, Any]:
        """Return the arguments about tokens, experts and adapters, which are the same for every kernel."""
        blocks = inputs.in_blocks(config["block_m"])
        return {
            **self.tokens(inputs, config),
            "sorted_token_ids": blocks.pairs,
            "expert_ids": blocks.experts,
            "num_tokens_post_padded": blocks.padded,
        }

    def tokens(self, inputs: MoeInputs, config: Config) -> dict[str, Any]:
        """Return the arguments about tokens and adapters, which do not depend on sorting."""
        problem, experts = inputs.problem, experts_of(inputs.problem)
        return {
            "block_size_m": config["block_m"],
            "topk_weights": inputs.routing,
            "token_lora_mapping": inputs.groups.assignment,
            "top_k_num": experts.top_k,
            "lora_ids": inputs.groups.adapters,
            "adapter_enabled": torch.ones(problem.max_loras + 1, dtype=torch.int32, device=inputs.x.device),
            # This is the engine's default. Surplus programs end at once.
            "num_active_loras": torch.tensor([problem.max_loras + 1], dtype=torch.int32),
            "mul_routed_weight": not self.is_w13,
        }


class VllmMoeOperation(VllmMoeLaunch):
    """One of the four kernels of the two-kernel path."""

    path: ClassVar[str] = " (two-kernel path)"

    def note(self, problem: LoraProblem, gpu: GpuInfo) -> str | None:
        try:
            return path_note(problem, gpu.capability)
        except VllmError as error:
            return str(error)

    def decided_by(self, problem: LoraProblem, gpu: GpuInfo) -> tuple[str, ...]:
        try:
            return deciding_kernels(problem, gpu.capability)
        except VllmError:  # ``note`` reports it
            return ()

    def call(self, inputs: MoeInputs, config: Config, gpu: GpuInfo | None = None) -> CapturedCall:
        triton.set_allocator(allocated)  # for descriptors that a kernel makes itself, as vLLM does
        return super().call(inputs, config, gpu)

    def shared_arguments(self, inputs: MoeInputs, config: Config, capability: tuple[int, int]) -> dict[str, Any]:
        """Return the arguments that shrink and expand share."""
        problem, experts = inputs.problem, experts_of(inputs.problem)
        way, pairs = two_kernel_way(problem, capability), problem.m * experts.top_k
        if way and is_unsorted(problem):
            sorted_none = {"sorted_token_ids": None, "num_tokens_post_padded": None}
            given = {**self.tokens(inputs, config), **sorted_none, "expert_ids": inputs.chosen.flatten()}
            width = pairs * config["block_m"]
        else:
            given = self.tokens_in_blocks(inputs, config)
            width = given["sorted_token_ids"].shape[1]
        return {
            **given,
            **{f"block_size_{axis}": config[f"block_{axis}"] for axis in "nk"},
            **{name: config[name] for name in ("num_warps", "num_stages")},
            "group_size_m": config.get("group_size_m", 8),
            "split_k": config.get("split_k", 1),
            "device": inputs.x.device,
            "M": problem.m,
            "EM": width,
            "num_tokens": pairs,
            "num_experts": experts.local,
            "num_slices": problem.num_slices,
            "use_gdc": way is not None and way.pdl,
            "use_tma": way is not None and way.path is MoePath.TWO_KERNELS_TMA,
        }

    def is_ordered(self, problem: LoraProblem, capability: tuple[int, int]) -> bool:
        """Say whether shrink hands its result to expand in the order of the blocks."""
        way = two_kernel_way(problem, capability)
        return way is not None and way.path is MoePath.TWO_KERNELS_TMA and not is_unsorted(problem)

    def ordered(self, inputs: MoeInputs, block_m: int, rank: int) -> torch.Tensor:
        """Return shrink's result in the order of the blocks: ``[S, L, room, R]``, zero at first."""
        if block_m not in inputs.ordered:
            problem, pairs = inputs.problem, inputs.in_blocks(block_m).pairs
            shape = (problem.num_slices, *pairs.shape, rank)
            inputs.ordered[block_m] = torch.zeros(shape, dtype=inputs.out.dtype, device=inputs.out.device)
        return inputs.ordered[block_m]


class VllmMoeShrink(VllmMoeOperation):
    """vLLM's shrink."""

    def arguments(self, inputs: MoeInputs, config: Config, capability: tuple[int, int]) -> dict[str, Any]:
        problem, rank = inputs.problem, self.spec.product_width(inputs.problem)
        if self.is_ordered(problem, capability):
            shrunk = self.ordered(inputs, config["block_m"], rank)
        else:
            shrunk = inputs.out.view(problem.num_slices, problem.m, experts_of(problem).top_k, -1)
        return {
            **self.shared_arguments(inputs, config, capability),
            "a_intermediate_cache1": shrunk,
            "qcurr_hidden_states": inputs.x,
            "lora_a_stacked": list(inputs.weights),
            "N": rank,
            "K": self.spec.product_length(problem),
        }

    def launch(self, inputs: MoeInputs, config: Config) -> None:
        inputs.launched = config["block_m"]
        super().launch(inputs, config)

    def reset(self, inputs: MoeInputs) -> None:
        super().reset(inputs)
        if inputs.launched in inputs.ordered:  # all others are zero
            inputs.ordered[inputs.launched].zero_()

    def output(self, inputs: MoeInputs) -> torch.Tensor:
        """Return the result of each pair, wherever the kernel put it."""
        if inputs.launched in inputs.ordered:
            places, pairs = inputs.in_blocks(inputs.launched).places(inputs.chosen.numel())
            inputs.out[:, pairs] = inputs.ordered[inputs.launched].flatten(1, 2)[:, places]
        return inputs.out


class VllmMoeExpand(VllmMoeOperation):
    """vLLM's expand."""

    def arguments(self, inputs: MoeInputs, config: Config, capability: tuple[int, int]) -> dict[str, Any]:
        problem = inputs.problem
        width, rank = self.spec.product_width(problem), self.spec.product_length(problem)
        return {
            **self.shared_arguments(inputs, config, capability),
            "output": inputs.out.view(problem.m, experts_of(problem).top_k, -1),
            "a_intermediate_cache1": self._shrunk(inputs, config["block_m"], rank, capability),
            "lora_b_stacked": list(inputs.weights),
            "N": width,
            "K": rank,
            "max_lora_rank": rank,
            "w1_output_dim_size": width,
            "offset": 0,
            "add_inputs": True,
        }

    def _shrunk(self, inputs: MoeInputs, block_m: int, rank: int, capability: tuple[int, int]) -> torch.Tensor:
        """Return the result of shrink, in the order in which shrink hands it on."""
        if not self.is_ordered(inputs.problem, capability):
            return inputs.x
        if block_m not in inputs.ordered and not inputs.x.is_meta:
            places, pairs = inputs.in_blocks(block_m).places(inputs.chosen.numel())
            self.ordered(inputs, block_m, rank).flatten(1, 2)[:, places] = inputs.x[:, pairs]
        return self.ordered(inputs, block_m, rank)


class VllmMoeOneLaunch(VllmMoeLaunch):
    """vLLM's single launch of shrink and expand, which takes only block_m from the files."""

    path: ClassVar[str] = " (one-launch path)"

    def arguments(self, inputs: MoeInputs, config: Config, capability: tuple[int, int]) -> dict[str, Any]:
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


VLLM_MOE_OPERATIONS: Mapping[str, Callable[[], VllmMoeLaunch]] = {
    **{spec.name: partial(VllmMoeShrink if spec.shrinks else VllmMoeExpand, spec) for spec in MOE_SPECS},
    **{spec.name: partial(VllmMoeOneLaunch, spec) for spec in ONE_LAUNCH_SPECS},
}
"""Factories of these operations, by kernel name."""
