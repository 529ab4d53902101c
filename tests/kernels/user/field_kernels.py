"""Kernels of the sorts that people autotune: in place, of several outputs, grouped, persistent, with descriptors.

With those of ``examples`` and ``tutorial_softmax`` they are the eleven of ``benchmarks/drop_in.py``.
"""

import torch
import triton
import triton.language as tl
from triton.tools.tensor_descriptor import TensorDescriptor

from bo_tune import Kernel, Operation


@triton.jit
def attention_kernel(q, k, v, out, scale, rows, DIM: tl.constexpr, CAUSAL: tl.constexpr, BLOCK_M: tl.constexpr,
                     BLOCK_N: tl.constexpr):  # fmt: skip
    """Flash attention, forward: one block of queries of one head, q, k, v and out [heads, rows, DIM]."""
    head = tl.program_id(1).to(tl.int64) * rows * DIM
    row, dim = tl.program_id(0) * BLOCK_M + tl.arange(0, BLOCK_M), tl.arange(0, DIM)
    place = row[:, None] * DIM + dim[None, :]
    queries = tl.load(q + head + place, mask=row[:, None] < rows, other=0.0)
    highest = tl.full((BLOCK_M,), -float("inf"), tl.float32)
    total = tl.zeros((BLOCK_M,), tl.float32)
    mixed = tl.zeros((BLOCK_M, DIM), tl.float32)
    last = min(rows, (tl.program_id(0) + 1) * BLOCK_M) if CAUSAL else rows
    for start in range(0, last, BLOCK_N):
        column = start + tl.arange(0, BLOCK_N)
        keys = tl.load(k + head + column[None, :] * DIM + dim[:, None], mask=column[None, :] < rows, other=0.0)
        scores = tl.dot(queries, keys) * scale
        seen = (column[None, :] <= row[:, None]) & (column[None, :] < rows) if CAUSAL else column[None, :] < rows
        scores = tl.where(seen, scores, -1.0e30)
        higher = tl.maximum(highest, tl.max(scores, 1))
        weights, kept = tl.exp(scores - higher[:, None]), tl.exp(highest - higher)
        values = tl.load(v + head + column[:, None] * DIM + dim[None, :], mask=column[:, None] < rows, other=0.0)
        mixed = tl.dot(weights.to(values.dtype), values, mixed * kept[:, None])
        total, highest = total * kept + tl.sum(weights, 1), higher
    tl.store(out + head + place, (mixed / total[:, None]).to(out.dtype.element_ty), mask=row[:, None] < rows)


def attention_inputs(sizes, device):
    shape = (sizes["heads"], sizes["rows"], sizes["dim"])
    q, k, v = (torch.randn(shape, device=device, dtype=torch.float16) for _ in "qkv")
    return {"q": q, "k": k, "v": v, "out": torch.empty_like(q), "scale": sizes["dim"] ** -0.5, "rows": sizes["rows"],
            "DIM": sizes["dim"], "CAUSAL": sizes["causal"]}  # fmt: skip


attention = Kernel(
    attention_kernel,
    space={"BLOCK_M": (16, 32, 64, 128), "BLOCK_N": (16, 32, 64), "num_warps": (4, 8), "num_stages": (1, 2, 3)},
    default={"BLOCK_M": 32, "BLOCK_N": 16, "num_warps": 4, "num_stages": 2},
    inputs=attention_inputs,
    grid=lambda sizes, config: (triton.cdiv(sizes["rows"], config["BLOCK_M"]), sizes["heads"]),
    output="out",
    reference=lambda arguments: torch.nn.functional.scaled_dot_product_attention(
        *(arguments[name].float() for name in "qkv"), is_causal=arguments["CAUSAL"]
    ),
)


