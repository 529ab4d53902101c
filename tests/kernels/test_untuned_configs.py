"""What an engine without tuned files runs of the experts' adapters: vLLM's own answer, and the rule restated."""

import json
from pathlib import Path

import pytest
from helpers import H100
from hypothesis import given
from hypothesis import strategies as st
from vllm_wheel import importable, vllm_folder

from bo_tune.core.problem import Experts, GpuInfo, LoraProblem
from bo_tune.kernels.moe.spec import MOE_SPECS, ONE_LAUNCH_SPECS
from bo_tune.kernels.moe.untuned import USUAL, as_read
from bo_tune.kernels.registry import kernel_spec
from bo_tune.kernels.vllm import untuned
from bo_tune.kernels.vllm.installed import VllmError
from bo_tune.measure.source import BUILTIN, VLLM, default_config

H200 = GpuInfo("NVIDIA H200", (9, 0), sm_count=132, shared_memory_bytes=232448)
QWEN_3 = Experts(128, 8)


def qwen(kernel: str, m: int, *, k: int = 16, i: int = 768, experts: Experts = QWEN_3) -> LoraProblem:
    return LoraProblem(kernel, 4, 2 if "w13" in kernel else 1, m, k, 2048, i, experts=experts)


def block_ms(gpu: GpuInfo, ms: tuple[int, ...], i: int = 768) -> list[int]:
    """What the engine takes of all kernels of a layer, which must be one value for each m."""
    found = []
    for m in ms:
        specs = (*MOE_SPECS, *ONE_LAUNCH_SPECS)
        (value,) = {default_config(VLLM, spec, qwen(spec.name, m, i=i), gpu)["block_m"] for spec in specs}
        found.append(value)
    return found


def test_an_untuned_engine_takes_the_block_m_of_the_base_models_experts(vllm: None) -> None:
    assert block_ms(H100, (16, 256, 2048)) == [16, 64, 128], "no file is shipped for E=128,N=768 on an H100"
    assert block_ms(H100, (16, 256, 2048), i=384) == [16, 32, 128], "E=128,N=384 is shipped"
    assert block_ms(H200, (16, 256, 2048)) == [16, 32, 128], "E=128,N=768 is shipped for the H200"
    assert block_ms(GpuInfo("NVIDIA H200 NVL", (9, 0), 132, 232448), (256,)) == [32], "the H200 stands for its family"


def test_a_shipped_config_is_bounded_by_the_rank_and_reaches_beyond_the_grid(vllm: None) -> None:
    expand = qwen("fused_moe_lora_w13_expand", 256)
    assert default_config(VLLM, kernel_spec(expand.kernel), expand, H200) == {
        "block_m": 32, "block_n": 256, "block_k": 16, "group_size_m": 16, "num_warps": 4, "num_stages": 2,
    }  # fmt: skip
    shrink = qwen("fused_moe_lora_w2_shrink", 256, k=64)
    assert default_config(VLLM, kernel_spec(shrink.kernel), shrink, H200) == {
        "block_m": 32, "block_n": 64, "block_k": 128, "group_size_m": 16, "num_warps": 4, "num_stages": 2, "split_k": 1,
    }  # fmt: skip


def test_the_experts_of_this_rank_and_their_own_width_are_looked_up(vllm: None) -> None:
    shard = Experts(128, 8, local=16)
    name = "fused_moe_lora_w13_shrink"
    alone = default_config(VLLM, kernel_spec(name), qwen(name, 256, experts=shard), H200)
    assert alone["block_m"] == 64, "E=16,N=768 is not shipped"
    packed = LoraProblem(name, 4, 1, 256, 16, 2048, 1536, experts=Experts(128, 8, packed=True))
    assert default_config(VLLM, kernel_spec(name), packed, H200)["block_m"] == 32, "E=128,N=768: not twice that"


@given(
    m=st.integers(1, 20_000),
    rank=st.sampled_from([1, 8, 16, 24, 64, 128, 256, 512]),
    local=st.integers(1, 512),
    spec=st.sampled_from(MOE_SPECS),
)
def test_the_rule_restated_is_the_engines_where_nothing_is_shipped(m: int, rank: int, local: int, spec) -> None:
    problem = qwen(spec.name, m, k=rank, i=776, experts=Experts(512, 8, local=local))
    with importable(vllm_folder()):
        assert default_config(VLLM, spec, problem, H100) == spec.default_config(problem)


