"""The published vLLM's kernels through the adapter, compiled on a machine without a GPU."""

import threading
from dataclasses import replace

import pytest
import torch
import triton
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from lora_variants import SMALL, variants
from triton.backends.compiler import GPUTarget
from vllm_wheel import VERSION

from bo_tune.core.conditions import Conditions
from bo_tune.core.problem import GpuInfo, LoraProblem
from bo_tune.engines.models.problems import DENSE_KERNELS
from bo_tune.kernels import operations as builtin
from bo_tune.kernels.registry import kernel_spec
from bo_tune.kernels.vllm.installed import unavailable
from bo_tune.kernels.vllm.operations import operation
from bo_tune.measure.compile.offline_driver import activate

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore:TRITON_DEFAULT_FP_FUSION:UserWarning")]

CPU = torch.device("cpu")
H100 = GpuInfo("NVIDIA H100 80GB HBM3", (9, 0), sm_count=132, shared_memory_bytes=232448)
A100 = replace(H100, name="NVIDIA A100", capability=(8, 0))
B200 = replace(H100, name="NVIDIA B200", capability=(10, 0))
SHRINK = LoraProblem("lora_shrink", 4, 1, 16, 4096, 16)
EXPAND = LoraProblem("lora_expand", 4, 1, 16, 64, 4096)


@pytest.fixture(autouse=True)
def _sm_90(vllm, monkeypatch, tmp_path_factory):
    """Compile for sm_90 into a cache of the test session, and leave Triton's driver as it was."""
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path_factory.getbasetemp() / "triton"))
    monkeypatch.setattr(triton.runtime.driver, "_active", triton.runtime.driver._active)
    activate(GPUTarget("cuda", 90, 32))


def config_of(problem, **changes):
    return {**SMALL, **({"split_k": 4} if problem.kernel == "lora_shrink" else {}), **changes}


def test_the_source_is_named_as_in_recordings():
    assert unavailable() is None
    assert {operation(kernel).source for kernel in DENSE_KERNELS} == {f"vllm {VERSION}"}


def test_expand_runs_with_one_stage_on_hopper_alone():
    stages = {gpu: operation("lora_expand").effective_config(EXPAND, SMALL, gpu)["num_stages"] for gpu in (H100, B200)}
    assert stages == {H100: 1, B200: SMALL["num_stages"]}
    assert operation("lora_expand").effective_config(EXPAND, SMALL, A100)["num_stages"] == SMALL["num_stages"]


def test_effective_configs_are_what_the_kernel_is_given():
    even, ragged = config_of(SHRINK), config_of(SHRINK, block_k=256, split_k=64)
    effective = operation("lora_shrink").effective_config
    assert effective(SHRINK, even, H100) == {**even, "group_size_m": 8}
    assert effective(SHRINK, {**even, "group_size_m": 4}, H100) == {**even, "group_size_m": 4}
    assert effective(SHRINK, {**even, "max_nreg": 64}, H100) == {**even, "group_size_m": 8}, "max_nreg is never used"
    assert effective(SHRINK, ragged, H100) == {**ragged, "group_size_m": 8, "num_stages": 1}


@pytest.mark.parametrize("arch", [80, 90, 100])
@pytest.mark.parametrize(
    ("kernel", "k", "tile"),
    [
        ("lora_shrink", 3000, {"block_m": 32, "block_k": 64, "split_k": 8}),
        ("lora_shrink", 4096, {"block_m": 16, "block_k": 256, "split_k": 64}),
        ("lora_expand", 16, {"block_m": 64, "block_k": 32}),
    ],
)
def test_stages_are_inert_where_k_is_ragged(arch, kernel, k, tile):
    """The claim behind ``effective_config``: the binary itself is the same."""
    activate(GPUTarget("cuda", arch, 32))
    problem = LoraProblem(kernel, 4, 1, 16, k, 64)
    call = operation(kernel).capture_without_inputs(problem, {**SMALL, **tile}, divmod(arch, 10))
    assert call.parameters["EVEN_K"] is False
    calls = [replace(call, options={**call.options, "num_stages": stages}) for stages in (1, 5)]
    assert len({each.warmup().asm["cubin"] for each in calls}) == 1


LAUNCHED = [
    LoraProblem("lora_shrink", 4, 1, 16, 128, 16),
    LoraProblem("lora_shrink", 2, 3, 1, 100, 8, dtype="float16"),
    LoraProblem("lora_expand", 4, 1, 24, 32, 64),
    LoraProblem("lora_expand", 1, 2, 1, 24, 64, add_inputs=False),
    LoraProblem("lora_expand", 4, 3, 16, 32, 64, slice_sizes=(64, 16, 16)),
]