@triton.jit
def cross_entropy_kernel(logits, labels, loss, cols, BLOCK: tl.constexpr):
    """Write a row's loss, and its gradient over its logits."""
    row = logits + tl.program_id(0) * cols
    label = tl.load(labels + tl.program_id(0))
    highest, total = -float("inf"), 0.0
    of_label = tl.load(row + label).to(tl.float32)
    for start in range(0, cols, BLOCK):
        column = start + tl.arange(0, BLOCK)
        values = tl.load(row + column, mask=column < cols, other=-float("inf")).to(tl.float32)
        higher = tl.maximum(highest, tl.max(values, 0))
        total = total * tl.exp(highest - higher) + tl.sum(tl.exp(values - higher), 0)
        highest = higher
    tl.store(loss + tl.program_id(0), highest + tl.log(total) - of_label)
    tl.debug_barrier()  # the label's logit is read before it is written
    for start in range(0, cols, BLOCK):
        column = start + tl.arange(0, BLOCK)
        values = tl.load(row + column, mask=column < cols).to(tl.float32)
        grad = tl.exp(values - highest) / total - tl.where(column == label, 1.0, 0.0)
        tl.store(row + column, grad.to(logits.dtype.element_ty), mask=column < cols)


def cross_entropy_reference(arguments):
    logits = arguments["logits"].float().requires_grad_()
    loss = torch.nn.functional.cross_entropy(logits, arguments["labels"], reduction="none")
    return {"loss": loss, "logits": torch.autograd.grad(loss.sum(), logits)[0]}


cross_entropy = Kernel(
    cross_entropy_kernel,
    space={"BLOCK": (64, 128, 1024), "num_warps": (1, 4, 8)},
    default={"BLOCK": 128, "num_warps": 4},
    inputs=lambda sizes, device: {
        "logits": torch.randn(sizes["rows"], sizes["cols"], device=device),
        "labels": torch.randint(sizes["cols"], (sizes["rows"],), device=device),
        "loss": torch.empty(sizes["rows"], device=device),
        "cols": sizes["cols"],
    },
    grid=lambda sizes, config: sizes["rows"],
    output=("logits", "loss"),
    in_place="logits",
    reference=cross_entropy_reference,
)


@triton.jit
def state_update_kernel(state, x, dt, a, b, c, out, width, depth, BLOCK_W: tl.constexpr, BLOCK_D: tl.constexpr):
    """One step of a selective state-space model: state [batch, width, depth], read and written; out [batch, width]."""
    batch = tl.program_id(1)
    row, column = tl.program_id(0) * BLOCK_W + tl.arange(0, BLOCK_W), tl.arange(0, BLOCK_D)
    of_row, inside = row < width, (row < width)[:, None] & (column < depth)[None, :]
    place = state + batch * width * depth + row[:, None] * depth + column[None, :]
    step = tl.load(dt + batch * width + row, mask=of_row, other=0.0)
    decay = tl.exp(tl.load(a + row[:, None] * depth + column[None, :], mask=inside, other=0.0) * step[:, None])
    inflow = tl.load(b + batch * depth + column, mask=column < depth, other=0.0)
    value = tl.load(x + batch * width + row, mask=of_row, other=0.0)
    new = tl.load(place, mask=inside, other=0.0) * decay + (step * value)[:, None] * inflow[None, :]
    tl.store(place, new, mask=inside)
    outflow = tl.load(c + batch * depth + column, mask=column < depth, other=0.0)
    tl.store(out + batch * width + row, tl.sum(new * outflow[None, :], 1), mask=of_row)


def state_inputs(sizes, device):
    batch, width, depth = sizes["batch"], sizes["width"], sizes["depth"]
    return {
        "state": torch.randn(batch, width, depth, device=device),
        "x": torch.randn(batch, width, device=device),
        "dt": torch.rand(batch, width, device=device),
        "a": -torch.rand(width, depth, device=device),
        "b": torch.randn(batch, depth, device=device),
        "c": torch.randn(batch, depth, device=device),
        "out": torch.empty(batch, width, device=device),
        "width": width,
        "depth": depth,
        "BLOCK_D": triton.next_power_of_2(depth),
    }


def state_reference(arguments):
    x, dt, state = arguments["x"], arguments["dt"], arguments["state"]
    state *= torch.exp(dt[..., None] * arguments["a"])
    state += (dt * x)[..., None] * arguments["b"][:, None]
    arguments["out"].copy_((state * arguments["c"][:, None]).sum(-1))


state_update = Kernel(
    state_update_kernel,
    space={"BLOCK_W": (4, 8, 16, 32), "num_warps": (1, 2, 4, 8)},
    default={"BLOCK_W": 8, "num_warps": 4},
    inputs=state_inputs,
    grid=lambda sizes, config: (triton.cdiv(sizes["width"], config["BLOCK_W"]), sizes["batch"]),
    output=("state", "out"),
    in_place="state",
    reference=state_reference,
)


