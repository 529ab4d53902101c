"""Problems and configs the kernel tests draw, and the check every launch must pass."""

import dataclasses
import os
from typing import Any

import torch
from hypothesis import strategies as st

from bo_tune.core.problem import LoraProblem
from bo_tune.kernels import operations as builtin
from bo_tune.kernels.lora.tokens import TokenGroups

GUARD = 64
INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"


def assemble(problem: LoraProblem, assignment: list[int], *, empty: tuple[int, ...] = (), device: str = "cpu") -> Any:
    """Inputs of a problem whose tokens are assigned by hand: the same for every kernel source."""
    place = torch.device(device)
    groups = TokenGroups.of(torch.tensor(assignment, device=place), problem.max_loras, empty=empty)
    return builtin.operation(problem.kernel).assemble(problem, groups, torch.Generator(place).manual_seed(7), place)


def check(inputs: Any, config: dict[str, int], source: Any = builtin) -> None:
    """Launch on a poisoned output and compare with the reference; nothing outside the output may change."""
    op = source.operation(inputs.problem.kernel)
    guarded = torch.full((inputs.out.numel() + 2 * GUARD,), 3.0, dtype=inputs.out.dtype, device=inputs.out.device)
    inputs = dataclasses.replace(inputs, out=guarded[GUARD:-GUARD].view(inputs.out.shape))
    reference = op.reference(inputs)
    for _ in range(1 if INTERPRETED else 2):  # the second is the prepared launch
        op.poison(inputs)
        op.launch(inputs, config)
        out = op.output(inputs).float()
        assert torch.isfinite(out).all()
        difference = torch.linalg.vector_norm(out - reference)
        allowed = op.tolerance(inputs.problem) * torch.linalg.vector_norm(reference)
        assert difference <= allowed, f"off by {difference}, allowed {allowed}: {inputs.problem}, {config}"
        untouched = inputs.groups.assignment < 0
        before = inputs.initial if inputs.problem.kernel == "lora_expand" else torch.zeros_like(inputs.out)
        rows = (slice(None), untouched) if inputs.problem.kernel == "lora_shrink" else (untouched,)
        assert torch.equal(inputs.out[rows], before[rows]), "rows of tokens without an adapter changed"
    assert (guarded[:GUARD] == 3).all(), "written before the output"
    assert (guarded[-GUARD:] == 3).all(), "written behind the output"


@st.composite
def launches(
    draw: st.DrawFn,
    kernel: str,
    *,
    dtypes: tuple[str, ...],
    most_tokens: int,
    most_k: int,
    most_n: int,
    most_block: int,
) -> tuple[LoraProblem, dict[str, int], list[int], tuple[int, ...]]:
    """A problem, a config, the tokens' adapters and adapters listed without tokens."""
    blocks = st.sampled_from([size for size in (16, 32, 64, 128) if size <= most_block])
    slices = draw(st.integers(1, 3))
    k = draw(st.one_of(st.integers(1, most_k), st.sampled_from([16, 32, 64, most_k])))
    widths = draw(
        st.one_of(
            st.integers(1, most_n).map(lambda width: (width,) * slices),
            st.lists(st.integers(1, most_n), min_size=slices, max_size=slices).map(tuple),
        )
    )
    shrink = kernel == "lora_shrink"
    if shrink:
        widths = (widths[0],) * slices
    max_loras = draw(st.integers(1, 4))
    tokens = draw(st.one_of(st.just(1), st.integers(1, most_tokens)))
    assignment = draw(st.lists(st.integers(-1, max_loras - 1), min_size=tokens, max_size=tokens))
    empty = tuple(draw(st.sets(st.integers(0, max_loras - 1), max_size=1)))
    problem = LoraProblem(
        kernel,
        max_loras,
        slices,
        tokens,
        k,
        max(widths),
        dtype=draw(st.sampled_from(dtypes)),
        slice_sizes=widths,
        add_inputs=None if shrink else draw(st.booleans()),
    )
    config = {"block_m": draw(blocks), "block_n": draw(blocks), "block_k": draw(blocks)}
    config |= {"num_warps": draw(st.sampled_from([4, 8])), "num_stages": draw(st.integers(1, 4))}
    if shrink:
        config["split_k"] = draw(st.sampled_from([1, 2, 4, 8]))
        config["group_size_m"] = draw(st.sampled_from([1, 2, 8]))
    return problem, config, assignment, empty
