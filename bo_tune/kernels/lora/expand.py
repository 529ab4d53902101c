# mypy: disable-error-code="no-untyped-def, misc, untyped-decorator"
"""Multi-LoRA expand in Triton, and how it is launched. Follows the contract of vLLM 0.33.0.

``out[t, slice s] (+)= x[s, t, :] @ B[s][adapter(t)].T`` for every token t with an adapter.

Notation: T tokens, R rank, S slices, N_s width of slice s, L adapter slots of the engine; as arguments of the
kernel M = T, K = R and N = the widest slice.
"""

from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, ClassVar

import torch
import triton
import triton.language as tl

from bo_tune.core.problem import LoraProblem
from bo_tune.core.space import Config
from bo_tune.kernels.lora.inputs import ExpandInputs, ExpandOperation, adds_inputs
from bo_tune.kernels.lora.jit import multiply, slice_weights, token_rows
from bo_tune.kernels.lora.own import OwnLoraOperation, cdiv, source_digest, weights_argument


@triton.jit
def lora_expand_kernel(
    x,  # float32 [S, M, K]
    weights,  # [L, 1, N, K], or a table of S addresses of such
    out,  # [M, out_stride]
    tokens_by_adapter,  # int32 [M]
    group_rows,  # int32 [L + 1]
    group_starts,  # int32 [L + 2]
    adapters,  # int32 [L + 1]
    slice_widths,  # int32 [S]; None where all are N
    slice_starts,  # int32 [S], first column of each slice; None for one slice
    M,
    N,
    K,
    out_stride,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,
    EVEN_K: tl.constexpr,
    ADD_INPUTS: tl.constexpr,
    POINTER_TABLE: tl.constexpr,
    EQUAL_WIDTHS: tl.constexpr,
):
    """Write one tile of one slice. Grid: (tiles of M * tiles of N, S, group slots)."""
    slot = tl.program_id(2)
    slice_index = tl.program_id(1)
    # Read together: one trip to memory before the exit instead of four in a row.
    adapter = tl.load(adapters + slot)
    rows = tl.load(group_rows + slot)
    start = tl.load(group_starts + slot)
    width = N if EQUAL_WIDTHS else tl.load(slice_widths + slice_index)

    tiles_m = tl.cdiv(M, BLOCK_M)
    first_row = tl.program_id(0) % tiles_m * BLOCK_M
    first_column = tl.program_id(0) // tiles_m * BLOCK_N
    if (adapter < 0) | (first_row >= rows) | (first_column >= width):
        return

    element: tl.constexpr = out.dtype.element_ty
    token = token_rows(tokens_by_adapter, start, rows, first_row, BLOCK_M)
    column = first_column + tl.arange(0, BLOCK_N)
    k = tl.arange(0, BLOCK_K)
    # 64 bits where tokens * sum of N_s or adapters * N_s * R may pass 2**31. The rest does not:
    # summed in 32 bits before it meets a pointer it takes fewer registers.
    x_tile = x + slice_index.to(tl.int64) * M * K + token[:, None] * K + k[None, :]
    adapter_weights = slice_weights(weights, slice_index, element, POINTER_TABLE) + adapter.to(tl.int64) * width * K
    w_tile = adapter_weights + (tl.minimum(column, width - 1)[None, :] * K + k[:, None])
    product = multiply(x_tile, w_tile, 0, K, BLOCK_K, BLOCK_M, BLOCK_N, BLOCK_K, EVEN_K, element).to(element)

    # A table even for slices of equal width: its entries' alignment is unknown to the compiler, as in the engine.
    slice_start = tl.load(slice_starts + slice_index) if POINTER_TABLE else 0
    target = out + token[:, None].to(tl.int64) * out_stride + (slice_start + column)[None, :]
    mask = (first_row + tl.arange(0, BLOCK_M) < rows)[:, None] & (column < width)[None, :]
    if ADD_INPUTS:
        product += tl.load(target, mask=mask)
    tl.store(target, product, mask=mask)


class LoraExpand(ExpandOperation, OwnLoraOperation[ExpandInputs]):
    """The project's own expand kernel."""

    kernel = lora_expand_kernel
    optional_constants: ClassVar[Mapping[str, int]] = MappingProxyType({})
    digest = source_digest(Path(__file__))

    def even_k(self, problem: LoraProblem, config: Config) -> bool:
        return problem.k % config["block_k"] == 0

    def grid(self, problem: LoraProblem, config: Config) -> tuple[int, int, int]:
        tiles = cdiv(problem.m, config["block_m"]) * cdiv(problem.n, config["block_n"])
        return tiles, problem.num_slices, problem.max_loras + 1

    def arguments(self, inputs: ExpandInputs, effective: Config) -> tuple[Any, ...]:
        problem, device = inputs.problem, inputs.x.device
        several, equal = problem.num_slices > 1, len(set(problem.slice_sizes)) == 1
        widths = torch.tensor(problem.slice_sizes, dtype=torch.int32)
        starts = (widths.cumsum(0, dtype=torch.int32) - widths).to(device) if several else None
        tensors = (inputs.x, weights_argument(inputs.weights), inputs.out, *inputs.groups.arguments)
        slices = (None if equal else widths.to(device), starts)
        sizes = (problem.m, problem.n, problem.k, inputs.out.stride(0))
        tile = (effective["block_m"], effective["block_n"], effective["block_k"])
        compiled_in = (*tile, self.even_k(problem, effective), adds_inputs(problem), several, equal)
        return *tensors, *slices, *sizes, *compiled_in