@triton.jit
def grouped_kernel(a, b, c, ends, groups, N, K, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr):
    """Multiply the rows of each group by its own matrix. Each program takes every so many-th tile of all groups'."""
    tile, first_row, tiles_across = tl.program_id(0), 0, tl.cdiv(N, BLOCK_N)
    for group in range(groups):
        last_row = tl.load(ends + group)
        tiles = tl.cdiv(last_row - first_row, BLOCK_M) * tiles_across
        while tile < tiles:
            row = first_row + tile // tiles_across * BLOCK_M + tl.arange(0, BLOCK_M)
            column = tile % tiles_across * BLOCK_N + tl.arange(0, BLOCK_N)
            product = tl.zeros((BLOCK_M, BLOCK_N), tl.float32)
            for start in range(0, K, BLOCK_K):
                k = start + tl.arange(0, BLOCK_K)
                inside = (row < last_row)[:, None] & (k < K)[None, :]
                left = tl.load(a + row[:, None] * K + k[None, :], mask=inside, other=0.0)
                inside = (k < K)[:, None] & (column < N)[None, :]
                right = tl.load(b + group * K * N + k[:, None] * N + column[None, :], mask=inside, other=0.0)
                product = tl.dot(left, right, product)
            inside = (row < last_row)[:, None] & (column < N)[None, :]
            tl.store(c + row[:, None] * N + column[None, :], product.to(c.dtype.element_ty), mask=inside)
            tile += tl.num_programs(0)
        tile -= tiles
        first_row = last_row


def grouped_make(sizes, device):
    groups, rows, n, k = (sizes[name] for name in ("groups", "rows", "N", "K"))
    return {
        "a": torch.randn(groups * rows, k, device=device, dtype=torch.float16),
        "b": torch.randn(groups, k, n, device=device, dtype=torch.float16),
        "ends": torch.tensor([rows * (g + 1) - g % 2 for g in range(groups)], dtype=torch.int32, device=device),
        "c": torch.empty(groups * rows, n, device=device, dtype=torch.float16),
    }


def grouped_run(arguments, config, gpu):
    b = arguments["b"]
    tiles = {name: config[name] for name in ("BLOCK_M", "BLOCK_N", "BLOCK_K")}
    grouped_kernel[(gpu.sm_count * config["PROGRAMS"],)](
        arguments["a"], b, arguments["c"], arguments["ends"], b.shape[0], b.shape[2], b.shape[1], **tiles,
        num_warps=config["num_warps"], num_stages=config["num_stages"],
    )  # fmt: skip


def grouped_reference(arguments):
    """Leaves the rows after the last group as they were."""
    first = 0
    for group, last in enumerate(arguments["ends"].tolist()):
        arguments["c"][first:last] = (arguments["a"][first:last] @ arguments["b"][group]).to(torch.float16)
        first = last


grouped = Operation(
    "grouped_gemm",
    space={"BLOCK_M": (16, 32, 64), "BLOCK_N": (16, 32, 64), "BLOCK_K": (16, 32, 64), "PROGRAMS": (1, 2),
           "num_warps": (4, 8), "num_stages": (2, 3)},
    sizes=("groups", "rows", "N", "K"),
    make=grouped_make,
    run=grouped_run,
    outputs="c",
    reference=grouped_reference,
    default={"BLOCK_M": 16, "BLOCK_N": 32, "BLOCK_K": 32, "PROGRAMS": 1, "num_warps": 4, "num_stages": 2},
)  # fmt: skip


@triton.jit
def adam_kernel(parameters, grads, first, second, step, rate, count, BLOCK: tl.constexpr):
    """One step of Adam, over parameters and moments; the counter counts itself up."""
    place = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    inside = place < count
    number = tl.load(step) + 1
    grad = tl.load(grads + place, mask=inside)
    mean = 0.9 * tl.load(first + place, mask=inside) + 0.1 * grad
    spread = 0.99 * tl.load(second + place, mask=inside) + 0.01 * grad * grad
    tl.store(first + place, mean, mask=inside)
    tl.store(second + place, spread, mask=inside)
    mean /= 1 - tl.exp(number * -0.10536051565782628)
    spread /= 1 - tl.exp(number * -0.01005033585350145)
    moved = tl.load(parameters + place, mask=inside) - rate * mean / (tl.sqrt(spread) + 1e-8)
    tl.store(parameters + place, moved, mask=inside)


