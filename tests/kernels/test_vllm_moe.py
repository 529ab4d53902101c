"""The published vLLM's fused MoE kernels through the adapter, compiled on a machine without a GPU."""

import importlib
from dataclasses import replace

import pytest
import torch
import triton
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from moe_cases import KERNELS, ONE_LAUNCH, moe_problem
from triton.backends.compiler import GPUTarget
from vllm_wheel import VERSION

from bo_tune.core.problem import Experts, GpuInfo
from bo_tune.kernels import operations as builtin
from bo_tune.kernels.moe.blocks import MoeBlocks
from bo_tune.kernels.registry import kernel_spec
from bo_tune.kernels.vllm.installed import VllmError
from bo_tune.kernels.vllm.moe_path import MODULE, MoePath, deciding_kernels, engine_path, engine_way, path_note
from bo_tune.kernels.vllm.operations import operation
from bo_tune.measure.backends.nvidia.children import CompilerSide
from bo_tune.measure.compile.offline_driver import activate
from bo_tune.measure.compile.worker import Compiler

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore:TRITON_DEFAULT_FP_FUSION:UserWarning")]

H100 = GpuInfo("NVIDIA H100 80GB HBM3", (9, 0), sm_count=132, shared_memory_bytes=232448)
SERVED = {"max_loras": 4, "m": 256, "k": 16, "n": 2048, "i": 768, "experts": Experts(128, 8), "dtype": "bfloat16"}
each_kernel = pytest.mark.parametrize("kernel", KERNELS)


@pytest.fixture(autouse=True)
def _sm_90(vllm, monkeypatch, tmp_path_factory):
    """Compile for sm_90 into a cache of the test session, and leave Triton's driver as it was."""
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path_factory.getbasetemp() / "triton"))
    monkeypatch.setattr(triton.runtime.driver, "_active", triton.runtime.driver._active)
    activate(GPUTarget("cuda", 90, 32), H100)
    engine_way.cache_clear()


def config_of(problem, **changes):
    return {**kernel_spec(problem.kernel).default_config(problem), **changes}


@each_kernel
def test_the_source_is_named_as_in_recordings(kernel):
    assert operation(kernel).source == f"vllm {VERSION} (two-kernel path)"


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
        k=draw(st.sampled_from([16, 24, 256])),
        n=draw(st.sampled_from([64, 100])),
        i=draw(st.sampled_from([32, 50])),
        experts=draw(st.sampled_from([Experts(6, 2), Experts(16, 4)])),
    )
    if problem.k == 256:  # descriptors, for which the engine too needs sizes that are multiples of 16 bytes
        problem = replace(problem, n=64, i=32, slice_sizes=())
    return problem, config_of(problem, block_m=16, block_n=16, block_k=32, num_stages=draw(st.sampled_from([2, 3])))


@pytest.mark.usefixtures("hashes_alone")
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


LARGE_RANK = {**SERVED, "k": 256}


@each_kernel
@pytest.mark.parametrize(("m", "is_sorted"), [(256, True), (8, False)])
def test_large_ranks_are_launched_with_descriptors_and_overlapping_as_the_engine_does(kernel, m, is_sorted):
    problem = moe_problem(kernel, **{**LARGE_RANK, "m": m})
    config = config_of(problem, block_m=16, block_n=32, block_k=64)
    call = operation(kernel).capture_without_inputs(problem, config, (9, 0))
    assert (call.parameters["USE_TMA"], call.parameters["USE_GDC"], call.options["launch_pdl"]) == (True, True, True)
    assert (call.parameters["sorted_token_ids_ptr"] is not None) == is_sorted
    assert call.grid[2] == (5 if is_sorted else 1)
    host_descriptors = [call.parameters[name] is not None for name in ("a_desc", "b_desc")]
    assert host_descriptors == ["expand" in kernel and is_sorted, "w2" in kernel], "two slices make theirs on the GPU"
    assert call.parameters["sort_c"] == ("shrink" in kernel and is_sorted)
    binary = operation(kernel).warmup(problem, config)
    assert "griddepcontrol" in binary.asm["ptx"]
    older = operation(kernel).capture_without_inputs(problem, config, (8, 0))
    assert (older.parameters["USE_TMA"], older.parameters["USE_GDC"]) == (False, False)
    sharded = replace(problem, k=128 if "w13" in kernel else 256, experts=Experts(128, 8, shards=2))
    alone = operation(kernel).capture_without_inputs(sharded, config, (9, 0))
    assert (alone.parameters["USE_TMA"], alone.parameters["USE_GDC"]) == (False, False)


