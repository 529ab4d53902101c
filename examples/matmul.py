"""A matrix product whose programs share tiles in the L2 cache by their order, tuned: python examples/matmul.py"""

import torch
import triton
import triton.language as tl

import bo_tune


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


def inputs(sizes, device):
    m, n, k, dtype = sizes["M"], sizes["N"], sizes["K"], getattr(torch, sizes["dtype"])
    a = torch.randn(m, k, device=device, dtype=dtype)
    b = torch.randn(k, n, device=device, dtype=dtype)
    return {"a": a, "b": b, "c": torch.empty(m, n, device=device, dtype=dtype), "M": m, "N": n, "K": k}


def fits(sizes, config):
    """Fewer than 256 accumulators in a thread: more would spill, and take long to compile."""
    return config["BLOCK_M"] * config["BLOCK_N"] / (32 * config["num_warps"]) < 256


matmul = bo_tune.Kernel(
    matmul_kernel,
    space={
        "BLOCK_M": (32, 64, 128, 256),
        "BLOCK_N": (32, 64, 128, 256),
        "BLOCK_K": (32, 64, 128),
        "GROUP_M": (4, 8),
        "num_warps": (4, 8),
        "num_stages": (2, 3, 4, 5),
    },
    valid=fits,
    default={"BLOCK_M": 128, "BLOCK_N": 128, "BLOCK_K": 32, "GROUP_M": 8, "num_warps": 4, "num_stages": 4},
    inputs=inputs,
    grid=lambda sizes, config: triton.cdiv(sizes["M"], config["BLOCK_M"]) * triton.cdiv(sizes["N"], config["BLOCK_N"]),
    output="c",
    reference=lambda arguments: (arguments["a"] @ arguments["b"]).float(),
)

if __name__ == "__main__":
    sizes = {"M": 4096, "N": 4096, "K": 4096, "dtype": "float16"}
    for best in bo_tune.tune(matmul, [sizes], storage="sqlite:///matmul.db"):
        print(best)
