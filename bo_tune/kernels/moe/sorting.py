# mypy: disable-error-code="no-untyped-def, misc, untyped-decorator"
"""Sort tokens into blocks on the GPU in one launch, as an engine does before the kernels of a layer's experts.

Notation as in ``blocks``: P pairs of a token with an expert, L adapter slots, E experts on all ranks.
"""

import torch
import triton
import triton.language as tl

from bo_tune.kernels.moe.blocks import MoeBlocks
from bo_tune.kernels.moe.inputs import MoeInputs
from bo_tune.kernels.moe.spec import experts_of

CHUNK = 1024
WARPS = 8


@triton.jit(do_not_specialize=["PAIRS", "ROOM", "BLOCKS", "LOCAL", "block_m"])
def sort_kernel(
    chosen,  # int32 [P]
    assignment,  # int32 [P / TOP_K]
    pairs,  # int32 [L, ROOM]
    blocks,  # int32 [L, BLOCKS]
    padded,  # int32 [L]
    places,  # int32 [L, EXPERTS]: room to work in
    PAIRS,
    ROOM,
    BLOCKS,
    LOCAL,
    block_m,
    TOP_K: tl.constexpr,
    EXPERTS: tl.constexpr,  # a power of two, E at least
    CHUNK: tl.constexpr,
):
    """Sort the pairs of one adapter. Grid: (L,)."""
    adapter = tl.program_id(0)
    pairs += adapter * ROOM
    blocks += adapter * BLOCKS
    places += adapter * EXPERTS
    step = tl.arange(0, CHUNK)
    expert = tl.arange(0, EXPERTS)
    for start in range(0, ROOM, CHUNK):
        tl.store(pairs + start + step, PAIRS, mask=start + step < ROOM)
    for start in range(0, BLOCKS, CHUNK):
        tl.store(blocks + start + step, -1, mask=start + step < BLOCKS)
    tl.store(places + expert, 0)
    tl.debug_barrier()

    for start in range(0, PAIRS, CHUNK):
        pair = start + step
        own = (pair < PAIRS) & (tl.load(assignment + pair // TOP_K, mask=pair < PAIRS, other=-1) == adapter)
        visited = tl.load(chosen + pair, mask=own, other=0)
        tl.atomic_add(places + visited, 1, mask=own, sem="relaxed")
    tl.debug_barrier()

    filled = (tl.load(places + expert, volatile=True) + block_m - 1) // block_m
    ends = tl.cumsum(filled, 0)
    tl.store(padded + adapter, tl.sum(filled, 0) * block_m)
    for number in range(0, tl.max(filled, 0)):
        here = tl.where(expert < LOCAL, expert, -1)
        tl.store(blocks + ends - filled + number, here, mask=number < filled)
    tl.debug_barrier()
    tl.store(places + expert, (ends - filled) * block_m)
    tl.debug_barrier()

    for start in range(0, PAIRS, CHUNK):
        pair = start + step
        own = (pair < PAIRS) & (tl.load(assignment + pair // TOP_K, mask=pair < PAIRS, other=-1) == adapter)
        visited = tl.load(chosen + pair, mask=own, other=0)
        place = tl.atomic_add(places + visited, 1, mask=own, sem="relaxed")
        tl.store(pairs + place, pair, mask=own)


def sort_into(blocks: MoeBlocks, inputs: MoeInputs, block_m: int) -> None:
    """Sort a step's pairs into blocks of a size. Pairs of the same adapter and expert are in no particular order."""
    experts, slots = experts_of(inputs.problem), inputs.problem.max_loras
    width = triton.next_power_of_2(experts.count)
    places = torch.empty((slots, width), dtype=torch.int32, device=inputs.chosen.device)
    sort_kernel[(slots,)](
        inputs.chosen, inputs.groups.assignment, blocks.pairs, blocks.experts, blocks.padded, places,
        inputs.chosen.numel(), blocks.pairs.shape[1], blocks.experts.shape[1], experts.local, block_m,
        TOP_K=experts.top_k, EXPERTS=width, CHUNK=CHUNK, num_warps=WARPS,
    )  # fmt: skip
