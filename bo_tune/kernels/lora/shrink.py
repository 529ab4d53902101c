# mypy: disable-error-code="no-untyped-def, misc, untyped-decorator"
"""Multi-LoRA shrink in Triton, and how it is launched. Follows the contract of vLLM 0.33.0.

``out[s, t, :] = scale * x[t, :] @ A[s][adapter(t)].T`` for every token t with an adapter.

Notation: T tokens, H input size, R rank, S slices, L adapter slots of the engine; as arguments of the kernel
M = T, N = R, K = H.
"""

from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, ClassVar

import triton
import triton.language as tl

from bo_tune.core.problem import LoraProblem
from bo_tune.core.space import Config
from bo_tune.kernels.lora.inputs import ShrinkInputs, ShrinkOperation
from bo_tune.kernels.lora.jit import multiply, slice_weights, token_rows
from bo_tune.kernels.lora.own import OwnLoraOperation, cdiv, source_digest, weights_argument
from bo_tune.kernels.lora.spec import DEFAULT_GROUP_SIZE_M


@triton.jit
def lora_shrink_kernel(
    x,  # [M, K]
    weights,  # [L, 1, N, K], or a table of S addresses of such
    out,  # float32 [S, M, N], zero
    tokens_by_adapter,  # int32 [M]
    group_rows,  # int32 [L + 1]
    group_starts,  # int32 [L + 2]
    adapters,  # int32 [L + 1]
    scale,
    M,
    N,
    K,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,
    SPLIT_K: tl.constexpr,
    GROUP_SIZE_M: tl.constexpr,
    EVEN_K: tl.constexpr,
    POINTER_TABLE: tl.constexpr,
):
    """Add one k-share of one tile. Grid: (SPLIT_K * tiles of M * tiles of N, S, group slots)."""
    slot = tl.program_id(2)
    # Read together: one trip to memory before the exit instead of three in a row.
    adapter = tl.load(adapters + slot)
    rows = tl.load(group_rows + slot)
    start = tl.load(group_starts + slot)

    # k-shares run fastest, then GROUP_SIZE_M tiles down, then along N.
    share = tl.program_id(0) % SPLIT_K
    tile = tl.program_id(0) // SPLIT_K
    band_tiles = GROUP_SIZE_M * tl.cdiv(N, BLOCK_N)
    band_top = tile // band_tiles * GROUP_SIZE_M
    band_height = tl.minimum(tl.cdiv(M, BLOCK_M) - band_top, GROUP_SIZE_M)
    first_row = (band_top + tile % band_tiles % band_height) * BLOCK_M
    if (adapter < 0) | (first_row >= rows):
        return

    element: tl.constexpr = x.dtype.element_ty
    slice_index = tl.program_id(1)
    token = token_rows(tokens_by_adapter, start, rows, first_row, BLOCK_M)
    column = tile % band_tiles // band_height * BLOCK_N + tl.arange(0, BLOCK_N)
    first_k = share * BLOCK_K
    k = first_k + tl.arange(0, BLOCK_K)
    # 64 bits where tokens * H or adapters * R * H may pass 2**31. The rest does not:
    # summed in 32 bits before it meets a pointer it takes fewer registers.
    x_tile = x + token[:, None].to(tl.int64) * K + k[None, :]
    adapter_weights = slice_weights(weights, slice_index, element, POINTER_TABLE) + adapter.to(tl.int64) * N * K
    w_tile = adapter_weights + (tl.minimum(column, N - 1)[None, :] * K + k[:, None])
    product = multiply(x_tile, w_tile, first_k, K, SPLIT_K * BLOCK_K, BLOCK_M, BLOCK_N, BLOCK_K, EVEN_K, element)
    product *= scale

    target = out + slice_index.to(tl.int64) * M * N + token[:, None] * N + column[None, :]
    mask = (first_row + tl.arange(0, BLOCK_M) < rows)[:, None] & (column < N)[None, :]
    if SPLIT_K == 1:
        tl.store(target, product, mask=mask)
    else:
        tl.atomic_add(target, product, mask=mask, sem="relaxed")


class LoraShrink(ShrinkOperation, OwnLoraOperation[ShrinkInputs]):
    """The project's own shrink kernel."""

    kernel = lora_shrink_kernel
    optional_constants: ClassVar[Mapping[str, int]] = MappingProxyType(
        {"group_size_m": DEFAULT_GROUP_SIZE_M, "split_k": 1}
    )
    digest = source_digest(Path(__file__))

    def even_k(self, problem: LoraProblem, config: Config) -> bool:
        return problem.k % (config["block_k"] * config.get("split_k", 1)) == 0

    def grid(self, problem: LoraProblem, config: Config) -> tuple[int, int, int]:
        tiles = cdiv(problem.m, config["block_m"]) * cdiv(problem.n, config["block_n"])
        return config.get("split_k", 1) * tiles, problem.num_slices, problem.max_loras + 1

    def arguments(self, inputs: ShrinkInputs, effective: Config) -> tuple[Any, ...]:
        problem, tensors = inputs.problem, (inputs.x, weights_argument(inputs.weights), inputs.out)
        sizes = (inputs.scale, problem.m, problem.n, problem.k)
        tile = (effective["block_m"], effective["block_n"], effective["block_k"])
        compiled_in = (*tile, effective["split_k"], effective["group_size_m"], self.even_k(problem, effective))
        return *tensors, *inputs.groups.arguments, *sizes, *compiled_in, problem.num_slices > 1
