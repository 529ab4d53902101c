"""The published vLLM's fused MoE kernels through the adapter, on a GPU."""

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from moe_cases import KERNELS, assemble, check, launches, moe_problem

from bo_tune.kernels.registry import kernel_spec
from bo_tune.kernels.vllm import operations
from bo_tune.problem import Experts

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU"),
    pytest.mark.filterwarnings("ignore:TRITON_DEFAULT_FP_FUSION:UserWarning"),
    pytest.mark.usefixtures("vllm"),
]

QWEN_3 = {"max_loras": 4, "k": 16, "n": 2048, "i": 768, "experts": Experts(128, 8), "dtype": "bfloat16"}


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("m", [1, 256])
def test_a_layer_as_served_is_right(kernel, m):
    problem = moe_problem(kernel, m=m, **QWEN_3)
    inputs = assemble(problem, [token % 5 - 1 for token in range(m)], device="cuda")
    for block_m in (16, 64):
        check(inputs, {**kernel_spec(kernel).default_config(problem), "block_m": block_m}, operations)


@settings(max_examples=20, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(launches(dtypes=("bfloat16", "float16"), most_tokens=100, most_k=128, most_n=256, most_block=128))
def test_any_launch_matches_the_reference(case):
    problem, config, assignment = case
    check(assemble(problem, assignment, device="cuda"), config, operations)
