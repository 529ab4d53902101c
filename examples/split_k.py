"""A matrix product of few rows, split along k where that pays, tuned: python examples/split_k.py"""

import torch
import triton
import triton.language as tl

import bo_tune


@triton.jit
def product_kernel(
    a,  # [M, K]
    b,  # [K, N]
    c,  # [SPLIT_K, M, N]
    M,
    N,
    K,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,
    SPLIT_K: tl.constexpr,
):
    """Multiply one tile, along one of SPLIT_K shares of k."""
    row = tl.program_id(0) * BLOCK_M + tl.arange(0, BLOCK_M)
    column = tl.program_id(1) * BLOCK_N + tl.arange(0, BLOCK_N)
    share = tl.program_id(2)
    product = tl.zeros((BLOCK_M, BLOCK_N), dtype=tl.float32)
    for start in range(share * BLOCK_K, K, SPLIT_K * BLOCK_K):
        k = start + tl.arange(0, BLOCK_K)
        left = tl.load(a + (row % M)[:, None] * K + k[None, :], mask=k[None, :] < K, other=0.0)
        right = tl.load(b + k[:, None] * N + (column % N)[None, :], mask=k[:, None] < K, other=0.0)
        product = tl.dot(left, right, product)
    inside = (row < M)[:, None] & (column < N)[None, :]
    place = c + share * M * N + row[:, None] * N + column[None, :]
    tl.store(place, product.to(c.dtype.element_ty), mask=inside)


@triton.jit
def sum_kernel(shares, c, count, SPLIT_K: tl.constexpr, BLOCK: tl.constexpr):
    """Add the shares up."""
    place = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    total = tl.zeros((BLOCK,), tl.float32)
    for share in tl.static_range(SPLIT_K):
        total += tl.load(shares + share * count + place, mask=place < count, other=0.0)
    tl.store(c + place, total.to(c.dtype.element_ty), mask=place < count)


def make(sizes, device):
    m, n, k = sizes["M"], sizes["N"], sizes["K"]
    a = torch.randn(m, k, device=device, dtype=torch.float16)
    b = torch.randn(k, n, device=device, dtype=torch.float16)
    return {"a": a, "b": b, "c": torch.empty(m, n, device=device, dtype=torch.float16)}


def run(arguments, config, gpu):
    """Write c: in one launch, or in two with scratch of SPLIT_K times its size."""
    a, b, c = arguments["a"], arguments["b"], arguments["c"]
    (m, k), n, split = a.shape, b.shape[1], config["SPLIT_K"]
    shares = c if split == 1 else torch.empty(split, m, n, device=c.device, dtype=torch.float32)
    tiles = {name: config[name] for name in ("BLOCK_M", "BLOCK_N", "BLOCK_K")}
    options = {"num_warps": config["num_warps"], "num_stages": config["num_stages"]}
    grid = (triton.cdiv(m, tiles["BLOCK_M"]), triton.cdiv(n, tiles["BLOCK_N"]), split)
    product_kernel[grid](a, b, shares, m, n, k, SPLIT_K=split, **tiles, **options)
    if split > 1:
        sum_kernel[(triton.cdiv(c.numel(), 1024),)](shares, c, c.numel(), SPLIT_K=split, BLOCK=1024)


split_k = bo_tune.Operation(
    "split_k",
    space={
        "BLOCK_M": (16, 32, 64),
        "BLOCK_N": (32, 64, 128),
        "BLOCK_K": (64, 128, 256),
        "SPLIT_K": (1, 2, 4, 8, 16),
        "num_warps": (4, 8),
        "num_stages": (2, 3, 4),
    },
    sizes=("M", "N", "K"),
    make=make,
    run=run,
    outputs="c",
    valid=lambda sizes, config: config["SPLIT_K"] * config["BLOCK_K"] <= sizes["K"],
    default={"BLOCK_M": 16, "BLOCK_N": 64, "BLOCK_K": 64, "SPLIT_K": 1, "num_warps": 4, "num_stages": 3},
    reference=lambda arguments: (arguments["a"] @ arguments["b"]).float(),
)

if __name__ == "__main__":
    problems = [{"M": 16, "N": 4096, "K": 4096}, {"M": 16, "N": 1024, "K": 16384}]
    for best in bo_tune.tune(split_k, problems, storage="sqlite:///split_k.db"):
        print(best)
