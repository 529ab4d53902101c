"""Steps of a Mamba-2 layer that the kernel tests draw, and the check that every launch must pass."""

import os

import torch
from hypothesis import strategies as st

from bo_tune.kernels.mamba.inputs import SPARE, MambaInputs
from bo_tune.kernels.mamba.step import KERNEL, MambaStep
from bo_tune.kernels.vllm.operations import operation

GUARD = 64
INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
CONFIG = {"BLOCK_SIZE_M": 8, "num_warps": 4}


def assemble(step: MambaStep, *, device: str = "cpu") -> MambaInputs:
    """Inputs of a step, whose output stands between guards."""
    inputs = operation(KERNEL).make_inputs(step.problem, seed=7, device=torch.device(device))
    assert isinstance(inputs, MambaInputs)
    guarded = torch.full((inputs.out.numel() + 2 * GUARD,), 3.0, dtype=inputs.out.dtype, device=device)
    inputs.out = guarded[GUARD:-GUARD].view(inputs.out.shape)
    return inputs


def check(inputs: MambaInputs, config: dict[str, int] = CONFIG) -> None:
    """Launch on a poisoned output and compare; neither what is around it nor the states of others may change."""
    kernel = operation(KERNEL)
    right = kernel.right(inputs)
    others = inputs.states[:SPARE].clone()
    for _ in range(1 if INTERPRETED else 2):  # the second time it is a prepared launch
        kernel.poison(inputs)
        kernel.launch(inputs, config)
        verdict = kernel.judge(inputs, right)
        assert not verdict.wrong, f"{verdict.wrong}: {inputs.problem}, {config}"
    assert torch.equal(inputs.states[:SPARE], others)
    around = torch.as_strided(inputs.out, (inputs.out.numel() + 2 * GUARD,), (1,), 0)
    assert (around[:GUARD] == 3).all(), "written before the output"
    assert (around[-GUARD:] == 3).all(), "written behind the output"


@st.composite
def steps(draw: st.DrawFn, *, dtypes: tuple[str, ...], states: tuple[str, ...], most: int) -> MambaStep:
    """A step."""
    groups = draw(st.integers(1, 3))
    sizes = draw(st.tuples(st.integers(1, most), st.integers(1, 3), st.integers(1, 2 * most), st.integers(1, 3 * most)))
    sequences, each, headdim, dstate = sizes
    kinds = draw(st.sampled_from(dtypes)), draw(st.sampled_from(states))
    return MambaStep(sequences, groups * each, headdim, dstate, groups, *kinds)
