"""The fused MoE LoRA problems of a model's experts, as one rank holds them.

Notation: P tensor-parallel size, R rank.

==================  ===============  ================  ===============
engine              i                experts here      key k of w13
==================  ===============  ================  ===============
tensor parallel     intermediate/P   all               R
  fully sharded     intermediate/P   all               R/P
expert parallel     intermediate     experts/P         R
==================  ===============  ================  ===============

Key n is the hidden size, w2's key k is R, whatever the sharding.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from bo_tune.errors import ModelError
from bo_tune.kernels.moe.spec import MOE_SPECS
from bo_tune.models.shape import ModelShape
from bo_tune.problem import Experts, Problem

MOE_KERNELS = tuple(spec.name for spec in MOE_SPECS)
"""Kernels whose problems can be told from a layer with experts."""

GATED_SLICES = 2
"""Gate and up."""

LAYER = "experts"


@dataclass(frozen=True, slots=True)
class ExpertSharding:
    """How experts are spread over ranks.

    Attributes:
        tensor_parallel: number of ranks.
        expert_parallel: the engine's ``--enable-expert-parallel``: each rank holds whole experts.
        fully_sharded: the engine's ``--fully-sharded-loras``.
    """

    tensor_parallel: int = 1
    expert_parallel: bool = False
    fully_sharded: bool = False

    def experts(self, shape: ModelShape) -> tuple[Experts, int]:
        """Return the experts of one rank and their intermediate size.

        Raises:
            ModelError: the model has no experts, or they cannot be spread like this.
        """
        moe, p = shape.moe, self.tensor_parallel
        if moe is None:
            raise ModelError(f"{shape.source}: the model has no experts")
        if self.expert_parallel and self.fully_sharded:
            raise ModelError(f"{shape.source}: vLLM has no fully sharded adapters with expert parallelism")
        size = moe.num_experts if self.expert_parallel else moe.intermediate
        if size % p:
            what = "number of experts" if self.expert_parallel else "intermediate size of the experts"
            raise ModelError(f"{shape.source}: {what}: expected a multiple of the tensor-parallel size {p}, got {size}")
        if self.expert_parallel:
            return Experts(moe.num_experts, moe.top_k, moe.num_experts // p), moe.intermediate
        return Experts(moe.num_experts, moe.top_k, shards=p if self.fully_sharded else 1), moe.intermediate // p


def expert_problems(
    shape: ModelShape,
    sharding: ExpertSharding,
    *,
    ranks: Sequence[int],
    max_loras: Sequence[int],
    ms: Sequence[int],
    kernels: Sequence[str] = MOE_KERNELS,
    dtype: str = "bfloat16",
) -> dict[Problem, tuple[str, ...]]:
    """Return the problems of a model's experts, each once, with the name of the layer.

    Raises:
        ModelError: the model has no experts, or they or the rank cannot be spread like this.
    """
    experts, i = sharding.experts(shape)
    wrong = [rank for rank in ranks if rank % experts.shards]
    if wrong:
        raise ModelError(
            f"{shape.source}: fully sharded adapters: expected a rank that is a multiple of the tensor-parallel size "
            f"{experts.shards}, got {wrong[0]}"
        )
    return {
        Problem(
            kernel,
            slots,
            GATED_SLICES if "w13" in kernel else 1,
            m,
            rank // experts.shards if "w13" in kernel else rank,
            shape.hidden,
            i,
            dtype=dtype,
            experts=experts,
        ): (LAYER,)
        for slots in max_loras
        for rank in ranks
        for m in ms
        for kernel in MOE_KERNELS
        if kernel in kernels
    }
