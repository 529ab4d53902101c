"""Kernels as people have them: under triton.autotune and triton.heuristics, with descriptors, None and dtypes."""

import torch
import triton
import triton.language as tl
from triton.tools.tensor_descriptor import TensorDescriptor

from bo_tune import Kernel


def prune(configs, arguments, **named):
    assert named["n"] == arguments["n"]
    return [config for config in configs if config.kwargs["BLOCK"] <= arguments["n"]]


@triton.autotune(
    configs=[triton.Config({"BLOCK": block}, num_warps=warps) for block in (64, 128, 1024) for warps in (2, 4)],
    key=["n"],
    prune_configs_by={"early_config_prune": prune},
    reset_to_zero=["total"],
    restore_value=["x"],
)
@triton.heuristics({"EVEN": lambda arguments: arguments["n"] % arguments["BLOCK"] == 0})
@triton.jit
def add_up_kernel(x, total, n, BLOCK: tl.constexpr, EVEN: tl.constexpr):
    place = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    values = tl.load(x + place) if EVEN else tl.load(x + place, mask=place < n, other=0.0)
    tl.atomic_add(total, tl.sum(values, 0))
    tl.store(x + place, values + 1, mask=place < n)


add_up = Kernel(
    add_up_kernel,
    inputs=lambda sizes, device: {
        "x": torch.rand(sizes["n"], device=device), "total": torch.ones(1, device=device), "n": sizes["n"]
    },
    grid=lambda sizes, config: triton.cdiv(sizes["n"], config["BLOCK"]),
    output=("total", "x"),
    reference=lambda arguments: (arguments["x"].sum().view(1), arguments["x"] + 1),
)  # fmt: skip


def set_block_shapes(arguments):
    m, n, k = (arguments[f"BLOCK_{side}"] for side in "MNK")
    arguments["a"].block_shape, arguments["b"].block_shape, arguments["c"].block_shape = [m, k], [k, n], [m, n]


@triton.jit
def described_kernel(a, b, c, K, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr):
    row, column = tl.program_id(0) * BLOCK_M, tl.program_id(1) * BLOCK_N
    product = tl.zeros((BLOCK_M, BLOCK_N), dtype=tl.float32)
    for k in range(0, K, BLOCK_K):
        product = tl.dot(a.load([row, k]), b.load([k, column]), product)
    c.store([row, column], product.to(tl.float16))


def described(sizes, device):
    a, b = (torch.randn(64, 64, device=device, dtype=torch.float16) for _ in "ab")
    c = torch.empty(64, 64, device=device, dtype=torch.float16)
    return {**{name: TensorDescriptor.from_tensor(t, [1, 16]) for name, t in (("a", a), ("b", b), ("c", c))}, "K": 64}


PRODUCT = {
    "inputs": described,
    "grid": lambda sizes, config: (64 // config["BLOCK_M"], 64 // config["BLOCK_N"]),
    "output": "c",
    "reference": lambda arguments: (arguments["a"].base @ arguments["b"].base).float(),
}

by_block_shapes = Kernel(
    described_kernel,
    name="by_block_shapes",
    space={"BLOCK_M": (16, 64), "BLOCK_N": (16, 32), "BLOCK_K": (16, 32)},
    block_shapes={"a": ("BLOCK_M", "BLOCK_K"), "b": ("BLOCK_K", "BLOCK_N"), "c": ("BLOCK_M", "BLOCK_N")},
    **PRODUCT,
)

by_hook = Kernel(
    triton.autotune(
        [
            triton.Config({"BLOCK_M": m, "BLOCK_N": n, "BLOCK_K": 32}, num_stages=2, pre_hook=set_block_shapes)
            for m, n in ((16, 16), (64, 32))
        ],
        key=[],
    )(described_kernel),
    name="by_hook",
    **PRODUCT,
)


@triton.jit
def affine_kernel(x, y, bias, n, BLOCK: tl.constexpr, ACC: tl.constexpr, TYPE: tl.constexpr, SHAPE: tl.constexpr):
    place = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    values = tl.load(x + place, mask=place < n).to(TYPE).to(ACC) * SHAPE[0]
    if bias is not None:
        values += tl.load(bias + place, mask=place < n)
    tl.store(y + place, values, mask=place < n)


def affine_inputs(sizes, device):
    x, y = torch.randn(sizes["n"], device=device), torch.empty(sizes["n"], device=device)
    bias = torch.randn(sizes["n"], device=device) if sizes["bias"] else None
    return {"x": x, "y": y, "bias": bias, "n": sizes["n"], "ACC": tl.float32}


affine = Kernel(
    affine_kernel,
    name="affine",
    space={
        "BLOCK": (64, 128),
        "TYPE": (tl.float32, tl.float16),
        "SHAPE": ((2, 3), (4, None)),
        "maxnreg": (None, 32),
        "enable_fp_fusion": (True, False),
        "launch_pdl": (False, True),
    },
    default={"BLOCK": 64, "TYPE": tl.float32, "SHAPE": (2, 3), "maxnreg": None, "enable_fp_fusion": True,
             "launch_pdl": False},
    inputs=affine_inputs,
    grid=lambda sizes, config: triton.cdiv(sizes["n"], config["BLOCK"]),
    output="y",
)  # fmt: skip
