"""The published vLLM's kernels through the adapter, on the GPU at hand."""

import importlib
import json
import os
import subprocess
import sys
from dataclasses import replace

import pytest
import torch
import triton
from lora_cases import assemble, check
from vllm_wheel import vllm_folder

from bo_tune.core.problem import GpuInfo, LoraProblem
from bo_tune.kernels.registry import kernel_spec
from bo_tune.kernels.vllm import operations
from bo_tune.kernels.vllm.installed import LAUNCHERS
from bo_tune.kernels.vllm.operations import operation

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU"),
    pytest.mark.usefixtures("vllm"),
    pytest.mark.filterwarnings("ignore:TRITON_DEFAULT_FP_FUSION:UserWarning"),
]

CUDA = torch.device("cuda")
SERVED = [
    LoraProblem("lora_shrink", 4, 1, 16, 4096, 16),
    LoraProblem("lora_shrink", 8, 3, 1000, 4096, 64, dtype="float16"),
    LoraProblem("lora_shrink", 2, 2, 1, 14336, 8),
    LoraProblem("lora_expand", 4, 1, 16, 16, 4096),
    LoraProblem("lora_expand", 4, 3, 4096, 64, 4096, slice_sizes=(4096, 1024, 1024)),
    LoraProblem("lora_expand", 4, 2, 64, 32, 14336, dtype="float16", add_inputs=False),
    LoraProblem("lora_expand", 1, 1, 1, 256, 4096),
]
each_served = pytest.mark.parametrize("problem", SERVED, ids=str)


def configs_of(problem):
    default = kernel_spec(problem.kernel).default_config(problem)
    small = {**default, "block_m": 16, "block_n": 32, "block_k": 64, "num_stages": 3}
    return [default, {**small, "split_k": 8} if "split_k" in default else small, {**default, "num_warps": 8}]


@each_served
def test_results_are_those_of_the_reference(problem):
    """Twice for each config: as first launched through Triton's cache, and as the prepared launch of the timings."""
    assignment = [(5 * token // 3 + 1) % (problem.max_loras + 1) - 1 for token in range(problem.m)]  # some -1
    for config in configs_of(problem):
        check(assemble(problem, assignment, device="cuda"), config, operations)


@each_served
def test_a_launch_does_what_vllms_own_launcher_does(problem, monkeypatch):
    """vLLM's function itself, unpatched but for the file it would read, writes the same output."""
    op = operation(problem.kernel)
    inputs = op.make_inputs(problem, seed=2, device=CUDA)
    module, name = LAUNCHERS[problem.kernel]
    launcher = importlib.import_module(module)
    for config in configs_of(problem):
        op.reset(inputs)
        op.launch(inputs, config)
        ours = op.output(inputs).clone()
        monkeypatch.setattr(launcher, "get_lora_op_configs", lambda *_, config=config, **__: config)
        op.reset(inputs)
        getattr(launcher, name)(**op.arguments(inputs, config, torch.cuda.get_device_capability()))
        torch.testing.assert_close(op.output(inputs), ours, rtol=1e-4, atol=1e-4)


@each_served
def test_binaries_compiled_elsewhere_are_found_by_the_launch(problem, tmp_path, monkeypatch):
    """A process without a CUDA context compiles; the launch here compiles nothing."""
    config = configs_of(problem)[1]
    major, minor = torch.cuda.get_device_capability()
    code = f"""
from triton.backends.compiler import GPUTarget
from bo_tune.kernels.vllm.operations import operation
from bo_tune.measure.compile.offline_driver import activate
from bo_tune.core.problem import LoraProblem
import json, torch
activate(GPUTarget("cuda", {10 * major + minor}, 32))
problem = {problem!r}
operation(problem.kernel).warmup(problem, json.loads({json.dumps(json.dumps(config))}))
assert not torch.cuda.is_initialized()
"""
    path = os.pathsep.join([str(vllm_folder()), *sys.path])
    cache = {"TRITON_CACHE_DIR": str(tmp_path), "PYTHONPATH": path}
    subprocess.run([sys.executable, "-c", code], env={**os.environ, **cache}, check=True, timeout=120)
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    found = []
    monkeypatch.setattr(triton.knobs.compilation, "listener", lambda *, cache_hit, **_: found.append(cache_hit))
    op = operation(problem.kernel)
    inputs = op.make_inputs(problem, seed=1, device=CUDA)
    op.reset(inputs)
    op.launch(inputs, config)
    torch.cuda.synchronize()
    assert found == [True]


def test_stages_that_vllm_forces_are_those_of_this_gpu():
    problem, gpu = LoraProblem("lora_expand", 4, 1, 16, 64, 4096), torch.cuda.get_device_properties(CUDA)
    info = GpuInfo(gpu.name, (gpu.major, gpu.minor), gpu.multi_processor_count, 0)
    config = {**kernel_spec("lora_expand").default_config(problem), "num_stages": 4}
    op = operation("lora_expand")
    inputs = op.make_inputs(problem, seed=1, device=CUDA)
    launched = op.capture(inputs, config, info.capability)
    assert launched.config() == op.effective_config(problem, config, info)
    assert launched.options["num_stages"] == (1 if info.capability == (9, 0) else 4)


def test_inputs_of_another_problem_in_the_same_memory_get_their_own_strides():
    """Allocators reuse addresses, by which vLLM remembers strides."""
    op = operation("lora_shrink")
    large, small = LoraProblem("lora_shrink", 2, 2, 16, 4096, 16), LoraProblem("lora_shrink", 2, 2, 16, 2048, 32)
    config = configs_of(large)[1]
    first = op.make_inputs(large, seed=1, device=CUDA)
    check(first, config, operations)
    second = op.make_inputs(small, seed=2, device=CUDA)
    for ours, theirs in zip(first.weights, second.weights, strict=True):
        ours.view(-1).copy_(theirs.view(-1))
    moved = tuple(ours.view(theirs.shape) for ours, theirs in zip(first.weights, second.weights, strict=True))
    check(replace(second, weights=moved), config, operations)
