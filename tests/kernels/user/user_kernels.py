"""Kernels as users define them: one that adds to its output, with parameters that are no positive integers."""

import torch
import triton
import triton.language as tl

from bo_tune import Kernel


@triton.jit
def scaled(values, factor):
    return values * factor


@triton.jit
def add_scaled_kernel(
    x, y, n, factor, offset, BLOCK: tl.constexpr, CLAMP: tl.constexpr, MODE: tl.constexpr, OFF: tl.constexpr = 0
):
    place = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    values = scaled(tl.load(x + place + offset, mask=place < n), factor)
    if CLAMP:
        values = tl.maximum(values, 0.0)
    if MODE == "double":
        values = values * 2
    tl.store(y + place, tl.load(y + place, mask=place < n) + values + OFF, mask=place < n)


def inputs(sizes, device):
    dtype = getattr(torch, sizes["dtype"])
    x = torch.randn(sizes["n"] + sizes["skip"], device=device, dtype=dtype)[sizes["skip"] :]
    return {
        "x": x,
        "y": torch.ones(sizes["n"], device=device, dtype=dtype),
        "n": sizes["n"],
        "factor": 0.5,
        "offset": 0,
    }


def reference(arguments):
    return arguments["y"].float() + arguments["factor"] * arguments["x"].float()


add_scaled = Kernel(
    add_scaled_kernel,
    name="add_scaled",
    space={
        "BLOCK": (256, 64, 128),
        "CLAMP": (True, False),
        "MODE": ("single", "double"),
        "num_warps": (1, 4),
        "OFF": (-1, 0),
    },
    inputs=inputs,
    grid=lambda sizes, config: (triton.cdiv(sizes["n"], config["BLOCK"]), 1),
    output="y",
    reference=reference,
    in_place=True,
    features={"blocks of all": lambda sizes, config: config["BLOCK"] / sizes["n"]},
)

kernels_in_a_list = [Kernel(add_scaled_kernel, name="listed", space={"BLOCK": (64,)}, inputs=inputs,
                            grid=lambda sizes, config: 1, output="y", reference=reference)]  # fmt: skip
