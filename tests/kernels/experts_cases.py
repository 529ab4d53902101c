"""Steps of a base model's experts that the kernel tests draw, and the check that every launch must pass."""

import os
from typing import Any

import torch
from hypothesis import strategies as st

from bo_tune.core.problem import Experts
from bo_tune.kernels.experts.inputs import ExpertsInputs
from bo_tune.kernels.experts.step import KERNEL, ExpertsStep
from bo_tune.kernels.vllm import operations

GUARD = 64
INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
CONFIG = {
    "BLOCK_SIZE_M": 16, "BLOCK_SIZE_N": 32, "BLOCK_SIZE_K": 32, "GROUP_SIZE_M": 1, "num_warps": 4, "num_stages": 2,
}  # fmt: skip


def assemble(step: ExpertsStep, chosen: list[list[int]] | None = None, *, device: str = "cpu") -> ExpertsInputs:
    """Inputs of a step, of tokens whose experts were assigned by hand or are drawn."""
    operation, place = operations.operation(KERNEL), torch.device(device)
    if chosen is None:
        found = operation.make_inputs(step.problem, seed=7, device=place)
    else:
        experts = torch.tensor(chosen, dtype=torch.int32, device=place)
        found = operation.assemble(step.problem, experts, torch.Generator(place).manual_seed(7))
    assert isinstance(found, ExpertsInputs)
    return found


def check(inputs: ExpertsInputs, config: dict[str, int] = CONFIG) -> None:
    """Launch on poisoned outputs and compare; nothing outside them may change."""
    operation = operations.operation(KERNEL)
    guarded = [torch.full((out.numel() + 2 * GUARD,), 3.0, dtype=out.dtype, device=out.device) for out in inputs.outs]
    first, second = (one[GUARD:-GUARD].view(out.shape) for one, out in zip(guarded, inputs.outs, strict=True))
    inputs.outs = (first, second)
    inputs.prepared.clear()  # launches that were prepared write to the outputs of before
    right = operation.right(inputs)
    for _ in range(1 if INTERPRETED else 2):  # the second time it is a prepared launch
        operation.poison(inputs)
        operation.launch(inputs, config)
        verdict = operation.judge(inputs, right)
        assert not verdict.wrong, f"{verdict.wrong}: {inputs.problem}, {config}"
    for one in guarded:
        assert (one[:GUARD] == 3).all(), "written before the output"
        assert (one[-GUARD:] == 3).all(), "written behind the output"
    elsewhere = inputs.chosen >= ExpertsStep.of(inputs.problem).experts.local
    assert not any(out[elsewhere].any() for out in inputs.outs), "pairs of other ranks' experts come to zero"


@st.composite
def launches(
    draw: st.DrawFn, *, dtypes: tuple[str, ...], most_tokens: int, most_size: int, most_block: int
) -> tuple[ExpertsStep, dict[str, int]]:
    """A step and a config."""
    count = draw(st.integers(1, 20))
    experts = Experts(count, draw(st.integers(1, min(count, 4))), draw(st.integers(1, count)))
    sizes = (draw(st.integers(1, most_size)), draw(st.integers(1, most_size)))
    step = ExpertsStep(
        draw(st.integers(1, most_tokens)),
        experts,
        *sizes,
        gated=draw(st.booleans()),
        dtype=draw(st.sampled_from(dtypes)),
    )
    blocks = [size for size in (16, 32, 64, 128) if size <= most_block]
    tile = {f"BLOCK_SIZE_{axis}": draw(st.sampled_from(blocks)) for axis in "MNK"}
    launch: dict[str, Any] = {"num_warps": draw(st.sampled_from([4, 8])), "num_stages": draw(st.integers(2, 4))}
    return step, {**tile, "GROUP_SIZE_M": draw(st.sampled_from([1, 16, 64])), **launch}