@given(
    tokens=st.lists(st.integers(-1, 2), min_size=1, max_size=40),
    block_m=st.sampled_from([16, 32]),
    seed=st.integers(0, 9),
)
def test_pairs_are_found_again_in_the_order_of_the_blocks(tokens, block_m, seed):
    generator = torch.Generator().manual_seed(seed)
    experts = Experts(5, 2, local=4)
    chosen = torch.stack([torch.randperm(5, generator=generator)[:2] for _ in tokens]).int()
    blocks = MoeBlocks.of(torch.tensor(tokens), chosen, 3, experts, block_m)
    places, pairs = blocks.places(chosen.numel())
    assert sorted(pairs.tolist()) == [p for p in range(chosen.numel()) if tokens[p // 2] >= 0]
    for place, pair in zip(places.tolist(), pairs.tolist(), strict=True):
        adapter, within = divmod(place, blocks.pairs.shape[1])
        assert adapter == tokens[pair // 2]
        expert = int(chosen.flatten()[pair])
        assert int(blocks.experts[adapter, within // block_m]) == (expert if expert < experts.local else -1)


def test_few_tokens_are_not_sorted_into_blocks_so_that_nothing_is_to_be_decided():
    problem = moe_problem(KERNELS[0], **SERVED)
    ways = {m: engine_path(replace(problem, m=m), (9, 0)) for m in (1, 8, 9)}
    assert ways == {1: MoePath.ONE_LAUNCH_UNSORTED, 8: MoePath.ONE_LAUNCH_UNSORTED, 9: MoePath.ONE_LAUNCH}
    assert deciding_kernels(replace(problem, m=8), (9, 0)) == ()
    assert deciding_kernels(replace(problem, m=9), (9, 0)) == ONE_LAUNCH
    on_one_rank_of_two = replace(problem, m=1, experts=Experts(128, 8, local=64))
    assert engine_path(on_one_rank_of_two, (9, 0)) is MoePath.ONE_LAUNCH


def test_the_way_is_said_in_a_line():
    problem = moe_problem(KERNELS[2], **SERVED)
    what = f"vllm {VERSION} runs MoE LoRA of rank 16, not fully sharded, as one launch"
    assert path_note(problem, (9, 0)).startswith(f"{what}: it reads only block_m from these files")
    few = path_note(replace(problem, m=4), (9, 0))
    assert few.startswith(f"{what} over tokens that are not sorted into blocks for at most 8 of them: it reads nothing")


@pytest.mark.parametrize("kernel", ONE_LAUNCH)
@pytest.mark.parametrize(("m", "rank", "block_m"), [(16, 64, 16), (2048, 16, 64)])
def test_one_launch_is_compiled_for_a_gpu_that_is_not_there(kernel, m, rank, block_m):
    problem = moe_problem(kernel, **{**SERVED, "m": m, "k": rank})
    op = operation(kernel)
    assert op.source == f"vllm {VERSION} (one-launch path)"
    assert op.effective_config(problem, {"block_m": block_m}, H100)["block_m"] == block_m
    assert op.warmup(problem, {"block_m": block_m}).metadata.shared > 0


def test_one_launch_shares_out_its_columns_by_the_multiprocessors_of_the_gpu():
    problem = moe_problem(ONE_LAUNCH[1], **{**SERVED, "m": 1, "max_loras": 1})
    op, config = operation(problem.kernel), {"block_m": 16}
    gpus = replace(H100, sm_count=16), H100
    shares = [op.capture_without_inputs(problem, config, (9, 0), gpu).parameters["NPID_FACTOR"] for gpu in gpus]
    assert shares[0] < shares[1]
    assert len({op.compile_key(problem, config, gpu) for gpu in gpus}) == 2


@pytest.mark.usefixtures("hashes_alone")
@pytest.mark.parametrize("kernel", ONE_LAUNCH)
def test_one_launch_keys_are_equal_exactly_for_the_same_binary(kernel):
    op, config = operation(kernel), {"block_m": 16}
    problems = [moe_problem(kernel, **{**SERVED, **changes}) for changes in ({}, {"m": 2048}, {"k": 8}, {"i": 760})]
    keys = [op.compile_key(problem, config, H100) for problem in problems]
    binaries = [op.warmup(problem, config).hash for problem in problems]
    assert [[a == b for a in keys] for b in keys] == [[a == b for a in binaries] for b in binaries]
    assert keys[0] == keys[1]


def test_without_more_of_the_gpu_than_its_capability_one_launch_is_refused():
    activate(GPUTarget("cuda", 90, 32))
    with pytest.raises(VllmError, match="only the compute capability of the GPU to compile for is known"):
        operation(ONE_LAUNCH[0]).warmup(moe_problem(ONE_LAUNCH[0], **SERVED), {"block_m": 16})


def test_compilers_are_asked_who_decides():
    problem = moe_problem(KERNELS[0], **SERVED)
    for source, expected in (("vllm.operations", ONE_LAUNCH), ("operations", ())):
        assert Compiler(f"bo_tune.kernels.{source}", H100, CompilerSide()).answer(("decided_by", problem)) == expected


def test_a_dispatch_that_launches_something_else_is_refused_and_noted(monkeypatch):
    module = importlib.import_module(MODULE)
    monkeypatch.setattr(module, "_fused_moe_lora", lambda **_: None)
    problem = moe_problem(KERNELS[0], **SERVED)
    with pytest.raises(VllmError, match="which path it takes"):
        engine_path(problem, (9, 0))
    assert "which path it takes" in operation(KERNELS[0]).note(problem, H100)


def test_compilers_are_asked_for_the_note():
    problem = moe_problem(KERNELS[0], **SERVED)
    compiler = Compiler("bo_tune.kernels.vllm.operations", H100, CompilerSide())
    assert compiler.answer(("note", problem)) == path_note(problem, H100.capability)
    own = Compiler("bo_tune.kernels.operations", H100, CompilerSide()).answer(("note", problem))
    assert (
        own == "the project's own fused MoE kernels have no one-launch path: block_m is chosen by the two-kernel path"
    )


def test_a_launcher_with_other_parameters_is_refused(monkeypatch):
    module = importlib.import_module(MODULE)
    monkeypatch.setattr(module, "_fused_moe_lora_shrink", lambda hidden_states: None)
    operation.cache_clear()
    with pytest.raises(VllmError, match="cannot be used: it needs hidden_states"):
        operation("fused_moe_lora_w13_shrink")


def test_a_vllm_without_these_kernels_is_refused_for_them_alone(monkeypatch):
    module = importlib.import_module(MODULE)
    monkeypatch.delattr(module, "_fused_moe_lora_expand")
    operation.cache_clear()
    with pytest.raises(VllmError, match="has no _fused_moe_lora_expand"):
        operation("fused_moe_lora_w2_expand")
    assert operation("lora_shrink").source == f"vllm {VERSION}"
