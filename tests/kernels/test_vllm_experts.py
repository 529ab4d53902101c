"""The published vLLM's kernel of the base model's experts through the adapter, on a machine without a GPU."""

import gc
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import triton
from experts_cases import CONFIG, assemble
from helpers import H100
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from triton.backends.compiler import GPUTarget
from vllm_wheel import VERSION, importable

from bo_tune.core.conditions import Conditions, Routing
from bo_tune.core.problem import Experts, GpuInfo
from bo_tune.errors import InputError
from bo_tune.kernels.experts.step import KERNEL, ExpertsStep
from bo_tune.kernels.moe.blocks import MoeBlocks
from bo_tune.kernels.registry import kernel_spec
from bo_tune.kernels.vllm.experts import MODULES, ExpertsLauncher
from bo_tune.kernels.vllm.installed import VllmError
from bo_tune.kernels.vllm.operations import operation
from bo_tune.measure.compile.offline_driver import activate
from bo_tune.measure.source import BUILTIN, VLLM, default_config, operations_of

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore:TRITON_DEFAULT_FP_FUSION:UserWarning")]

H200 = GpuInfo("NVIDIA H200", (9, 0), sm_count=132, shared_memory_bytes=232448)
QWEN = ExpertsStep(256, Experts(128, 8), hidden=2048, n=768)
FP8 = replace(QWEN, weights="fp8_w8a8", block=(128, 128))
HELD = [
    FP8,
    replace(FP8, block=None),
    replace(FP8, block=(64, 64)),
    replace(QWEN, weights="int8_w8a16", block=(0, 128)),
    replace(QWEN, weights="int4_w4a16", block=(0, 128), zeros=True),
]
MIXTRAL = ExpertsStep(16, Experts(8, 2), hidden=4096, n=7168)
SPEC = kernel_spec(KERNEL)


@pytest.fixture(autouse=True)
def _sm_90(vllm: None, monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> None:
    """Compile for sm_90 into a cache of the test session, and leave Triton's driver as it was."""
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path_factory.getbasetemp() / "triton"))
    monkeypatch.setattr(triton.runtime.driver, "_active", triton.runtime.driver._active)
    activate(GPUTarget("cuda", 90, 32), H100)


def captured(step: ExpertsStep, config: dict[str, int] = CONFIG) -> list[dict[str, object]]:
    """What the kernel is given for both products, by the names of its parameters."""
    op = operation(KERNEL)
    return [dict(call.parameters) for call in op.calls(op.stand_ins(step.problem), config, H100)]


def test_the_engines_version_is_named() -> None:
    assert operation(KERNEL).source == f"vllm {VERSION}"


def test_both_products_are_given_what_the_engine_gives_them() -> None:
    first, second = captured(QWEN)
    assert (first["N"], first["K"], first["top_k"], first["MUL_ROUTED_WEIGHT"]) == (2 * 768, 2048, 8, False)
    assert (second["N"], second["K"], second["top_k"], second["MUL_ROUTED_WEIGHT"]) == (2048, 768, 1, True)
    assert {call["SPLIT_K"] for call in (first, second)} == {1}
    assert {call["num_valid_tokens"] for call in (first, second)} == {2048}
    assert {call["naive_block_assignment"] for call in (first, second)} == {False}
    assert captured(replace(QWEN, gated=False))[0]["N"] == 768


def test_few_tokens_are_not_sorted() -> None:
    steps = {m: replace(QWEN, m=m) for m in (1, 4, 5)}
    assert {m: step.is_sorted for m, step in steps.items()} == {1: False, 4: False, 5: True}
    for m, step in steps.items():
        for call in captured(step):
            assert call["naive_block_assignment"] == (not step.is_sorted)
            assert call["EM"] == (5 * 8 * 16 if m == 5 else m * 8 * 16)
    shared = replace(QWEN, m=1, experts=Experts(128, 8, local=64))
    assert shared.is_sorted, "the engine maps experts of other ranks"


