# mypy: disable-error-code="no-untyped-def, misc, untyped-decorator"
"""Triton functions that the LoRA kernels share.

Follows the contract of vLLM 0.33.0. Where a faster way would move the optimum away from that engine's
(a hint on the alignment of addresses read from tables, leaving out programs that add nothing), the slower
one is kept: a config must cost here what it costs there.
"""

import triton
import triton.language as tl


@triton.jit
def slice_weights(weights, slice_index, element: tl.constexpr, POINTER_TABLE: tl.constexpr):
    """Return the pointer to one slice's weights: the argument itself, or an entry of a table of addresses."""
    if POINTER_TABLE:
        return tl.load(weights + slice_index).to(tl.pointer_type(element))
    else:  # noqa: RET505 (Triton needs the branch: a constexpr condition prunes it, a return does not)
        return weights


@triton.jit
def token_rows(tokens_by_adapter, group_start, group_rows, first_row, BLOCK_M: tl.constexpr):
    """Return the token of each row of a tile, int32 ``[BLOCK_M]``; rows beyond the group repeat its last token."""
    row = tl.minimum(first_row + tl.arange(0, BLOCK_M), group_rows - 1)
    return tl.load(tokens_by_adapter + group_start + row)


@triton.jit
def multiply(
    x,
    w,
    first_k,
    K,
    STEP: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,
    EVEN_K: tl.constexpr,
    element: tl.constexpr,
):
    """Return the float32 product ``[BLOCK_M, BLOCK_N]`` over the tiles at first_k, first_k + STEP, ... below K.

    ``x`` points at the first tile of activations ``[BLOCK_M, BLOCK_K]``, ``w`` at that of the weights
    ``[BLOCK_K, BLOCK_N]``; along k both are contiguous. With EVEN_K, STEP divides K and no tile is ragged.
    """
    product = tl.zeros((BLOCK_M, BLOCK_N), dtype=tl.float32)
    if EVEN_K:
        for _ in range(K // STEP):
            w_tile = tl.load(w)
            x_tile = tl.load(x).to(element)
            product = tl.dot(x_tile, w_tile, product)
            x += STEP
            w += STEP
    else:
        # Never pipelined, as in the engine: num_stages neither takes shared memory nor saves time here.
        for tile_k in tl.range(first_k, K, STEP, num_stages=1):
            inside = tile_k + tl.arange(0, BLOCK_K) < K
            w_tile = tl.load(w, mask=inside[:, None], other=0.0)
            x_tile = tl.load(x, mask=inside[None, :], other=0.0).to(element)
            product = tl.dot(x_tile, w_tile, product)
            x += STEP
            w += STEP
    return product
