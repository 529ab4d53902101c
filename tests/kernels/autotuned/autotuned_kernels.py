"""Kernels under ``bo_tune.autotune``: of a list, of a space, with a descriptor, above and below heuristics."""

import torch
import triton
import triton.language as tl
from triton.tools.tensor_descriptor import TensorDescriptor

import bo_tune


@bo_tune.autotune({"BLOCK": (64, 128, 256), "num_warps": (1, 2, 4)}, key=["n"], on_miss="default")
@triton.jit
def double_kernel(x, y, n, BLOCK: tl.constexpr):
    place = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    tl.store(y + place, tl.load(x + place, mask=place < n) * 2, mask=place < n)


def doubled(x: torch.Tensor) -> torch.Tensor:
    y, n = torch.empty_like(x), x.numel()
    double_kernel[lambda meta: (triton.cdiv(n, meta["BLOCK"]),)](x, y, n)
    return y


def prune(configs, named, **more):
    return [config for config in configs if config.kwargs["BLOCK"] <= named["n"]]


@triton.heuristics({"SCALE": lambda arguments: 3 if arguments["n"] > 100 else 2})
@bo_tune.autotune(
    [triton.Config({"BLOCK": block}, num_warps=warps) for block in (64, 128, 1024) for warps in (2, 4)],
    key=["n", "SCALE"],
    prune_configs_by={"early_config_prune": prune},
    reset_to_zero=["total"],
    restore_value=["x"],
    on_miss="default",
)
@triton.heuristics({"EVEN": lambda arguments: arguments["n"] % arguments["BLOCK"] == 0})
@triton.jit
def add_up_kernel(x, total, n, bias, SCALE: tl.constexpr, BLOCK: tl.constexpr, EVEN: tl.constexpr):
    place = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    values = tl.load(x + place) if EVEN else tl.load(x + place, mask=place < n, other=0.0)
    if bias is not None:
        values += tl.load(bias)
    tl.atomic_add(total, tl.sum(values, 0) * SCALE)
    tl.store(x + place, values + 1, mask=place < n)


def added_up(x: torch.Tensor, bias: torch.Tensor | None = None) -> torch.Tensor:
    total = torch.zeros(1, device=x.device)
    add_up_kernel[lambda meta: (triton.cdiv(x.numel(), meta["BLOCK"]),)](x, total, x.numel(), bias)
    return total


def set_block_shapes(arguments):
    m, n, k = (arguments[f"BLOCK_{side}"] for side in "MNK")
    arguments["a"].block_shape, arguments["b"].block_shape, arguments["c"].block_shape = [m, k], [k, n], [m, n]


@bo_tune.autotune(
    [
        triton.Config({"BLOCK_M": m, "BLOCK_N": n, "BLOCK_K": 32}, num_stages=2, pre_hook=set_block_shapes)
        for m, n in ((16, 16), (64, 32), (32, 32))
    ],
    key=["K"],
    on_miss="default",
    outputs="c",
)
@triton.jit
def described_kernel(a, b, c, K, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr):
    row, column = tl.program_id(0) * BLOCK_M, tl.program_id(1) * BLOCK_N
    product = tl.zeros((BLOCK_M, BLOCK_N), dtype=tl.float32)
    for k in range(0, K, BLOCK_K):
        product = tl.dot(a.load([row, k]), b.load([k, column]), product)
    c.store([row, column], product.to(tl.float16))


def multiplied(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    c = torch.empty(a.shape[0], b.shape[1], device=a.device, dtype=a.dtype)
    described_kernel[lambda meta: (a.shape[0] // meta["BLOCK_M"], b.shape[1] // meta["BLOCK_N"])](
        *(TensorDescriptor.from_tensor(tensor, [1, 16]) for tensor in (a, b, c)), a.shape[1]
    )
    return c


def fill_rows(arguments):
    arguments["rows"].copy_(torch.arange(arguments["rows"].numel()))


@bo_tune.autotune({"BLOCK": (64, 128)}, key=["n"], on_miss="default", outputs=("out",), fill=fill_rows)
@triton.jit
def gather_kernel(x, rows, out, n, BLOCK: tl.constexpr):
    column = tl.arange(0, BLOCK)
    row = tl.load(rows + tl.program_id(0))
    for start in range(0, n, BLOCK):
        inside = start + column < n
        values = tl.load(x + row * n + start + column, mask=inside)
        tl.store(out + tl.program_id(0) * n + start + column, values, mask=inside)


def gathered(x: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
    out = torch.empty(rows.numel(), x.shape[1], device=x.device)
    gather_kernel[(rows.numel(),)](x, rows, out, x.shape[1])
    return out
