"""SGLang's chunked LoRA kernels through the adapter, under Triton's interpreter.

Run by ``test_interpreted.py`` in a process of its own.
"""

import os

import pytest

if os.environ.get("TRITON_INTERPRET") != "1":
    pytest.skip("runs in a process with TRITON_INTERPRET=1", allow_module_level=True)

import torch
from csgmv_cases import CONFIGS, assemble, check, steps
from hypothesis import HealthCheck, given, settings

from bo_tune.kernels.csgmv.step import EXPAND, SHRINK, CsgmvStep
from bo_tune.kernels.sglang.operations import operation


@pytest.mark.parametrize("chunk", [16, 32])
@pytest.mark.parametrize("slices", [1, 3])
@pytest.mark.parametrize("k", [128, 50])
def test_shrink_is_right(k, slices, chunk):
    check(assemble(CsgmvStep(SHRINK, 40, chunk, 3, 8, k, slices, dtype="float16")))


@pytest.mark.parametrize("chunk", [16, 32])
@pytest.mark.parametrize("widths", [(64,), (48, 20, 20), (33, 33)], ids=str)
@pytest.mark.parametrize("rank", [16, 8])
def test_expand_is_right(rank, widths, chunk):
    check(assemble(CsgmvStep(EXPAND, 40, chunk, 3, rank, 0, len(widths), widths, "float16")))


@pytest.mark.parametrize("kernel", [SHRINK, EXPAND])
def test_one_crowded_adapter_and_idle_ones_are_right(kernel):
    step = CsgmvStep(kernel, 40, 16, 8, 16, 64, 2, (32, 32) if kernel == EXPAND else (), "float16")
    check(assemble(step, [5] * 37 + [0, 7, 5]))


@settings(max_examples=15, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(steps(dtypes=("float16",), most_tokens=40, most_size=70))
def test_any_launch_is_right(step):
    check(assemble(step))


@pytest.mark.parametrize("kernel", [SHRINK, EXPAND])
def test_a_wrong_result_is_found(kernel):
    step = CsgmvStep(kernel, 20, 16, 2, 16, 64, 1, (64,) if kernel == EXPAND else (), "float16")
    inputs, launched = assemble(step), operation(kernel)
    right = launched.right(inputs)
    launched.poison(inputs)
    assert launched.judge(inputs, right).wrong
    launched.launch(inputs, CONFIGS[kernel])
    assert not launched.judge(inputs, right).wrong
    inputs.out[3] += torch.ones(inputs.out.shape[1], dtype=torch.float16)
    assert launched.judge(inputs, right).wrong.startswith("relative error ")
