"""The compiled kernels against the reference, on the GPU at hand."""

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from lora_cases import assemble, check, launches

from bo_tune.core.problem import LoraProblem
from bo_tune.kernels.operations import operation
from bo_tune.kernels.registry import kernel_spec

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU"),
]

LARGE = {"dtypes": ("bfloat16", "float16"), "most_tokens": 300, "most_k": 2048, "most_n": 512, "most_block": 128}
RANDOMLY = settings(max_examples=40, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))


@RANDOMLY
@given(launches("lora_shrink", **LARGE))
def test_any_shrink_matches_the_reference(case):
    problem, config, assignment, empty = case
    check(assemble(problem, assignment, empty=empty, device="cuda"), config)


@RANDOMLY
@given(launches("lora_expand", **{**LARGE, "most_k": 300, "most_n": 2048}))
def test_any_expand_matches_the_reference(case):
    problem, config, assignment, empty = case
    check(assemble(problem, assignment, empty=empty, device="cuda"), config)


SERVED = [
    LoraProblem("lora_shrink", 4, 1, 16, 4096, 16),
    LoraProblem("lora_shrink", 8, 3, 1000, 4096, 64, dtype="float16"),
    LoraProblem("lora_shrink", 2, 2, 1, 14336, 8),
    LoraProblem("lora_expand", 4, 1, 16, 16, 4096),
    LoraProblem("lora_expand", 4, 3, 4096, 64, 4096, slice_sizes=(4096, 1024, 1024)),
    LoraProblem("lora_expand", 4, 2, 64, 32, 14336, dtype="float16", add_inputs=False),
    LoraProblem("lora_expand", 1, 1, 1, 256, 4096),
]


@pytest.mark.parametrize("problem", SERVED, ids=str)
def test_default_config_on_drawn_inputs(problem):
    op = operation(problem.kernel)
    inputs = op.make_inputs(problem, seed=1, device=torch.device("cuda"))
    check(inputs, kernel_spec(problem.kernel).default_config(problem))


@pytest.mark.parametrize("problem", SERVED, ids=str)
def test_warmup_compiles_the_binary_that_launch_looks_up(problem):
    op = operation(problem.kernel)
    config = kernel_spec(problem.kernel).default_config(problem) | {"block_m": 16, "num_stages": 3}
    warm = op.warmup(problem, config)
    inputs = op.make_inputs(problem, seed=1, device=torch.device("cuda"))
    cached = op.kernel.device_caches[torch.cuda.current_device()][0]
    known = len(cached)
    op.reset(inputs)
    op.launch(inputs, config)
    assert len(cached) == known
    assert warm.hash in {kernel.hash for kernel in cached.values()}


@settings(max_examples=10, deadline=None, derandomize=True)
@given(st.sampled_from(sorted({problem.kernel for problem in SERVED})), st.integers(0, 2**16))
def test_equal_seeds_draw_equal_inputs(kernel, seed):
    problem = LoraProblem(kernel, 3, 1, 40, 64, 64)
    first, second = (operation(kernel).make_inputs(problem, seed=seed, device=torch.device("cuda")) for _ in range(2))
    assert torch.equal(first.x, second.x)
    assert torch.equal(first.weights[0], second.weights[0])
    assert torch.equal(first.groups.tokens, second.groups.tokens)
