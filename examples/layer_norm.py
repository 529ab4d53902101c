"""The backward pass of a layer norm, two kernels and scratch between them, tuned: python examples/layer_norm.py"""

import torch
import triton
import triton.language as tl

import bo_tune


@triton.jit
def rows_kernel(x, dy, weight, mean, rstd, dx, partial, cols, GROUPS: tl.constexpr, BLOCK: tl.constexpr):
    """Work out one row of dx, and add its share of the weight's and the bias's gradients to those of a group."""
    row = tl.program_id(0)
    column = tl.arange(0, BLOCK)
    inside = column < cols
    normal = tl.load(x + row * cols + column, mask=inside, other=0.0).to(tl.float32)
    scale = tl.load(rstd + row)
    normal = tl.where(inside, (normal - tl.load(mean + row)) * scale, 0.0)
    grad = tl.load(dy + row * cols + column, mask=inside, other=0.0).to(tl.float32)
    scaled = grad * tl.load(weight + column, mask=inside, other=0.0).to(tl.float32)
    away = (normal * tl.sum(normal * scaled, 0) + tl.sum(scaled, 0)) / cols
    tl.store(dx + row * cols + column, ((scaled - away) * scale).to(dx.dtype.element_ty), mask=inside)
    share = partial + row % GROUPS * 2 * cols + column
    tl.atomic_add(share, grad * normal, mask=inside)
    tl.atomic_add(share + cols, grad, mask=inside)


@triton.jit
def groups_kernel(partial, dweight, dbias, cols, GROUPS: tl.constexpr, SUM_ROWS: tl.constexpr, SUM_COLS: tl.constexpr):
    """Add the groups' shares up, for some columns."""
    column = tl.program_id(0) * SUM_COLS + tl.arange(0, SUM_COLS)
    inside = (column < cols)[None, :]
    of_weight = tl.zeros((SUM_ROWS, SUM_COLS), tl.float32)
    of_bias = tl.zeros((SUM_ROWS, SUM_COLS), tl.float32)
    for start in range(0, GROUPS, SUM_ROWS):
        place = partial + (start + tl.arange(0, SUM_ROWS))[:, None] * 2 * cols + column[None, :]
        of_weight += tl.load(place, mask=inside, other=0.0)
        of_bias += tl.load(place + cols, mask=inside, other=0.0)
    tl.store(dweight + column, tl.sum(of_weight, 0).to(dweight.dtype.element_ty), mask=column < cols)
    tl.store(dbias + column, tl.sum(of_bias, 0).to(dbias.dtype.element_ty), mask=column < cols)


def make(sizes, device):
    rows, cols = sizes["rows"], sizes["cols"]
    x = torch.randn(rows, cols, device=device, dtype=torch.float16)
    mean = x.float().mean(1)
    return {
        "x": x,
        "dy": torch.randn_like(x),
        "weight": torch.rand(cols, device=device, dtype=torch.float16),
        "mean": mean,
        "rstd": torch.rsqrt((x.float() - mean[:, None]).square().mean(1) + 1e-5),
    }


def run(arguments, config, gpu):
    """Return dx and the gradients of weight and bias. The scratch is as large as the config says."""
    x, weight = arguments["x"], arguments["weight"]
    rows, cols = x.shape
    dx, dweight, dbias = torch.empty_like(x), torch.empty_like(weight), torch.empty_like(weight)
    partial = torch.zeros(config["GROUPS"], 2, cols, device=x.device, dtype=torch.float32)
    rows_kernel[(rows,)](
        x,
        arguments["dy"],
        weight,
        arguments["mean"],
        arguments["rstd"],
        dx,
        partial,
        cols,
        GROUPS=config["GROUPS"],
        BLOCK=triton.next_power_of_2(cols),
        num_warps=config["num_warps"],
    )
    groups_kernel[(triton.cdiv(cols, config["SUM_COLS"]),)](
        partial,
        dweight,
        dbias,
        cols,
        GROUPS=config["GROUPS"],
        SUM_ROWS=config["SUM_ROWS"],
        SUM_COLS=config["SUM_COLS"],
        num_warps=config["sum_warps"],
    )
    return dx, dweight, dbias


def reference(arguments):
    x = arguments["x"].float().requires_grad_()
    weight = arguments["weight"].float().requires_grad_()
    bias = torch.zeros_like(weight, requires_grad=True)
    normal = torch.nn.functional.layer_norm(x, x.shape[1:], weight, bias, 1e-5)
    return torch.autograd.grad(normal, (x, weight, bias), arguments["dy"].float())


layer_norm_backward = bo_tune.Operation(
    "layer_norm_backward",
    space={
        "GROUPS": (16, 32, 64, 128, 256),
        "num_warps": (2, 4, 8, 16),
        "SUM_ROWS": (16, 32, 64),
        "SUM_COLS": (32, 64, 128),
        "sum_warps": (2, 4, 8),
    },
    sizes=("rows", "cols"),
    make=make,
    run=run,
    outputs=("dx", "dweight", "dbias"),
    valid=lambda sizes, config: config["SUM_ROWS"] <= config["GROUPS"],
    default={"GROUPS": 64, "num_warps": 8, "SUM_ROWS": 32, "SUM_COLS": 128, "sum_warps": 4},
    reference=reference,
)

if __name__ == "__main__":
    problems = [{"rows": 4096, "cols": 1024}, {"rows": 4096, "cols": 8192}]
    for best in bo_tune.tune(layer_norm_backward, problems, storage="sqlite:///layer_norm.db"):
        print(best)