def adam_run(arguments, config, gpu):
    """One launch for each tensor, and the counter's step by torch."""
    for each in zip(*(arguments[name] for name in ("parameters", "grads", "first", "second")), strict=True):
        count = each[0].numel()
        adam_kernel[(triton.cdiv(count, config["BLOCK"]),)](
            *each, arguments["step"], 1e-2, count, BLOCK=config["BLOCK"], num_warps=config["num_warps"]
        )
    arguments["step"] += 1
    return {"moved": torch.cat([one.flatten() for one in arguments["parameters"]])}


def adam_make(sizes, device):
    def drawn():
        return [torch.rand(sizes["n"] + 3 * place, device=device) for place in range(sizes["tensors"])]

    return {"parameters": drawn(), "grads": drawn(), "first": drawn(), "second": drawn(),
            "step": torch.full((1,), 3.0, device=device)}  # fmt: skip


def adam_reference(arguments):
    moved = []
    for parameter, grad, first, second in zip(*(arguments[n] for n in ("parameters", "grads", "first", "second"))):  # noqa: B905
        mean, spread = 0.9 * first + 0.1 * grad, 0.99 * second + 0.01 * grad * grad
        number = float(arguments["step"]) + 1
        moved.append(parameter - 1e-2 * mean / (1 - 0.9**number) / ((spread / (1 - 0.99**number)).sqrt() + 1e-8))
    return {"moved": torch.cat(moved), "step": arguments["step"] + 1}


adam = Operation(
    "adam",
    space={"BLOCK": (64, 128, 1024), "num_warps": (1, 4)},
    sizes=("n", "tensors"),
    make=adam_make,
    run=adam_run,
    outputs=("moved", "step"),
    restore=("parameters", "first", "second", "step"),
    reference=adam_reference,
    default={"BLOCK": 128, "num_warps": 4},
)


@triton.jit
def persistent_kernel(a, b, c, M, N, K, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr,
                      GROUP_M: tl.constexpr, FLATTEN: tl.constexpr):  # fmt: skip
    """Multiply as many tiles as come to a program: as many programs are launched as run at once."""
    tiles_down, tiles_across = tl.cdiv(M, BLOCK_M), tl.cdiv(N, BLOCK_N)
    band_tiles = GROUP_M * tiles_across
    k = tl.arange(0, BLOCK_K)
    for tile in tl.range(tl.program_id(0), tiles_down * tiles_across, tl.num_programs(0), flatten=FLATTEN):
        top = tile // band_tiles * GROUP_M
        height = min(tiles_down - top, GROUP_M)
        row = (top + tile % band_tiles % height) * BLOCK_M + tl.arange(0, BLOCK_M)
        column = tile % band_tiles // height * BLOCK_N + tl.arange(0, BLOCK_N)
        product = tl.zeros((BLOCK_M, BLOCK_N), dtype=tl.float32)
        for start in range(0, K, BLOCK_K):
            inside = (row < M)[:, None] & (start + k < K)[None, :]
            left = tl.load(a + row[:, None] * K + (start + k)[None, :], mask=inside, other=0.0)
            inside = (start + k < K)[:, None] & (column < N)[None, :]
            right = tl.load(b + (start + k)[:, None] * N + column[None, :], mask=inside, other=0.0)
            product = tl.dot(left, right, product)
        inside = (row < M)[:, None] & (column < N)[None, :]
        tl.store(c + row[:, None] * N + column[None, :], product.to(c.dtype.element_ty), mask=inside)


def product_make(sizes, device):
    m, n, k = (sizes[side] for side in "MNK")
    a = torch.randn(m, k, device=device, dtype=torch.float16)
    return {"a": a, "b": torch.randn(k, n, device=device, dtype=torch.float16)}


