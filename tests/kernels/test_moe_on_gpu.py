"""The fused MoE kernels on a GPU."""

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from moe_cases import KERNELS, assemble, check, launches, moe_problem

from bo_tune.core.conditions import Conditions, Routing
from bo_tune.core.problem import Experts
from bo_tune.kernels.operations import operation
from bo_tune.kernels.registry import kernel_spec

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU"),
]

QWEN_3 = {"max_loras": 4, "k": 16, "n": 2048, "i": 768, "experts": Experts(128, 8), "dtype": "bfloat16"}


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("m", [1, 16, 256])
@pytest.mark.parametrize("rank", [16, 64])
def test_a_layer_as_served_is_right(kernel, rank, m):
    problem = moe_problem(kernel, m=m, **{**QWEN_3, "k": rank})
    inputs = assemble(problem, [token % 5 - 1 for token in range(m)], device="cuda")
    for block_m in (16, 64):
        config = {**kernel_spec(kernel).default_config(problem), "block_m": block_m}
        check(inputs, config)


@pytest.mark.parametrize("kernel", [name for name in KERNELS if "shrink" in name])
def test_shares_of_k_joined_in_bfloat16_stay_within_the_tolerance(kernel):
    problem = moe_problem(kernel, m=64, **QWEN_3)
    inputs = assemble(problem, [token % 4 for token in range(64)], device="cuda")
    check(inputs, {**kernel_spec(kernel).default_config(problem), "block_m": 16, "split_k": 8})


@settings(max_examples=40, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(launches(dtypes=("bfloat16", "float16"), most_tokens=100, most_k=128, most_n=256, most_block=128))
def test_any_launch_matches_the_reference(case):
    problem, config, assignment = case
    check(assemble(problem, assignment, device="cuda"), config)


@pytest.mark.parametrize("routing", [Routing.UNIFORM, Routing.ZIPF])
def test_drawn_inputs_are_right_under_every_routing(routing):
    problem = moe_problem(KERNELS[3], m=128, **QWEN_3)
    op = operation(problem.kernel)
    conditions = Conditions(routing=routing, adapters=2)
    inputs = op.make_inputs(problem, seed=0, device=torch.device("cuda"), conditions=conditions)
    check(inputs, kernel_spec(problem.kernel).default_config(problem))
