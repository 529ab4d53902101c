"""The fused MoE LoRA problems of a model's experts, as one rank holds them.

Notation: P tensor-parallel size, R rank.

==================  ===============  ================  ===============
engine              i                experts here      key k of w13
==================  ===============  ================  ===============
tensor parallel     intermediate/P   all               R
  fully sharded     intermediate/P   all               R/P
expert parallel     intermediate     experts/P         R
==================  ===============  ================  ===============

Key n is the width of the experts' input, and w2's key k is R, whatever the sharding. Both n and i are rounded up if the
engine pads its weights. w13 has two slices, gate and up. If the two are one tensor, it has one, and its i is twice that
of w2. Without a gate it has one as well.
"""

from bo_tune.core.problem import Experts, LoraProblem
from bo_tune.engines.models.architectures.moe import MoeShape
from bo_tune.engines.models.shape import ModelShape
from bo_tune.errors import ModelError


def held_experts(
    shape: ModelShape, tensor_parallel: int, *, expert_parallel: bool, fully_sharded: bool
) -> tuple[Experts, int]:
    """Return the experts of one rank and their intermediate size, padded.

    Args:
        tensor_parallel: number of ranks.
        expert_parallel: the engine's ``--enable-expert-parallel``: each rank holds whole experts.
        fully_sharded: the engine's ``--fully-sharded-loras``.

    Raises:
        ModelError: the model has no experts, or they cannot be sharded like this.
    """
    moe, p = experts_of(shape), tensor_parallel
    if expert_parallel and fully_sharded:
        raise ModelError(
            f"{shape.source}: vLLM cannot combine --fully-sharded-loras with --enable-expert-parallel; leave one out"
        )
    size = moe.num_experts if expert_parallel else moe.intermediate
    if size % p:
        what = "number of experts" if expert_parallel else "intermediate size of the experts"
        raise ModelError(f"{shape.source}: {what}: expected a multiple of the tensor-parallel size {p}, got {size}")
    held, intermediate = moe.num_experts, moe.intermediate
    if expert_parallel:
        held //= p
    else:
        intermediate //= p
    experts = Experts(moe.num_experts, moe.top_k, held, shards=p if fully_sharded else 1, packed=moe.packed)
    return experts, rounded_up(intermediate, moe.padding.intermediate)


def experts_of(shape: ModelShape) -> MoeShape:
    """Return the experts of a model. Raises ModelError if it has none."""
    if shape.moe is None:
        raise ModelError(f"{shape.source}: this model has no experts")
    return shape.moe


def expert_problem(
    kernel: str, moe: MoeShape, held: tuple[Experts, int], max_loras: int, rank: int, m: int, dtype: str
) -> LoraProblem:
    """Return the problem of one of ``MOE_KERNELS``. ``held`` are the experts of one rank (``held_experts``)."""
    (experts, i), hidden = held, rounded_up(moe.hidden, moe.padding.hidden)
    if "w13" not in kernel:
        return LoraProblem(kernel, max_loras, 1, m, rank, hidden, i, dtype=dtype, experts=experts)
    slices, wide = 2 if moe.gated and not moe.packed else 1, 2 * i if moe.packed else i
    return LoraProblem(kernel, max_loras, slices, m, rank // experts.shards, hidden, wide, dtype=dtype, experts=experts)


def rounded_up(size: int, multiple: int) -> int:
    """Round a size up to a multiple."""
    return -(-size // multiple) * multiple
