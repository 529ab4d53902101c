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

from bo_tune.core.problem import Experts, GpuInfo
from bo_tune.kernels.experts.step import KERNEL, ExpertsStep
from bo_tune.kernels.vllm import experts as experts_module
from bo_tune.kernels.vllm.operations import operation


@pytest.mark.parametrize("gated", [True, False])
@pytest.mark.parametrize(("sizes", "block_m"), [((64, 32), 64), ((50, 21), 16)], ids=["even, larger blocks", "ragged"])
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


@settings(max_examples=10, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(launches(dtypes=("float16",), most_tokens=24, most_size=48, most_block=32))
def test_any_launch_is_right(case):
    step, config = case
    check(assemble(step), config)


FP8 = {"weights": "fp8_w8a8", "dtype": "bfloat16"}
HELD = {
    "fp8, an expert": FP8,
    "fp8, blocks": FP8 | {"block": (32, 32)},
    "int8": {"weights": "int8_w8a16", "block": (0, 32), "dtype": "float16"},
    "int8, zero points": {"weights": "int8_w8a16", "block": (0, 16), "zeros": True, "dtype": "float16"},
    "int4": {"weights": "int4_w4a16", "block": (0, 32), "dtype": "float16"},
    "int4, zero points": {"weights": "int4_w4a16", "block": (0, 16), "zeros": True, "dtype": "float16"},
}


@pytest.mark.parametrize("held", HELD.values(), ids=HELD)
@pytest.mark.parametrize(
    ("experts", "change"),
    [
        (Experts(6, 2), {}),
        (Experts(6, 3, local=2), {"BLOCK_SIZE_M": 32, "BLOCK_SIZE_N": 64, "BLOCK_SIZE_K": 64, "GROUP_SIZE_M": 16}),
    ],
    ids=["all", "some"],
)
def test_weights_of_fewer_bits_are_right(experts, change, held):
    check(assemble(ExpertsStep(12, experts, 96, 64, **held)), {**CONFIG, **change})


@pytest.mark.parametrize("held", [FP8, FP8 | {"block": (32, 32)}], ids=["an expert", "blocks"])
def test_fp8_is_right_the_other_way_round_and_for_few_tokens(held, monkeypatch):
    hopper = GpuInfo("NVIDIA H100", (9, 0), sm_count=132, shared_memory_bytes=232448)
    monkeypatch.setattr(experts_module, "target_gpu", lambda: hopper)
    config = {**CONFIG, "BLOCK_SIZE_N": 64}
    for step in (ExpertsStep(12, Experts(6, 2), 96, 50, **held), ExpertsStep(3, Experts(32, 2), 64, 32, **held)):
        inputs = assemble(step)
        assert {call.parameters["SWAP_AB"] for call in operation(KERNEL).calls(inputs, config, hopper)} == {True}
        check(inputs, config)


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
