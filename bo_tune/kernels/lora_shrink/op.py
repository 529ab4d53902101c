# mypy: disable-error-code="no-untyped-def, misc, untyped-decorator"
"""Multi-LoRA shrink in Triton, and how it is launched. Follows the contract of vLLM 0.33.0.

``out[s, t, :] = scale * x[t, :] @ A[s][adapter(t)].T`` for every token t with an adapter.

Notation: T tokens, H input size, R rank, S slices, L adapter slots of the engine; as arguments of the kernel
M = T, N = R, K = H.
"""

from collections.abc import Hashable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any, ClassVar

import torch
import triton
import triton.language as tl

from bo_tune.kernels.lora.jit import multiply, slice_weights, token_rows
from bo_tune.kernels.lora.operation import (
    LoraInputs,
    LoraOperation,
    cdiv,
    draw,
    dtype_of,
    int_specialisation,
    source_digest,
    weights_argument,
    weights_dtype,
)
from bo_tune.kernels.lora.tokens import TokenGroups
from bo_tune.kernels.lora_shrink import naive
from bo_tune.kernels.lora_shrink.spec import DEFAULT_GROUP_SIZE_M
from bo_tune.problem import Problem
from bo_tune.space import Config

RELATIVE_TOLERANCE = 1e-4
"""float32 sums in another order differ by 1e-6; one lost tile of 1,000 would differ by 3e-2."""


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


@dataclass(slots=True)
class ShrinkInputs(LoraInputs):
    """Inputs of one shrink problem: ``x`` [T, H], ``weights`` S × [L, 1, R, H], ``out`` float32 [S, T, R]."""

    scale: float = 0.5


class LoraShrink(LoraOperation[ShrinkInputs]):
    """The project's own shrink kernel."""

    name = "lora_shrink"
    kernel = lora_shrink_kernel
    optional_constants: ClassVar[Mapping[str, int]] = MappingProxyType(
        {"group_size_m": DEFAULT_GROUP_SIZE_M, "split_k": 1}
    )
    digest = source_digest(Path(__file__))

    def assemble(
        self, problem: Problem, groups: TokenGroups, generator: torch.Generator, device: torch.device
    ) -> ShrinkInputs:
        dtype = dtype_of(problem)
        weights = tuple(
            draw((problem.max_loras, 1, width, problem.k), dtype, generator, device, scale=problem.k**-0.5)
            for width in problem.slice_sizes
        )
        return ShrinkInputs(
            problem=problem,
            x=draw((problem.m, problem.k), dtype, generator, device),
            weights=weights,
            groups=groups,
            out=torch.zeros((problem.num_slices, problem.m, problem.n), dtype=torch.float32, device=device),
        )

    def reset(self, inputs: ShrinkInputs) -> None:
        inputs.out.zero_()

    def poison(self, inputs: ShrinkInputs) -> None:
        """As ``reset``: the kernel adds to its output, so that a skipped element shows as zero."""
        inputs.out.zero_()

    def reference(self, inputs: ShrinkInputs) -> torch.Tensor:
        return naive.lora_shrink(inputs.x, inputs.weights, inputs.groups.assignment, inputs.scale)

    def tolerance(self, problem: Problem) -> float:
        return RELATIVE_TOLERANCE

    def even_k(self, problem: Problem, config: Config) -> bool:
        return problem.k % (config["block_k"] * config.get("split_k", 1)) == 0

    def grid(self, problem: Problem, config: Config) -> tuple[int, int, int]:
        tiles = cdiv(problem.m, config["block_m"]) * cdiv(problem.n, config["block_n"])
        return config.get("split_k", 1) * tiles, problem.num_slices, problem.max_loras + 1

    def arguments(self, inputs: ShrinkInputs) -> tuple[Any, ...]:
        problem, groups = inputs.problem, inputs.groups
        weights = weights_argument(inputs.weights)
        sizes = (problem.m, problem.n, problem.k)
        return inputs.x, weights, inputs.out, *groups.arguments, inputs.scale, *sizes

    def argument_types(self, problem: Problem) -> tuple[Any, ...]:
        sizes = (problem.m, problem.n, problem.k)
        return (
            dtype_of(problem),
            weights_dtype(problem),
            torch.float32,
            *(torch.int32,) * 4,
            1.0,
            *sizes,
        )

    def constants(self, problem: Problem, effective: Config) -> tuple[Any, ...]:
        tile = (effective["block_m"], effective["block_n"], effective["block_k"])
        even_k, pointer_table = self.even_k(problem, effective), problem.num_slices > 1
        return *tile, effective["split_k"], effective["group_size_m"], even_k, pointer_table

    def variant(self, problem: Problem) -> Hashable:
        return (
            problem.dtype,
            problem.num_slices > 1,
            *(int_specialisation(size) for size in (problem.m, problem.n, problem.k)),
        )
