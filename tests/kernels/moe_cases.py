"""Fused MoE problems and configs the kernel tests draw, and the check every launch must pass."""

import dataclasses
import os
from typing import Any

import torch
from hypothesis import strategies as st

from bo_tune.core.problem import Experts, LoraProblem
from bo_tune.kernels import operations as builtin
from bo_tune.kernels.lora.tokens import TokenGroups

GUARD = 64
INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
KERNELS = tuple(f"fused_moe_lora_{part}_{half}" for part in ("w13", "w2") for half in ("shrink", "expand"))
ONE_LAUNCH = ("fused_moe_lora_w13", "fused_moe_lora_w2")
"""Those that run shrink and expand at once, which vLLM alone has."""


def moe_problem(kernel: str, **changes: Any) -> LoraProblem:
    """A problem of a small layer."""
    values = {"max_loras": 3, "num_slices": 2 if "w13" in kernel else 1, "m": 12, "k": 24, "n": 80, "i": 48}
    return LoraProblem(kernel, **{**values, "dtype": "float16", "experts": Experts(6, 2), **changes})


def assemble(
    problem: LoraProblem,
    assignment: list[int],
    chosen: list[list[int]] | None = None,
    *,
    device: str = "cpu",
    source: Any = builtin,
) -> Any:
    """Inputs of a problem whose tokens have adapters, and experts, assigned by hand."""
    place = torch.device(device)
    groups = TokenGroups.of(torch.tensor(assignment, device=place), problem.max_loras)
    op, generator = source.operation(problem.kernel), torch.Generator(place).manual_seed(7)
    if chosen is None:
        return op.assemble(problem, groups, generator, place)
    experts = torch.tensor(chosen, dtype=torch.int32, device=place)
    return op.assemble_routed(problem, groups, experts, generator, place)


def check(inputs: Any, config: dict[str, int], source: Any = builtin) -> None:
    """Launch and compare with the reference; nothing of a token without an adapter, or outside, may change."""
    op = source.operation(inputs.problem.kernel)
    guarded = torch.full((inputs.out.numel() + 2 * GUARD,), 3.0, dtype=inputs.out.dtype, device=inputs.out.device)
    inputs = dataclasses.replace(inputs, out=guarded[GUARD:-GUARD].view(inputs.out.shape))
    reference = op.reference(inputs)
    shrink = "shrink" in inputs.problem.kernel
    idle = (inputs.groups.assignment < 0).repeat_interleave(inputs.chosen.shape[1])
    idle |= inputs.chosen.flatten() >= inputs.problem.experts.local
    rows = (slice(None), idle) if shrink else (idle,)
    active = inputs.out.numel() - inputs.out[rows].numel()
    for _ in range(1 if INTERPRETED else 2):  # the second is the prepared launch
        op.poison(inputs)
        op.launch(inputs, config)
        out = op.output(inputs).float()
        assert torch.isfinite(out).all()
        difference = torch.linalg.vector_norm(out - reference)
        # Partial sums, of about 1, are rounded before they are joined, and may cancel out.
        allowed = op.tolerance(inputs.problem) * max(torch.linalg.vector_norm(reference), active**0.5)
        assert difference <= allowed, f"off by {difference}, allowed {allowed}: {inputs.problem}, {config}"
        assert torch.equal(inputs.out[rows], inputs.initial[rows]), "rows that are no business of the kernel changed"
    assert (guarded[:GUARD] == 3).all(), "written before the output"
    assert (guarded[-GUARD:] == 3).all(), "written behind the output"


@st.composite
def launches(
    draw: st.DrawFn,
    *,
    dtypes: tuple[str, ...],
    most_tokens: int,
    most_k: int,
    most_n: int,
    most_block: int,
    kernels: tuple[str, ...] = KERNELS,
) -> tuple[LoraProblem, dict[str, int], list[int]]:
    """A problem, a config and the tokens' adapters."""
    kernel = draw(st.sampled_from(kernels))
    count = draw(st.integers(1, 9))
    experts = Experts(count, draw(st.integers(1, count)), draw(st.integers(1, count)))
    max_loras, tokens = draw(st.integers(1, 4)), draw(st.integers(1, most_tokens))
    problem = LoraProblem(
        kernel,
        max_loras,
        draw(st.sampled_from([1, 2])) if "w13" in kernel else 1,
        tokens,
        draw(st.integers(1, most_k)),
        draw(st.integers(1, most_n)),
        draw(st.integers(1, most_n)),
        dtype=draw(st.sampled_from(dtypes)),
        experts=experts,
    )
    blocks = st.sampled_from([size for size in (16, 32, 64, 128) if size <= most_block])
    if kernel in ONE_LAUNCH:
        config = {"block_m": draw(blocks)}
        return problem, config, draw(st.lists(st.integers(-1, max_loras - 1), min_size=tokens, max_size=tokens))
    config = {"block_m": draw(blocks), "block_n": draw(blocks), "block_k": draw(blocks)}
    config |= {"group_size_m": draw(st.sampled_from([1, 8])), "num_warps": draw(st.sampled_from([4, 8]))}
    config |= {"num_stages": draw(st.integers(2, 4))}
    if "shrink" in kernel:
        config["split_k"] = draw(st.sampled_from([1, 4, 8]))
    return problem, config, draw(st.lists(st.integers(-1, max_loras - 1), min_size=tokens, max_size=tokens))
