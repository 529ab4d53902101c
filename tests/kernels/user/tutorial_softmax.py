"""A softmax as in Triton's second tutorial: persistent, pipelined by a parameter called num_stages."""

import torch
import triton
import triton.language as tl

from bo_tune import Kernel, Operation


@triton.jit
def softmax_kernel(out, x, x_stride, out_stride, rows, cols, BLOCK: tl.constexpr, num_stages: tl.constexpr):
    for row in tl.range(tl.program_id(0), rows, tl.num_programs(0), num_stages=num_stages):
        column = tl.arange(0, BLOCK)
        values = tl.load(x + row * x_stride + column, mask=column < cols, other=-float("inf"))
        powers = tl.exp(values - tl.max(values, axis=0))
        tl.store(out + row * out_stride + column, powers / tl.sum(powers, axis=0), mask=column < cols)


def inputs(sizes, device):
    x = torch.randn(sizes["rows"], sizes["cols"], device=device)
    return {
        "out": torch.empty_like(x),
        "x": x,
        "x_stride": x.stride(0),
        "out_stride": x.stride(0),
        "rows": sizes["rows"],
        "cols": sizes["cols"],
        "BLOCK": triton.next_power_of_2(sizes["cols"]),
    }


softmax = Kernel(
    softmax_kernel,
    space={"num_stages": (2, 4), "num_warps": (4, 8)},
    inputs=inputs,
    grid=lambda sizes, config: min(sizes["rows"], 4),
    output="out",
    reference=lambda arguments: torch.softmax(arguments["x"], dim=1),
)

loose = Kernel(
    softmax_kernel,
    space={"num_stages": (2,), "num_warps": (4,)},
    inputs=lambda sizes, device: {**inputs(sizes, device), "cols": sizes["cols"] // 2},
    grid=lambda sizes, config: 1,
    output="out",
    reference=lambda arguments: torch.softmax(arguments["x"], dim=1),
)


def persistent_run(arguments, config, gpu):
    """As the tutorial's function: it makes its output, and starts as many programs as the GPU holds at once."""
    x = arguments["x"]
    rows, cols = x.shape
    out = torch.empty_like(x)
    programs = min(rows, gpu.sm_count * config["PROGRAMS"])
    softmax_kernel[(programs,)](
        out, x, x.stride(0), out.stride(0), rows, cols, triton.next_power_of_2(cols),
        num_stages=config["num_stages"], num_warps=config["num_warps"],
    )  # fmt: skip
    return out


persistent = Operation(
    "persistent softmax",
    space={"PROGRAMS": (1, 2, 4), "num_stages": (2, 4), "num_warps": (4, 8)},
    sizes=("rows", "cols"),
    make=lambda sizes, device: {"x": torch.randn(sizes["rows"], sizes["cols"], device=device)},
    run=persistent_run,
    outputs="out",
)
