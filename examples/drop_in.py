"""Triton's matrix product under bo_tune.autotune instead of triton.autotune: python examples/drop_in.py"""

import sys

import torch
import triton
import triton.language as tl

from bo_tune import autotune


def configs():
    return [
        triton.Config({"BLOCK_M": m, "BLOCK_N": n, "BLOCK_K": k, "GROUP_M": 8}, num_warps=warps, num_stages=stages)
        for m in (64, 128, 256)
        for n in (64, 128, 256)
        for k in (32, 64)
        for warps in (4, 8)
        for stages in (2, 3, 4)
        if m * n / (32 * warps) < 256
    ]


@autotune(configs=configs(), key=["M", "N", "K"])
@triton.jit
def matmul_kernel(
    a,  # [M, K]
    b,  # [K, N]
    c,  # [M, N]
    M,
    N,
    K,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,
    GROUP_M: tl.constexpr,
):
    """Multiply one tile. GROUP_M tiles down come before the next along N."""
    band_tiles = GROUP_M * tl.cdiv(N, BLOCK_N)
    top = tl.program_id(0) // band_tiles * GROUP_M
    height = min(tl.cdiv(M, BLOCK_M) - top, GROUP_M)
    row = (top + tl.program_id(0) % band_tiles % height) * BLOCK_M + tl.arange(0, BLOCK_M)
    column = tl.program_id(0) % band_tiles // height * BLOCK_N + tl.arange(0, BLOCK_N)
    k = tl.arange(0, BLOCK_K)
    a_tile = a + (row % M)[:, None] * K + k[None, :]
    b_tile = b + k[:, None] * N + (column % N)[None, :]
    product = tl.zeros((BLOCK_M, BLOCK_N), dtype=tl.float32)
    for start in range(0, K, BLOCK_K):
        left = tl.load(a_tile, mask=k[None, :] < K - start, other=0.0)
        right = tl.load(b_tile, mask=k[:, None] < K - start, other=0.0)
        product = tl.dot(left, right, product)
        a_tile += BLOCK_K
        b_tile += BLOCK_K * N
    inside = (row < M)[:, None] & (column < N)[None, :]
    tl.store(c + row[:, None] * N + column[None, :], product.to(c.dtype.element_ty), mask=inside)


def matmul(a, b):
    (m, k), n = a.shape, b.shape[1]
    c = torch.empty(m, n, device=a.device, dtype=a.dtype)
    matmul_kernel[lambda meta: (triton.cdiv(m, meta["BLOCK_M"]) * triton.cdiv(n, meta["BLOCK_N"]),)](a, b, c, m, n, k)
    return c


if __name__ == "__main__":
    if not torch.cuda.is_available():
        sys.exit("examples/drop_in.py launches its kernel: it needs an NVIDIA GPU")
    for size in (2048, 4096):
        a, b = (torch.randn(size, size, device="cuda", dtype=torch.float16) for _ in "ab")
        error = (matmul(a, b) - a @ b).abs().max().item()
        print(f"{size}: {matmul_kernel.best_config}, off by {error:.3g} at most")
