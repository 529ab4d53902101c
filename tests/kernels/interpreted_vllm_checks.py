"""vLLM's kernels through the adapter, under Triton's interpreter. Run by ``test_interpreted.py`` as its sibling is."""

import os

import pytest

if os.environ.get("TRITON_INTERPRET") != "1":
    pytest.skip("runs in a process with TRITON_INTERPRET=1", allow_module_level=True)

import moe_cases
import triton
from hypothesis import HealthCheck, given, settings
from lora_cases import assemble, check
from triton.backends.compiler import GPUTarget

from bo_tune.core.problem import Experts, GpuInfo, LoraProblem
from bo_tune.kernels.vllm import operations
from bo_tune.measure.compile.offline_driver import activate

H100 = GpuInfo("NVIDIA H100 80GB HBM3", (9, 0), sm_count=132, shared_memory_bytes=232448)
CONFIG = {"block_m": 16, "block_n": 32, "block_k": 16, "num_warps": 4, "num_stages": 2, "num_ctas": 1}


@pytest.fixture(autouse=True)
def _hopper(monkeypatch):
    monkeypatch.setattr(triton.runtime.driver, "_active", triton.runtime.driver._active)
    activate(GPUTarget("cuda", 90, 32), H100)


def adapters(problem):
    return [(5 * token // 3) % (problem.max_loras + 1) - 1 for token in range(problem.m)]


@pytest.mark.parametrize(("k", "num_slices", "split_k"), [(128, 1, 1), (128, 3, 8), (100, 3, 1), (100, 1, 8)])
def test_shrink_is_right(k, num_slices, split_k):
    problem = LoraProblem("lora_shrink", 3, num_slices, 20, k, 24, dtype="float16")
    check(assemble(problem, adapters(problem)), {**CONFIG, "split_k": split_k}, operations)


@pytest.mark.parametrize("add_inputs", [True, False])
@pytest.mark.parametrize(("k", "slice_sizes"), [(24, (100,)), (32, (64, 64)), (24, (100, 33, 33))])
def test_expand_is_right(k, slice_sizes, add_inputs):
    sizes = {"slice_sizes": slice_sizes, "add_inputs": add_inputs, "dtype": "float16"}
    problem = LoraProblem("lora_expand", 3, len(slice_sizes), 20, k, max(slice_sizes), **sizes)
    check(assemble(problem, adapters(problem)), CONFIG, operations)


@pytest.mark.parametrize(
    ("sizes", "block_m"), [({}, 16), ({"k": 16, "n": 64, "i": 32}, 32)], ids=["ragged", "even, larger blocks"]
)
@pytest.mark.parametrize("kernel", moe_cases.KERNELS)
def test_moe_kernel_is_right(kernel, sizes, block_m):
    problem = moe_cases.moe_problem(kernel, **sizes)
    config = {**CONFIG, "block_m": block_m, "group_size_m": 8, **({"split_k": 4} if "shrink" in kernel else {})}
    moe_cases.check(moe_cases.assemble(problem, adapters(problem)), config, operations)


@pytest.mark.parametrize("experts", [Experts(6, 2), Experts(6, 3, local=2)], ids=["all", "some"])
@pytest.mark.parametrize(
    ("sizes", "block_m"), [({}, 16), ({"k": 16, "n": 128, "i": 128}, 32)], ids=["ragged", "even, larger blocks"]
)
@pytest.mark.parametrize("kernel", moe_cases.ONE_LAUNCH)
def test_one_launch_is_right(kernel, sizes, block_m, experts):
    problem = moe_cases.moe_problem(kernel, experts=experts, **sizes)
    inputs = moe_cases.assemble(problem, adapters(problem), source=operations)
    moe_cases.check(inputs, {"block_m": block_m}, operations)


SMALL = {"dtypes": ("float16",), "most_tokens": 20, "most_k": 40, "most_n": 48, "most_block": 32}


@settings(max_examples=10, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(moe_cases.launches(**SMALL, kernels=moe_cases.ONE_LAUNCH))
def test_one_launch_of_anything_is_right(case):
    problem, config, assignment = case
    moe_cases.check(moe_cases.assemble(problem, assignment, source=operations), config, operations)