def persistent_run(arguments, config, gpu):
    a, b = arguments["a"], arguments["b"]
    c = torch.empty(a.shape[0], b.shape[1], device=a.device, dtype=a.dtype)
    (m, k), n = a.shape, b.shape[1]
    tiles = triton.cdiv(m, config["BLOCK_M"]) * triton.cdiv(n, config["BLOCK_N"])
    own = {name: config[name] for name in ("BLOCK_M", "BLOCK_N", "BLOCK_K", "GROUP_M", "FLATTEN")}
    persistent_kernel[(min(tiles, gpu.sm_count * config["PROGRAMS"]),)](
        a, b, c, m, n, k, **own, num_warps=config["num_warps"], num_stages=config["num_stages"]
    )
    return c


persistent_matmul = Operation(
    "persistent_matmul",
    space={"BLOCK_M": (64, 128), "BLOCK_N": (64, 128, 256), "BLOCK_K": (32, 64), "GROUP_M": (4, 8),
           "FLATTEN": (False, True), "PROGRAMS": (1, 2), "num_warps": (4, 8), "num_stages": (3, 4)},
    sizes=("M", "N", "K"),
    make=product_make,
    run=persistent_run,
    outputs="c",
    valid=lambda sizes, config: config["BLOCK_M"] * config["BLOCK_N"] / (32 * config["num_warps"]) < 256,
    default={"BLOCK_M": 64, "BLOCK_N": 64, "BLOCK_K": 32, "GROUP_M": 8, "FLATTEN": False, "PROGRAMS": 1,
             "num_warps": 4, "num_stages": 3},
    reference=lambda arguments: (arguments["a"] @ arguments["b"]).float(),
)  # fmt: skip


@triton.jit
def tma_kernel(a, b, c, K, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr):
    """Multiply one tile of matrices that the host describes to the tensor memory accelerator."""
    row, column = tl.program_id(0) * BLOCK_M, tl.program_id(1) * BLOCK_N
    product = tl.zeros((BLOCK_M, BLOCK_N), dtype=tl.float32)
    for k in range(0, K, BLOCK_K):
        product = tl.dot(a.load([row, k]), b.load([k, column]), product)
    c.store([row, column], product.to(tl.float16))


def tma_inputs(sizes, device):
    made = product_make(sizes, device)
    made["c"] = torch.empty(sizes["M"], sizes["N"], device=device, dtype=torch.float16)
    return {**{name: TensorDescriptor.from_tensor(one, [1, 16]) for name, one in made.items()}, "K": sizes["K"]}


tma_matmul = Kernel(
    tma_kernel,
    name="tma_matmul",
    space={"BLOCK_M": (64, 128, 256), "BLOCK_N": (64, 128, 256), "BLOCK_K": (32, 64, 128), "num_warps": (4, 8),
           "num_stages": (2, 3, 4, 5)},
    block_shapes={"a": ("BLOCK_M", "BLOCK_K"), "b": ("BLOCK_K", "BLOCK_N"), "c": ("BLOCK_M", "BLOCK_N")},
    sizes=("M", "N", "K"),
    inputs=tma_inputs,
    grid=lambda sizes, config: (
        triton.cdiv(sizes["M"], config["BLOCK_M"]), triton.cdiv(sizes["N"], config["BLOCK_N"])
    ),
    output="c",
    valid=lambda sizes, config: config["BLOCK_M"] * config["BLOCK_N"] / (32 * config["num_warps"]) < 256,
    default={"BLOCK_M": 64, "BLOCK_N": 64, "BLOCK_K": 32, "num_warps": 4, "num_stages": 3},
    reference=lambda arguments: (arguments["a"].base @ arguments["b"].base).float(),
)  # fmt: skip


SIZES = {
    "persistent_matmul": [{"M": 100, "N": 150, "K": 40}],
    "tma_matmul": [{"M": 96, "N": 64, "K": 64}],
    "attention_kernel": [{"heads": 2, "rows": 50, "dim": 32, "causal": causal} for causal in (False, True)],
    "cross_entropy_kernel": [{"rows": 5, "cols": 100}, {"rows": 2, "cols": 128}],
    "state_update_kernel": [{"batch": 2, "width": 20, "depth": 16}, {"batch": 1, "width": 16, "depth": 5}],
    "grouped_gemm": [{"groups": 3, "rows": 20, "N": 40, "K": 48}],
    "adam": [{"n": 112, "tensors": 3}],
}
"""Problems by kernel, as small as the interpreter likes them."""

ALL = {one.name: one for one in (attention, cross_entropy, state_update, grouped, adam, persistent_matmul, tma_matmul)}
