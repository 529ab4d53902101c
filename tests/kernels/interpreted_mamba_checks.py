"""vLLM's kernel of a Mamba-2 layer's decode step through the adapter, under Triton's interpreter.

Run by ``test_interpreted.py`` in a process of its own.
"""

import os

import pytest

if os.environ.get("TRITON_INTERPRET") != "1":
    pytest.skip("runs in a process with TRITON_INTERPRET=1", allow_module_level=True)

import numpy as np
import torch
from hypothesis import HealthCheck, given, settings
from mamba_cases import CONFIG, assemble, check, steps
from triton.runtime.interpreter import InterpreterBuilder, TensorHandle

from bo_tune.kernels.mamba.step import KERNEL, MambaStep
from bo_tune.kernels.vllm.operations import operation


@pytest.fixture(autouse=True)
def _truth_stays_truth(monkeypatch):
    """Triton 3.9 interprets a truth value spread over a block as numbers of 32 bits, and takes these for no mask."""
    spread = InterpreterBuilder.create_splat

    def as_truth(self, kind, value):
        found = spread(self, kind, value)
        return TensorHandle(found.data.astype(np.bool_), found.dtype) if value.data.dtype == np.bool_ else found

    monkeypatch.setattr(InterpreterBuilder, "create_splat", as_truth)


@pytest.mark.parametrize(
    ("sizes", "block"), [((8, 16), 2), ((10, 20), 8), ((10, 20), 32)], ids=["even", "ragged", "one block"]
)
@pytest.mark.parametrize("state", ["float32", "float16"])
def test_outputs_and_states_are_right(state, sizes, block):
    step = MambaStep(3, 4, *sizes, groups=2, dtype="float16", state_dtype=state)
    check(assemble(step), {**CONFIG, "BLOCK_SIZE_M": block})


def test_a_layer_as_served_is_right():
    check(assemble(MambaStep(2, 4, 64, 128, 1, dtype="float16")))


@settings(max_examples=10, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(steps(dtypes=("float16",), states=("float32", "float16"), most=6))
def test_any_launch_is_right(step):
    check(assemble(step))


def test_wrong_results_are_found():
    inputs = assemble(MambaStep(40, 2, 8, 16, dtype="float16"))
    kernel = operation(KERNEL)
    right = kernel.right(inputs)
    kernel.poison(inputs)
    skipped = kernel.judge(inputs, right)
    assert skipped.error is None
    assert "output: relative error nan; states: relative error " in skipped.wrong
    kernel.launch(inputs, CONFIG)
    assert not kernel.judge(inputs, right).wrong
    inputs.states[inputs.places[17].long(), 1] *= 1.1
    assert kernel.judge(inputs, right).wrong.startswith("states: relative error ")
    kernel.reset(inputs)
    kernel.launch(inputs, CONFIG)
    inputs.out[3] += torch.ones(8, dtype=torch.float16)
    assert kernel.judge(inputs, right).wrong.startswith("output: relative error ")