@pytest.mark.parametrize("step", [QWEN, replace(QWEN, m=2), MIXTRAL, replace(MIXTRAL, m=4096)])
def test_the_grid_is_what_the_blocks_need(step: ExpertsStep) -> None:
    op = operation(KERNEL)
    for config in (CONFIG, {**CONFIG, "BLOCK_SIZE_M": 128, "BLOCK_SIZE_N": 256}):
        calls = op.calls(op.stand_ins(step.problem), config, H100)
        for call, (_, width) in zip(calls, step.products, strict=True):
            blocks = -(-int(call.parameters["EM"]) // config["BLOCK_SIZE_M"])
            assert call.grid == (blocks * -(-width // config["BLOCK_SIZE_N"]),)


def test_a_config_runs_as_it_is_but_for_what_the_engine_sets_itself() -> None:
    op = operation(KERNEL)
    for config in (CONFIG, SPEC.default_config(QWEN.problem)):
        assert op.effective_config(QWEN.problem, config, H100) == config
    assert op.effective_config(QWEN.problem, {**CONFIG, "SPLIT_K": 4}, H100) == {**CONFIG, "SPLIT_K": 1}


@st.composite
def configs(draw: st.DrawFn) -> dict[str, int]:
    space = SPEC.search_space
    return {name: draw(st.sampled_from(values)) for name, values in space.ranges.items()}


@settings(max_examples=4, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(config=configs(), step=st.sampled_from([QWEN, replace(QWEN, m=2), replace(MIXTRAL, n=3600), MIXTRAL, *HELD[:2]]))
def test_binaries_need_the_shared_memory_foreseen(config: dict[str, int], step: ExpertsStep) -> None:
    """Small tiles, which compile in a second; the bound does not depend on their size otherwise."""
    config = {
        **config,
        "BLOCK_SIZE_M": min(config["BLOCK_SIZE_M"], 64),
        "BLOCK_SIZE_N": min(config["BLOCK_SIZE_N"], 64),
    }
    binaries = operation(KERNEL).compile(step.problem, config)
    needed = max(binary.metadata.shared for binary in binaries)
    assert 0 < SPEC.shared_memory_bytes(config, step.problem, H100) <= needed
    assert SPEC.shared_memory_bytes(config, step.problem, H100) * 1.05 >= needed, "nearly all that they need"


@pytest.mark.usefixtures("hashes_alone")
@settings(max_examples=10, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(
    steps=st.tuples(*[
        st.builds(
            ExpertsStep,
            m=st.sampled_from([1, 16, 24, 100]),
            experts=st.sampled_from([Experts(128, 8), Experts(8, 2), Experts(8, 2, local=4)]),
            hidden=st.sampled_from([64, 100]),
            n=st.sampled_from([32, 40]),
        )
    ] * 2)
)  # fmt: skip
def test_keys_are_equal_exactly_for_the_same_binaries(steps: tuple[ExpertsStep, ExpertsStep]) -> None:
    op = operation(KERNEL)
    keys = [op.compile_key(step.problem, CONFIG, H100) for step in steps]
    binaries = [[binary.hash for binary in op.compile(step.problem, CONFIG)] for step in steps]
    assert (keys[0] == keys[1]) == (binaries[0] == binaries[1])


def test_fp8_of_blocks_is_given_its_scales_and_shorter_tiles() -> None:
    first, second = captured(FP8, {**CONFIG, "BLOCK_SIZE_K": 256})
    for call in (first, second):
        assert (call["use_fp8_w8a8"], call["group_n"], call["group_k"], call["BLOCK_SIZE_K"]) == (True, 128, 128, 128)
        assert str(call["compute_type"]) == "bf16"
    assert (first["stride_asm"], first["stride_bse"], first["stride_bsn"], first["stride_bsk"]) == (16, 192, 16, 1)
    assert (second["stride_asm"], second["stride_bse"], second["stride_bsn"]) == (6, 96, 6)
    alone = captured(replace(FP8, block=None))[0]
    assert [alone[name] for name in ("group_k", "stride_asm", "stride_bse", "stride_bsn")] == [0, 0, 1, 0]
    op = operation(KERNEL)
    long, short = ({**CONFIG, "BLOCK_SIZE_K": length} for length in (256, 128))
    assert op.effective_config(FP8.problem, long, H100) == short
    assert op.compile_key(FP8.problem, long, H100) == op.compile_key(FP8.problem, short, H100)


@pytest.mark.parametrize("weights", ["fp8_w8a8", ""])
def test_few_rows_of_fp8_are_multiplied_the_other_way_round_on_hopper_alone(weights: str) -> None:
    step = replace(QWEN, weights=weights)
    a100 = GpuInfo("NVIDIA A100-SXM4-80GB", (8, 0), sm_count=108, shared_memory_bytes=166912)
    op = operation(KERNEL)
    for rows, columns, is_swapped in ((16, 64, True), (32, 128, True), (64, 64, False), (16, 32, False)):
        config = {**CONFIG, "BLOCK_SIZE_M": rows, "BLOCK_SIZE_N": columns}
        for gpu, swaps in ((H100, is_swapped and bool(weights)), (a100, False)):
            calls = op.calls(op.stand_ins(step.problem), config, gpu)
            assert {call.parameters["SWAP_AB"] for call in calls} == {swaps}


@pytest.mark.parametrize("step", HELD, ids=lambda step: f"{step.weights} {step.block}")
def test_weights_of_fewer_bits_compile_for_hopper(step: ExpertsStep) -> None:
    op = operation(KERNEL)
    binaries = op.compile(step.problem, {**CONFIG, "BLOCK_SIZE_N": 64, "BLOCK_SIZE_K": 64})
    assert len(binaries) == 2
    assert all(binary.asm["cubin"] for binary in binaries)


def test_integers_are_launched_as_groups_and_always_sorted() -> None:
    step = replace(QWEN, m=1, weights="int4_w4a16", block=(0, 128), zeros=True)
    assert step.is_sorted
    first, second = captured(step)
    for call in (first, second):
        assert (call["use_int4_w4a16"], call["has_zp"], call["group_size"], call["SPLIT_K"]) == (True, True, 128, 1)
    assert (first["N"], first["K"], first["stride_bn"], second["stride_bn"]) == (1536, 2048, 1024, 384)
    assert (first["MUL_ROUTED_WEIGHT"], second["MUL_ROUTED_WEIGHT"]) == (False, True)
    eight = captured(replace(step, weights="int8_w8a16", zeros=False))[0]
    assert (eight["use_int8_w8a16"], eight["has_zp"], eight["stride_bn"]) == (True, False, 2048)


def test_problems_of_one_shape_share_their_weights_and_no_more(tmp_path: Path) -> None:
    small = ExpertsStep(4, Experts(4, 2), 64, 32)
    one, two, other = (assemble(step) for step in (small, replace(small, m=9), replace(small, n=64)))
    op = operation(KERNEL)
    for mine, same, apart in zip(one.operands, two.operands, other.operands, strict=True):
        assert mine.held is same.held
        assert mine.held is not apart.held
        assert mine.x.data_ptr() != same.x.data_ptr()
    shared = op.inputs_bytes(one)
    del two, same
    gc.collect()
    assert op.inputs_bytes(one) > shared, "alone it holds all of them"
    assert torch.equal(assemble(small).operands[0].held.w, one.operands[0].held.w), "the seed decides"


def test_pairs_are_sorted_as_vllm_documents_it() -> None:
    """The example of ``moe_align_block_size``, whose experts are numbered from 1."""
    chosen = torch.tensor([[2, 3, 4], [1, 2, 4], [1, 3, 4], [1, 2, 3]], dtype=torch.int32)
    blocks = MoeBlocks.of(torch.zeros(4, dtype=torch.int32), chosen, 1, Experts(5, 3), 4)
    assert blocks.pairs[0, :16].tolist() == [3, 6, 9, 12, 0, 4, 10, 12, 1, 7, 11, 12, 2, 5, 8, 12]
    assert blocks.experts[0, :4].tolist() == [1, 2, 3, 4]
    assert blocks.padded.tolist() == [16]
    assert blocks.pairs.shape[1] == 12 + 5 * (4 - 1), "room as vLLM allocates it"


def test_blocks_of_experts_that_other_ranks_hold_are_marked() -> None:
    inputs = assemble(ExpertsStep(4, Experts(4, 1, local=2), 32, 16), [[0], [3], [1], [3]])
    assert inputs.in_blocks(16).experts[0, :3].tolist() == [0, 1, -1]
    assert inputs.in_blocks(16).padded.tolist() == [48]


@pytest.mark.parametrize("routing", [Routing.UNIFORM, Routing.ZIPF, Routing.RECORDED])
def test_tokens_are_routed_as_said(routing: Routing) -> None:
    hits = (1000, 1, 1, 1) if routing is Routing.RECORDED else ()
    step = ExpertsStep(400, Experts(4, 1), 32, 16)
    inputs = operation(KERNEL).make_inputs(
        step.problem, seed=0, device=torch.device("cpu"), conditions=Conditions(routing=routing, hits=hits)
    )
    share = float((inputs.chosen == 0).float().mean())
    assert abs(share - {Routing.UNIFORM: 0.25, Routing.ZIPF: 0.48, Routing.RECORDED: 0.997}[routing]) < 0.06


def test_the_default_is_what_the_engine_ships_for_the_gpu_and_else_its_rule() -> None:
    rule = SPEC.default_config(QWEN.problem)
    assert default_config(VLLM, SPEC, QWEN.problem, H100) == rule, "nothing is shipped for E=128,N=768 on an H100"
    shipped = default_config(VLLM, SPEC, QWEN.problem, H200)
    assert shipped == {
        "BLOCK_SIZE_M": 32, "BLOCK_SIZE_N": 256, "BLOCK_SIZE_K": 128, "GROUP_SIZE_M": 16, "num_warps": 4,
        "num_stages": 2,
    }  # fmt: skip
    assert default_config(BUILTIN, SPEC, QWEN.problem, H200) == rule


@given(m=st.integers(1, 20_000), local=st.integers(1, 512), held=st.sampled_from([QWEN, *HELD]))
def test_the_rule_restated_is_the_engines(m: int, local: int, held: ExpertsStep) -> None:
    problem = replace(held, m=m, experts=Experts(512, 8, local=local), n=776).problem
    assert default_config(VLLM, SPEC, problem, H100) == SPEC.default_config(problem)


def test_a_wrong_result_of_either_product_is_found() -> None:
    inputs = assemble(ExpertsStep(3, Experts(4, 2), 32, 16))
    op = operation(KERNEL)
    right = op.right(inputs)
    for out, product in zip(inputs.outs, right.products, strict=True):
        out.copy_(product)
    assert not op.judge(inputs, right).wrong
    inputs.outs[0][0] += 1
    assert op.judge(inputs, right).wrong.startswith("first product: relative error ")
    op.poison(inputs)
    verdict = op.judge(inputs, right)
    assert verdict.error is None
    assert verdict.wrong.count("relative error nan") == 2


def made_up(folder: Path, body: str) -> Path:
    """A package called vllm whose module of the experts is this."""
    file = folder / "vllm" / MODULES[-1]
    file.parent.mkdir(parents=True)
    (folder / "vllm" / "__init__.py").write_text("__version__ = '9.9'\n")
    file.write_text(body)
    return folder


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        ("", "has no invoke_fused_moe_triton_kernel"),
        ("def invoke_fused_moe_triton_kernel():\n    pass\n", "has no fused_moe_kernel"),
        (
            "@missing\ndef fused_moe_kernel():\n    pass\n"
            "def invoke_fused_moe_triton_kernel():\n    fused_moe_kernel()\n",
            "NameError: name 'missing' is not defined",
        ),
    ],
)
def test_a_vllm_without_the_kernel_is_refused_by_its_version(tmp_path: Path, body: str, reason: str) -> None:
    with importable(made_up(tmp_path, body)), pytest.raises(VllmError, match=f"^vllm 9.9: .*{reason}"):
        ExpertsLauncher()


@pytest.mark.parametrize(
    ("launch", "reason"),
    [
        ("pass", "launches 0 kernels instead of one"),
        ("fused_moe_kernel[(1,)](A)\n    fused_moe_kernel[(1,)](A)", "launches 2 kernels instead of one"),
        ("given.nothing", "AttributeError: 'dict' object has no attribute 'nothing'"),
    ],
)
def test_a_launcher_that_does_something_else_is_refused(tmp_path: Path, launch: str, reason: str) -> None:
    body = (
        "@triton.jit\ndef fused_moe_kernel(a):\n    pass\n"
        f"def invoke_fused_moe_triton_kernel(A, **given):\n    fused_moe_kernel\n    {launch}\n"
    )
    with importable(made_up(tmp_path, body)), pytest.raises(VllmError, match=reason):
        ExpertsLauncher().capture({"A": torch.ones(1), "B": None}, H100)


def test_a_vllm_without_the_module_is_refused_for_this_kernel_alone(tmp_path: Path) -> None:
    (tmp_path / "vllm").mkdir()
    (tmp_path / "vllm" / "__init__.py").write_text("")
    with importable(tmp_path), pytest.raises(VllmError, match="where fused_experts should be"):
        operation(KERNEL)


def test_the_project_has_no_such_kernel_of_its_own() -> None:
    with pytest.raises(InputError, match="bo_tune has no fused_experts of its own"):
        operations_of(BUILTIN)(KERNEL)
