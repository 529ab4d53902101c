# mypy: disable-error-code="no-untyped-def, misc, untyped-decorator"
"""Fused MoE LoRA in Triton, the two-kernel path, and how it is launched. Follows the contract of vLLM 0.33.0.

shrink  ``out[s, p, :] = x[row(p), :] @ A[s][adapter(p), expert(p)].T``
expand  ``out[p, slice s] += weight(p) · x[s, p, :] @ B[s][adapter(p), expert(p)].T``

for every pair p of a token with an adapter and an expert of this rank that it visits.

Notation: T tokens, P pairs, S slices, L adapter slots of the engine, E experts on this rank; as arguments of the kernel
K = length and N = width of the product, ROOM = pairs of an adapter at most, padded.
"""

from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, ClassVar

import triton
import triton.language as tl

from bo_tune.core.conclusion import SHARED
from bo_tune.core.problem import GpuInfo, LoraProblem
from bo_tune.core.space import Config
from bo_tune.kernels.lora.jit import slice_weights
from bo_tune.kernels.lora.own import OwnLoraOperation, address_table, cdiv, source_digest
from bo_tune.kernels.moe.blocks import room
from bo_tune.kernels.moe.inputs import MoeInputs, MoeOperation
from bo_tune.kernels.moe.spec import experts_of

UNSPECIALISED = ["PAIRS", "ROOM", "pairs_stride", "experts_stride", "x_slice", "out_slice"]
"""Arguments that change with every step of an engine: one binary serves them all."""