def test_other_kernels_and_other_sources_have_the_default_of_their_spec(vllm: None) -> None:
    shrink = LoraProblem("lora_shrink", 4, 1, 16, 4096, 16)
    spec = kernel_spec("lora_shrink")
    assert default_config(VLLM, spec, shrink, H200) == spec.default_config(shrink)
    expert = qwen("fused_moe_lora_w13_shrink", 256)
    assert default_config(BUILTIN, kernel_spec(expert.kernel), expert, H200)["block_m"] == 64


@pytest.mark.parametrize(
    ("config", "read"),
    [
        ({"BLOCK_SIZE_M": 16, "num_warps": 8}, {"block_m": 16, "num_warps": 8}),
        ({"block_n": 32, "Block_m": 16}, {"block_n": 32}),
        ({"NUM_STAGES": 2}, {"num_stages": 2}),
    ],
)
def test_both_ways_of_writing_a_config_are_read(config: dict[str, int], read: dict[str, int]) -> None:
    usual = {"block_m": 64, "block_n": 64, "block_k": 32, "group_size_m": 8, "num_warps": 4, "num_stages": 3}
    assert as_read(config) == {**usual, "split_k": 1, **read}


def made_up(folder: Path, body: str) -> Path:
    """A package called vllm whose functions are these."""
    for name in untuned.MODULES:
        (folder / "vllm" / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / "vllm" / name).write_text("")
    (folder / "vllm" / "__init__.py").write_text("__version__ = '9.9'\n")
    (folder / "vllm" / untuned.MODULES[1]).write_text(body)
    return folder


@pytest.mark.parametrize(
    "body", ["", f"def {untuned.ASKED}(op_type):\n    return {{}}\n", f"def {untuned.ASKED}(**_):\n    return gone\n"]
)
def test_a_vllm_that_tells_nothing_is_refused_by_its_version(tmp_path: Path, body: str) -> None:
    with importable(made_up(tmp_path, body)), pytest.raises(VllmError, match="cannot find out"):
        untuned.untuned_config(MOE_SPECS[0], qwen(MOE_SPECS[0].name, 16), H100)


def test_a_vllm_of_kernel_modules_alone_knows_no_shipped_files(tmp_path: Path) -> None:
    (tmp_path / "vllm").mkdir()
    (tmp_path / "vllm" / "__init__.py").write_text("")
    with importable(tmp_path):
        assert not untuned.knows_shipped_files()
        problem = qwen(MOE_SPECS[0].name, 256)
        assert untuned.untuned_config(MOE_SPECS[0], problem, H200) == MOE_SPECS[0].default_config(problem)


def test_the_files_that_the_engine_ships_are_read_as_they_are(vllm: None) -> None:
    """Every number of tokens that a shipped file names finds its own entry."""
    code = untuned._functions()
    assert code is not None
    shipped = json.loads((code[1].parent / "configs" / "E=128,N=768,device_name=NVIDIA_H200.json").read_text())
    for m, config in shipped.items():
        if m.isdecimal():
            assert block_ms(H200, (int(m),)) == [config["BLOCK_SIZE_M"]]


def test_names_in_capitals_and_missing_ones_are_filled_in() -> None:
    assert as_read({}) == USUAL
    assert as_read({"BLOCK_SIZE_M": 16, "NUM_WARPS": 8, "num_stages": 2}) == {
        **USUAL, "block_m": 16, "num_warps": 8, "num_stages": 2,
    }  # fmt: skip


def test_names_that_the_engine_passes_over() -> None:
    assert as_read({"BLOCK_M": 16, "Block_m": 16, "max_nreg": None, "USE_TMA": True}) == USUAL


def test_of_two_spellings_the_last_counts_and_null_is_passed_on() -> None:
    assert as_read({"block_m": 16, "BLOCK_SIZE_M": 32})["block_m"] == 32
    assert as_read({"BLOCK_SIZE_M": 32, "block_m": 16})["block_m"] == 16
    assert as_read({"block_k": None})["block_k"] is None
