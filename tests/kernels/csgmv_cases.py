"""Chunked LoRA products that the kernel tests draw, and the check that every launch must pass."""

import os
from dataclasses import replace
from typing import Any

import torch
from hypothesis import strategies as st

from bo_tune.kernels.csgmv.inputs import Chunks, CsgmvInputs
from bo_tune.kernels.csgmv.spec import NO_LIMIT
from bo_tune.kernels.csgmv.step import CHUNK_SIZES, EXPAND, SHRINK, CsgmvStep
from bo_tune.kernels.sglang.operations import operation

GUARD = 64
INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
CONFIGS = {
    SHRINK: {"BLOCK_N": 16, "BLOCK_K": 64, "num_warps": 4, "num_stages": 3},
    EXPAND: {"BLOCK_N": 32, "BLOCK_K": 16, "num_warps": 4, "num_stages": 2, "maxnreg": NO_LIMIT},
}


def assemble(step: CsgmvStep, assignment: list[int] | None = None, *, device: str = "cpu") -> CsgmvInputs:
    """Inputs of a step, of tokens whose adapters were assigned by hand or are drawn; the output stands in guards."""
    kernel, place = operation(step.kernel), torch.device(device)
    if assignment is None:
        inputs = kernel.make_inputs(step.problem, seed=7, device=place)
    else:
        tokens = torch.tensor(assignment, dtype=torch.int32, device=place)
        chunks, generator = Chunks.of(tokens, step.chunk), torch.Generator(place).manual_seed(7)
        inputs = kernel.assemble(step.problem, tokens, chunks, generator)
    guarded = torch.full((inputs.out.numel() + 2 * GUARD,), 3.0, dtype=inputs.out.dtype, device=device)
    inputs.out = guarded[GUARD:-GUARD].view(inputs.out.shape)
    return inputs


def check(inputs: CsgmvInputs, config: dict[str, int] | None = None) -> None:
    """Launch on a poisoned output and compare; nothing around it may change."""
    kernel = operation(inputs.problem.kernel)
    right = kernel.right(inputs)
    for _ in range(1 if INTERPRETED else 2):  # the second time it is a prepared launch
        kernel.poison(inputs)
        kernel.launch(inputs, config or CONFIGS[inputs.problem.kernel])
        verdict = kernel.judge(inputs, right)
        assert not verdict.wrong, f"{verdict.wrong}: {inputs.problem}, {config}"
    around = torch.as_strided(inputs.out, (inputs.out.numel() + 2 * GUARD,), (1,), 0)
    assert (around[:GUARD] == 3).all(), "written before the output"
    assert (around[-GUARD:] == 3).all(), "written behind the output"


@st.composite
def steps(draw: st.DrawFn, *, dtypes: tuple[str, ...], most_tokens: int, most_size: int) -> CsgmvStep:
    """A step."""
    slices = draw(st.integers(1, 3))
    widths = tuple(draw(st.lists(st.integers(1, most_size), min_size=slices, max_size=slices)))
    sizes = draw(st.integers(1, most_tokens)), draw(st.sampled_from(CHUNK_SIZES[:2])), draw(st.integers(1, 4))
    rank, dtype = draw(st.sampled_from([1, 8, 16, 20])), draw(st.sampled_from(dtypes))
    if draw(st.booleans()):
        return CsgmvStep(SHRINK, *sizes, rank, draw(st.integers(1, most_size)), slices, dtype=dtype)
    return CsgmvStep(EXPAND, *sizes, rank, 0, slices, widths, dtype)


def qkv(kernel: str, **changes: Any) -> CsgmvStep:
    """The product of a layer as Llama-3.1-8B has it."""
    own: dict[str, Any] = {"widths": (4096, 1024, 1024)} if kernel == EXPAND else {"k": 4096}
    return replace(CsgmvStep(kernel, 32, 16, 4, 16, slices=3, **own), **changes)
