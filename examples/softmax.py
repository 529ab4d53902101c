"""Softmax over rows, tuned: python examples/softmax.py"""

import torch
import triton
import triton.language as tl

import bo_tune


@triton.jit
def softmax_kernel(x, out, cols, ROWS: tl.constexpr, BLOCK: tl.constexpr):
    row = (tl.program_id(0) * ROWS + tl.arange(0, ROWS)[:, None]) * cols
    highest = tl.full((ROWS, 1), -float("inf"), tl.float32)
    total = tl.zeros((ROWS, 1), tl.float32)
    for start in range(0, cols, BLOCK):
        column = start + tl.arange(0, BLOCK)[None, :]
        values = tl.load(x + row + column, mask=column < cols, other=-float("inf")).to(tl.float32)
        higher = tl.maximum(highest, tl.max(values, 1, keep_dims=True))
        total = total * tl.exp(highest - higher) + tl.sum(tl.exp(values - higher), 1, keep_dims=True)
        highest = higher
    for start in range(0, cols, BLOCK):
        column = start + tl.arange(0, BLOCK)[None, :]
        values = tl.load(x + row + column, mask=column < cols).to(tl.float32)
        tl.store(out + row + column, tl.exp(values - highest) / total, mask=column < cols)


def inputs(sizes, device):
    x = torch.randn(sizes["rows"], sizes["cols"], dtype=torch.float16, device=device)
    return {"x": x, "out": torch.empty_like(x), "cols": sizes["cols"]}


softmax = bo_tune.Kernel(
    softmax_kernel,
    space={"ROWS": (1, 2, 4), "BLOCK": (512, 1024, 2048, 4096, 8192), "num_warps": (2, 4, 8, 16), "num_stages": (1, 2)},
    valid=lambda sizes, config: 4 <= config["ROWS"] * config["BLOCK"] / (32 * config["num_warps"]) <= 64,
    default={"ROWS": 1, "BLOCK": 1024, "num_warps": 4, "num_stages": 2},
    inputs=inputs,
    grid=lambda sizes, config: sizes["rows"] // config["ROWS"],
    output="out",
    reference=lambda arguments: torch.softmax(arguments["x"].float(), dim=1),
)

if __name__ == "__main__":
    problems = [{"rows": 4096, "cols": 1024}, {"rows": 8192, "cols": 8192}]
    for best in bo_tune.tune(softmax, problems, storage="sqlite:///softmax.db"):
        print(best)