@pytest.mark.parametrize("problem", LAUNCHED, ids=str)
def test_warmup_compiles_the_binary_that_a_launch_looks_up(problem):
    """Triton's binder is given the launch's own tensors, which torch aligns on the CPU as on the GPU."""
    op = operation(problem.kernel)
    call = op.capture(op.make_inputs(problem, seed=0, device=CPU), config_of(problem), (9, 0))
    tensors = [value for value in call.arguments if isinstance(value, torch.Tensor)]
    assert len(tensors) >= 7
    assert all(tensor.data_ptr() % 16 == 0 and tensor.device == CPU for tensor in tensors)
    launched = call.kernel.warmup(*call.arguments, grid=(1,), **call.options)
    assert op.warmup(problem, config_of(problem)).hash == launched.hash


@pytest.mark.usefixtures("hashes_alone")
@settings(max_examples=30, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(variants(), st.sampled_from([1, 4]), st.sampled_from([1, 16, 160, 24]), st.sampled_from([128, 64, 100]))
def test_compile_keys_are_equal_exactly_for_the_same_binary(case, max_loras, m, k):
    problem, config = case
    other, op = replace(problem, max_loras=max_loras, m=m, k=k), operation(problem.kernel)
    keys_equal = op.compile_key(problem, config, H100) == op.compile_key(other, config, H100)
    assert keys_equal == (op.warmup(problem, config).hash == op.warmup(other, config).hash)


@pytest.mark.usefixtures("hashes_alone")
def test_problems_that_differ_in_size_alone_share_a_binary():
    config = config_of(SHRINK)
    larger = replace(SHRINK, max_loras=8, m=4096, k=8192)
    op = operation("lora_shrink")
    assert op.compile_key(SHRINK, config, H100) == op.compile_key(larger, config, H100)
    assert op.warmup(SHRINK, config).hash == op.warmup(larger, config).hash
    assert op.compile_key(SHRINK, config, H100) != op.compile_key(SHRINK, config, A100)


@pytest.mark.parametrize("problem", LAUNCHED, ids=str)
def test_grid_and_inputs_are_those_of_the_projects_own_kernel(problem):
    """Both sources are checked and timed on the same work."""
    theirs, own = operation(problem.kernel), builtin.operation(problem.kernel)
    inputs = theirs.make_inputs(problem, seed=3, device=CPU)
    twin = own.make_inputs(problem, seed=3, device=CPU)
    assert torch.equal(theirs.reference(inputs), own.reference(twin))
    assert theirs.capture(inputs, config_of(problem), (9, 0)).grid == own.grid(problem, config_of(problem))


def test_strides_are_those_of_the_tensors_though_an_address_was_seen_before():
    """vLLM keeps strides by address; a problem's tensors can lie where those of another lay."""
    op, config = operation("lora_shrink"), config_of(SHRINK)
    first, second = (LoraProblem("lora_shrink", 2, 1, 16, k, n) for k, n in ((4096, 16), (2048, 32)))
    inputs = op.make_inputs(first, seed=0, device=CPU)
    same_place = op.make_inputs(second, seed=0, device=CPU)
    same_place.weights = (inputs.weights[0].view(2, 1, 32, 2048),)
    strides = [op.capture(each, config, (9, 0)).parameters["lora_d1_stride"] for each in (inputs, same_place)]
    assert strides == [4096, 2048]


def test_captures_in_many_threads_do_not_mix():
    op = operation("lora_shrink")
    configs = [config_of(SHRINK, block_m=16 << index % 5, num_warps=4 << index % 2) for index in range(400)]
    mixed = []

    def capture(own):
        for config in own:
            call = op.capture_without_inputs(SHRINK, config, (9, 0))
            if call.config() != {**config, "group_size_m": 8}:
                mixed.append((config, call.config()))

    threads = [threading.Thread(target=capture, args=(configs[index::4],)) for index in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert mixed == []


@pytest.mark.parametrize("problem", [SHRINK, EXPAND], ids=["shrink", "expand"])
def test_an_engine_of_two_streams_launches_another_binary(monkeypatch, problem):
    config = kernel_spec(problem.kernel).default_config(problem)
    found = {}
    for two in (False, True):
        for name, value in Conditions(dual_stream=two).environment.items():
            monkeypatch.setenv(name, value)
        call = operation(problem.kernel).capture_without_inputs(problem, config, (9, 0))
        found[two] = call.specialisation()
        assert (call.parameters["USE_GDC"], call.options["launch_pdl"]) == (two, two)
        assert operation(problem.kernel).capture_without_inputs(problem, config, (8, 0)).parameters["USE_GDC"] is False
    assert found[False] != found[True]