@triton.jit(do_not_specialize=UNSPECIALISED)
def moe_lora_kernel(
    x,  # [P / SHARE, K], x_slice apart for each slice
    weights,  # table of S addresses of [L, E, N, K]
    out,  # rows of N, out_stride apart for each pair, out_slice for each slice
    routing,  # float32 [P]
    pairs,  # int32 [L, ROOM]
    block_experts,  # int32 [L, experts_stride]
    padded,  # int32 [L]
    adapters,  # int32 [L + 1]
    N,
    K,
    EXPERTS,
    PAIRS,
    ROOM,
    pairs_stride,
    experts_stride,
    x_slice,
    out_slice,
    out_stride,
    SHARE: tl.constexpr,  # pairs that see one row of x
    SLICED_X: tl.constexpr,  # whether slices have different x
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,
    GROUP_SIZE_M: tl.constexpr,
    SPLIT_K: tl.constexpr,
    WEIGHTED: tl.constexpr,
    ADD: tl.constexpr,
):
    """Compute one k-share of one tile. Grid: (SPLIT_K * tiles of ROOM * tiles of N, S, group slots)."""
    # k-shares run fastest, then GROUP_SIZE_M tiles down, then along N.
    share = tl.program_id(0) % SPLIT_K
    tile = tl.program_id(0) // SPLIT_K
    band_tiles = GROUP_SIZE_M * tl.cdiv(N, BLOCK_N)
    band_top = tile // band_tiles * GROUP_SIZE_M
    band_height = tl.minimum(tl.cdiv(ROOM, BLOCK_M) - band_top, GROUP_SIZE_M)
    block = band_top + tile % band_tiles % band_height

    adapter = tl.load(adapters + tl.program_id(2))
    if adapter < 0:
        return
    if block * BLOCK_M >= tl.load(padded + adapter):
        return
    expert = tl.load(block_experts + adapter * experts_stride + block)
    if expert < 0:
        return

    slice_index = tl.program_id(1)
    element: tl.constexpr = out.dtype.element_ty
    pair = tl.load(pairs + adapter.to(tl.int64) * pairs_stride + block * BLOCK_M + tl.arange(0, BLOCK_M))
    filled = pair < PAIRS
    column = tile % band_tiles // band_height * BLOCK_N + tl.arange(0, BLOCK_N)
    k = share * BLOCK_K + tl.arange(0, BLOCK_K)
    x_tile = x + (pair.to(tl.int64) // SHARE)[:, None] * K + k[None, :]
    if SLICED_X:  # an offset of unknown alignment, as in the engine, only where there is one
        x_tile += slice_index.to(tl.int64) * x_slice
    group = adapter.to(tl.int64) * EXPERTS + expert
    w_tile = slice_weights(weights, slice_index, element, True) + group * N * K + (column[None, :] * K + k[:, None])

    product = tl.zeros((BLOCK_M, BLOCK_N), dtype=tl.float32)
    for step in range(0, tl.cdiv(K, BLOCK_K * SPLIT_K)):
        left = K - step * (BLOCK_K * SPLIT_K)
        w_values = tl.load(w_tile, mask=(k < left)[:, None] & (column < N)[None, :], other=0.0)
        x_values = tl.load(x_tile, mask=filled[:, None] & (k < left)[None, :], other=0.0)
        product = tl.dot(x_values, w_values, product)
        x_tile += BLOCK_K * SPLIT_K
        w_tile += BLOCK_K * SPLIT_K
    if WEIGHTED:
        product *= tl.load(routing + pair, mask=filled, other=0.0)[:, None]

    result = product.to(element)
    target = out + slice_index.to(tl.int64) * out_slice + pair.to(tl.int64)[:, None] * out_stride + column[None, :]
    mask = filled[:, None] & (column < N)[None, :]
    if SPLIT_K > 1:
        tl.atomic_add(target, result, mask=mask, sem="relaxed")
    else:
        if ADD:
            result += tl.load(target, mask=mask, other=0.0)
        tl.store(target, result, mask=mask)


class OwnMoeOperation(MoeOperation, OwnLoraOperation[MoeInputs]):
    """One of the project's own kernels as it is launched."""

    kernel = moe_lora_kernel
    optional_constants: ClassVar[Mapping[str, int]] = MappingProxyType({"group_size_m": 8, "split_k": 1})
    digest = source_digest(Path(__file__))

    def note(self, problem: LoraProblem, gpu: GpuInfo) -> str | None:
        return f"the project's own fused MoE kernels have no one-launch path: {SHARED} is chosen by the two-kernel path"

    def even_k(self, problem: LoraProblem, config: Config) -> bool:
        """Always: the ragged end is masked in a loop that is pipelined all the same."""
        return True

    def grid(self, problem: LoraProblem, config: Config) -> tuple[int, int, int]:
        blocks = cdiv(self._room(problem, config), config["block_m"])
        tiles = blocks * cdiv(self.spec.product_width(problem), config["block_n"])
        return config["split_k"] * tiles, problem.num_slices, problem.max_loras + 1

    def _room(self, problem: LoraProblem, config: Config) -> int:
        experts = experts_of(problem)
        return room(problem.m * experts.top_k, experts.count, config["block_m"])

    def arguments(self, inputs: MoeInputs, effective: Config) -> tuple[Any, ...]:
        problem, blocks = inputs.problem, inputs.in_blocks(effective["block_m"])
        experts, adds = experts_of(problem), self.expands
        width, length = self.spec.product_width(problem), self.spec.product_length(problem)
        pairs, space = problem.m * experts.top_k, self._room(problem, effective)
        out_slice, out_stride = (width, problem.num_slices * width) if adds else (pairs * width, width)
        share = experts.top_k if self.is_w13 and not adds else 1
        weighted = adds and not self.is_w13
        return (
            *(inputs.x, address_table(inputs.weights), inputs.out, inputs.routing),
            *(blocks.pairs, blocks.experts, blocks.padded, inputs.groups.adapters),
            *(width, length, experts.local),
            *(pairs, space, space, cdiv(space, effective["block_m"])),
            *(pairs * length if adds else 0, out_slice, out_stride),
            *(share, adds and problem.num_slices > 1),
            *(effective[name] for name in ("block_m", "block_n", "block_k", "group_size_m", "split_k")),
            *(weighted, adds),
        )
