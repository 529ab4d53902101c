"""The fused MoE LoRA problems of a model's experts, as one rank holds them.

Notation: P tensor-parallel size, R rank.

==================  ===============  ================  ===============
engine              i                experts here      key k of w13
==================  ===============  ================  ===============
tensor parallel     intermediate/P   all               R
  fully sharded     intermediate/P   all               R/P
expert parallel     intermediate     experts/P         R
==================  ===============  ================  ===============

Key n is the width of the experts' input, w2's key k is R, whatever the sharding. Both n and i are rounded up where the
engine pads its weights. w13 has two slices, gate and up. Where the two are one tensor it has one, and its i is twice
that of w2; without a gate it has one as well.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from bo_tune.core.problem import Experts, LoraProblem
from bo_tune.engines.models.architectures.moe import EXPERTS, MoeShape
from bo_tune.engines.models.shape import ModelShape
from bo_tune.errors import ModelError
from bo_tune.kernels.moe.spec import MOE_SPECS

MOE_KERNELS = tuple(spec.name for spec in MOE_SPECS)
"""Kernels whose problems can be told from a layer with experts."""


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
        """Return the experts of one rank and their intermediate size, padded.

        Raises:
            ModelError: the model has no experts, or they cannot be spread like this.
        """
        moe, p = experts_of(shape), self.tensor_parallel
        if self.expert_parallel and self.fully_sharded:
            raise ModelError(f"{shape.source}: vLLM has no fully sharded adapters with expert parallelism")
        size = moe.num_experts if self.expert_parallel else moe.intermediate
        if size % p:
            what = "number of experts" if self.expert_parallel else "intermediate size of the experts"
            raise ModelError(f"{shape.source}: {what}: expected a multiple of the tensor-parallel size {p}, got {size}")
        held, shards = moe.num_experts, 1
        intermediate = moe.intermediate
        if self.expert_parallel:
            held //= p
        else:
            intermediate //= p
            shards = p if self.fully_sharded else 1
        experts = Experts(moe.num_experts, moe.top_k, held, shards, packed=moe.packed)
        return experts, moe.padding.of_intermediate(intermediate)


def experts_of(shape: ModelShape) -> MoeShape:
    """Return the experts of a model. Raises ModelError where it has none."""
    if shape.moe is None:
        raise ModelError(f"{shape.source}: the model has no experts")
    return shape.moe


def expert_problems(
    shape: ModelShape,
    sharding: ExpertSharding,
    *,
    ranks: Sequence[int],
    max_loras: Sequence[int],
    ms: Sequence[int],
    kernels: Sequence[str] = MOE_KERNELS,
    dtype: str = "bfloat16",
) -> dict[LoraProblem, tuple[str, ...]]:
    """Return the problems of a model's experts, each once, with the name of the layer.

    Raises:
        ModelError: the model has no experts, or they or the rank cannot be spread like this.
    """
    experts, i = sharding.experts(shape)
    moe = experts_of(shape)
    wrong = [rank for rank in ranks if rank % experts.shards]
    if wrong:
        raise ModelError(
            f"{shape.source}: fully sharded adapters: expected a rank that is a multiple of the tensor-parallel size "
            f"{experts.shards}, got {wrong[0]}"
        )
    return {
        _problem(kernel, moe, experts, i, slots, rank, m, dtype): (EXPERTS,)
        for slots in max_loras
        for rank in ranks
        for m in ms
        for kernel in MOE_KERNELS
        if kernel in kernels
    }


def _problem(
    kernel: str, moe: MoeShape, experts: Experts, i: int, max_loras: int, rank: int, m: int, dtype: str
) -> LoraProblem:
    hidden = moe.padding.of_hidden(moe.hidden)
    if "w13" not in kernel:
        return LoraProblem(kernel, max_loras, 1, m, rank, hidden, i, dtype=dtype, experts=experts)
    slices, wide = w13_slices(moe), 2 * i if moe.packed else i
    return LoraProblem(kernel, max_loras, slices, m, rank // experts.shards, hidden, wide, dtype=dtype, experts=experts)


def w13_slices(moe: MoeShape) -> int:
    """Return the slices of w13: gate and up, or one where they are one tensor or there is no gate."""
    return 2 if moe.gated and not moe.packed else 1
