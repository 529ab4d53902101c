"""vLLM's kernel of the base model's experts through the adapter, under Triton's interpreter.

Run by ``test_interpreted.py`` in a process of its own.
"""

import os

import pytest

if os.environ.get("TRITON_INTERPRET") != "1":
    pytest.skip("runs in a process with TRITON_INTERPRET=1", allow_module_level=True)

import torch
from experts_cases import CONFIG, assemble, check, launches
from hypothesis import HealthCheck, given, settings

from bo_tune.core.problem import Experts
from bo_tune.kernels.experts.step import KERNEL, ExpertsStep
from bo_tune.kernels.vllm.operations import operation


@pytest.mark.parametrize("gated", [True, False])
@pytest.mark.parametrize("block_m", [16, 64])
@pytest.mark.parametrize("sizes", [(64, 32), (50, 21)], ids=["even", "ragged"])
@pytest.mark.parametrize("experts", [Experts(6, 2), Experts(6, 3, local=2)], ids=["all", "some"])
def test_both_products_are_right(experts, sizes, block_m, gated):
    step = ExpertsStep(20, experts, *sizes, gated=gated, dtype="float16")
    assert step.is_sorted
    check(assemble(step), {**CONFIG, "BLOCK_SIZE_M": block_m, "GROUP_SIZE_M": 16})


@pytest.mark.parametrize("sizes", [(64, 32), (50, 21)], ids=["even", "ragged"])
def test_tokens_that_are_not_sorted_are_right(sizes):
    step = ExpertsStep(3, Experts(32, 2), *sizes, dtype="float16")
    assert not step.is_sorted
    check(assemble(step))


def test_a_crowded_expert_and_idle_ones_are_right():
    step = ExpertsStep(40, Experts(9, 1), 32, 16, dtype="float16")
    check(assemble(step, [[3]] * 39 + [[8]]))


@settings(max_examples=20, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(launches(dtypes=("float16",), most_tokens=24, most_size=48, most_block=32))
def test_any_launch_is_right(case):
    step, config = case
    check(assemble(step), config)


def test_a_wrong_result_is_found():
    inputs = assemble(ExpertsStep(4, Experts(4, 2), 32, 16, dtype="float16"))
    kernel = operation(KERNEL)
    right = kernel.right(inputs)
    kernel.poison(inputs)
    assert kernel.judge(inputs, right).error is None
    kernel.launch(inputs, CONFIG)
    assert not kernel.judge(inputs, right).wrong
    inputs.outs[1][0, 0] += torch.ones(32, dtype=torch.float16)
    assert kernel.judge(inputs, right).wrong.startswith("second product: relative error ")
