"""The published vLLM's fused MoE kernels through the adapter, compiled on a machine without a GPU."""

import importlib
from dataclasses import replace

import pytest
import triton
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from moe_cases import KERNELS, moe_problem
from triton.backends.compiler import GPUTarget
from vllm_wheel import VERSION

from bo_tune.kernels import operations as builtin
from bo_tune.kernels.registry import kernel_spec
from bo_tune.kernels.vllm.installed import VllmError
from bo_tune.kernels.vllm.moe_path import MODULE, MoePath, engine_path, path_note
from bo_tune.kernels.vllm.operations import operation
from bo_tune.measure.compile_worker import Compiler
from bo_tune.measure.messages import NoteRequest
from bo_tune.measure.offline_driver import activate
from bo_tune.problem import Experts, GpuInfo

pytestmark = pytest.mark.filterwarnings("ignore:TRITON_DEFAULT_FP_FUSION:UserWarning")

H100 = GpuInfo("NVIDIA H100 80GB HBM3", (9, 0), sm_count=132, shared_memory_bytes=232448)
SERVED = {"max_loras": 4, "m": 256, "k": 16, "n": 2048, "i": 768, "experts": Experts(128, 8), "dtype": "bfloat16"}
each_kernel = pytest.mark.parametrize("kernel", KERNELS)


@pytest.fixture(autouse=True)
def _sm_90(vllm, monkeypatch, tmp_path_factory):
    """Compile for sm_90 into a cache of the test session, and leave Triton's driver as it was."""
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path_factory.getbasetemp() / "triton"))
    monkeypatch.setattr(triton.runtime.driver, "_active", triton.runtime.driver._active)
    activate(GPUTarget("cuda", 90, 32))
    engine_path.cache_clear()


def config_of(problem, **changes):
    return {**kernel_spec(problem.kernel).default_config(problem), **changes}


@each_kernel
def test_the_source_is_named_as_in_recordings(kernel):
    assert operation(kernel).source == f"vllm {VERSION} (two-kernel path: no TMA, no PDL)"


@each_kernel
def test_effective_configs_are_what_the_kernel_is_given(kernel):
    problem = moe_problem(kernel, **SERVED)
    config = config_of(problem, block_m=32, block_n=32, num_stages=2)
    assert operation(kernel).effective_config(problem, config, H100) == {"split_k": 1, **config}


@each_kernel
def test_the_grid_is_that_of_the_projects_own_kernel(kernel):
    problem = moe_problem(kernel, **SERVED)
    config = config_of(problem, block_m=16)
    captured = operation(kernel).capture_without_inputs(problem, config, (9, 0))
    assert captured.grid == builtin.operation(kernel).grid(problem, {"split_k": 1, **config})


@each_kernel
def test_a_binary_needs_the_shared_memory_foreseen(kernel):
    problem = moe_problem(kernel, **SERVED)
    config = config_of(problem, num_stages=4)
    binary = operation(kernel).warmup(problem, config)
    assert 0 < kernel_spec(kernel).shared_memory_bytes(config, problem) <= binary.metadata.shared


@st.composite
def variants(draw):
    problem = moe_problem(
        draw(st.sampled_from(KERNELS)),
        m=draw(st.sampled_from([1, 16, 24])),
        k=draw(st.sampled_from([16, 24])),
        n=draw(st.sampled_from([64, 100])),
        i=draw(st.sampled_from([32, 50])),
        experts=draw(st.sampled_from([Experts(6, 2), Experts(16, 4)])),
    )
    return problem, config_of(problem, block_m=16, block_n=16, num_stages=draw(st.sampled_from([2, 3])))


@settings(max_examples=15, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(variants(), st.data())
def test_compile_keys_are_equal_exactly_for_the_same_binary(case, data):
    problem, config = case
    other = data.draw(variants().filter(lambda drawn: drawn[0].kernel == problem.kernel))
    op = operation(problem.kernel)
    keys_equal = op.compile_key(problem, config, H100) == op.compile_key(*other, H100)
    assert keys_equal == (op.warmup(problem, config).hash == op.warmup(*other).hash)


def test_the_way_the_engine_takes_depends_on_rank_and_sharding():
    problem = moe_problem(KERNELS[0], **SERVED)
    assert engine_path(problem, (9, 0)) is MoePath.ONE_LAUNCH
    assert engine_path(replace(problem, k=256), (9, 0)) is MoePath.TWO_KERNELS_TMA
    assert engine_path(replace(problem, k=256), (8, 0)) is MoePath.TWO_KERNELS
    assert engine_path(replace(problem, k=8, experts=Experts(128, 8, shards=2)), (9, 0)) is MoePath.TWO_KERNELS


def test_the_way_is_said_in_a_line():
    note = path_note(moe_problem(KERNELS[2], **SERVED), (9, 0))
    assert note.startswith(f"vllm {VERSION} runs MoE LoRA of rank 16, not fully sharded, as one launch: of these files")


def test_a_dispatch_that_launches_something_else_is_refused_and_noted(monkeypatch):
    module = importlib.import_module(MODULE)
    monkeypatch.setattr(module, "_fused_moe_lora", lambda **_: None)
    problem = moe_problem(KERNELS[0], **SERVED)
    with pytest.raises(VllmError, match="does not tell which way it takes"):
        engine_path(problem, (9, 0))
    assert "does not tell which way it takes" in operation(KERNELS[0]).note(problem, H100)


def test_compilers_are_asked_for_the_note():
    problem = moe_problem(KERNELS[0], **SERVED)
    compiler = Compiler("bo_tune.kernels.vllm.operations")
    assert compiler.answer(NoteRequest(problem, H100)) == path_note(problem, H100.capability)
    assert Compiler("bo_tune.kernels.operations").answer(NoteRequest(problem, H100)) is None


def test_a_launcher_with_other_parameters_is_refused(monkeypatch):
    module = importlib.import_module(MODULE)
    monkeypatch.setattr(module, "_fused_moe_lora_shrink", lambda hidden_states: None)
    operation.cache_clear()
    with pytest.raises(VllmError, match="cannot be used: it wants hidden_states"):
        operation("fused_moe_lora_w13_shrink")


def test_a_vllm_without_these_kernels_is_refused_for_them_alone(monkeypatch):
    module = importlib.import_module(MODULE)
    monkeypatch.delattr(module, "_fused_moe_lora_expand")
    operation.cache_clear()
    with pytest.raises(VllmError, match="has no _fused_moe_lora_expand"):
        operation("fused_moe_lora_w2_expand")
    assert operation("lora_shrink").source == f"vllm {VERSION}"
