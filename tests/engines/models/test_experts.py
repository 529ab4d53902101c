"""The problems of a model's experts, worked out by hand."""

import json
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest
from helpers import ROOT

from bo_tune.core.problem import Experts, LoraProblem
from bo_tune.core.surroundings import MOE_KERNELS
from bo_tune.engines.models.problems import DENSE_KERNELS
from bo_tune.engines.models.serving import ModelStudy
from bo_tune.engines.models.shape import ModelShape
from bo_tune.errors import ModelError
from bo_tune.formats.study_file import load_study_file
from bo_tune.kernels.registry import kernel_spec

MODELS = ROOT / "studies" / "models"

DEEPSEEK_V3 = {
    "architectures": ["DeepseekV3ForCausalLM"],
    "hidden_size": 7168,
    "intermediate_size": 18432,
    "moe_intermediate_size": 2048,
    "num_attention_heads": 128,
    "num_key_value_heads": 128,
    "q_lora_rank": 1536,
    "kv_lora_rank": 512,
    "qk_nope_head_dim": 128,
    "qk_rope_head_dim": 64,
    "v_head_dim": 128,
    "n_routed_experts": 256,
    "n_shared_experts": 1,
    "num_experts_per_tok": 8,
    "vocab_size": 129280,
}


def served(name: str, **more: Any) -> ModelStudy:
    values = {"tensor_parallel": 1, "ranks": [16], "max_loras": [4], "ms": [16], **more}
    return ModelStudy.of(str(MODELS / name), **values)


def asked(model: ModelStudy) -> dict[str, tuple[int, int, int, int]]:
    """num_slices, k, n and i by kernel, of a model served with one rank and m."""
    problems = model.problems_by_layer(MOE_KERNELS)
    assert all(layers == ("experts",) for layers in problems.values())
    assert len({kernel_spec(p.kernel).joint_group(p) for p in problems}) == 1
    return {p.kernel.removeprefix("fused_moe_lora_"): (p.num_slices, p.k, p.n, p.i or 0) for p in problems}


def four(w13: tuple[int, ...], w2: tuple[int, ...]) -> Mapping[str, tuple[int, ...]]:
    return {"w13_shrink": w13, "w13_expand": w13, "w2_shrink": w2, "w2_expand": w2}


@pytest.mark.parametrize(
    ("name", "more", "expected", "experts"),
    [
        ("qwen3-30b-a3b", {}, four((2, 16, 2048, 768), (1, 16, 2048, 768)), Experts(128, 8)),
        ("mixtral-8x7b", {}, four((2, 16, 4096, 14336), (1, 16, 4096, 14336)), Experts(8, 2)),
        ("gpt-oss-20b", {}, four((1, 16, 3072, 5888), (1, 16, 3072, 2944)), Experts(32, 4, packed=True)),
        (
            "mixtral-8x7b",
            {"tensor_parallel": 4},
            four((2, 16, 4096, 3584), (1, 16, 4096, 3584)),
            Experts(8, 2),
        ),
        (
            "mixtral-8x7b",
            {"tensor_parallel": 4, "fully_sharded": True},
            four((2, 4, 4096, 3584), (1, 16, 4096, 3584)),
            Experts(8, 2, shards=4),
        ),
        (
            "qwen3-30b-a3b",
            {"tensor_parallel": 4, "expert_parallel": True},
            four((2, 16, 2048, 768), (1, 16, 2048, 768)),
            Experts(128, 8, local=32),
        ),
    ],
)
def test_lookups_of_the_experts(
    name: str, more: dict[str, Any], expected: Mapping[str, tuple[int, ...]], experts: Experts
) -> None:
    model = served(name, **more)
    assert asked(model) == expected
    assert {problem.experts for problem in model.problems_by_layer(MOE_KERNELS)} == {experts}


def test_all_kernels_serve_a_model_with_experts() -> None:
    assert served("qwen3-30b-a3b").kernels == (*DENSE_KERNELS, *MOE_KERNELS)
    kernels = {problem.kernel for problem in served("qwen3-30b-a3b").problems_by_layer()}
    assert kernels == {*DENSE_KERNELS, *MOE_KERNELS}
    assert served("llama-3.1-8b").kernels == DENSE_KERNELS


@pytest.mark.parametrize(
    ("modules", "there"), [(["q_proj"], False), (["experts", "o_proj"], True), (["experts"], True)]
)
def test_target_modules_decide_whether_experts_take_adapters(modules: list[str], there: bool) -> None:
    model = served("mixtral-8x7b", target_modules=modules)
    assert model.has_experts is there
    assert bool(model.problems_by_layer(MOE_KERNELS)) is there


GPT_OSS = json.loads((MODELS / "gpt-oss-20b" / "config.json").read_text())


@pytest.mark.parametrize(("p", "i13"), [(1, 5888), (2, 3072), (4, 1536), (8, 768)])
def test_experts_of_gpt_oss_are_padded_as_marlin_pads_them(p: int, i13: int) -> None:
    model = served("gpt-oss-20b", tensor_parallel=p)
    assert asked(model) == four((1, 16, 3072, i13), (1, 16, 3072, i13 // 2))


def test_what_is_not_quantised_is_not_padded() -> None:
    config = {name: value for name, value in GPT_OSS.items() if name != "quantization_config"}
    shape = ModelShape.from_config(config, MODELS / "config.json")
    assert asked(ModelStudy(shape, 4, (16,), (4,), (16,))) == four((1, 16, 2880, 1440), (1, 16, 2880, 720))
    fully = ModelStudy(shape, 4, (16,), (4,), (16,), fully_sharded=True)
    assert asked(fully) == four((1, 4, 2880, 1440), (1, 16, 2880, 720))


NEMOTRON_SUPER = {
    "architectures": ["NemotronHForCausalLM"], "hybrid_override_pattern": "ME*E", "hidden_size": 4096,
    "num_attention_heads": 32, "num_key_value_heads": 2, "head_dim": 128, "mamba_num_heads": 128, "mamba_head_dim": 64,
    "n_groups": 8, "ssm_state_size": 128, "conv_kernel": 4, "n_routed_experts": 512, "num_experts_per_tok": 22,
    "moe_intermediate_size": 2688, "moe_latent_size": 1024, "n_shared_experts": 1,
    "moe_shared_expert_intermediate_size": 5376, "vocab_size": 131072,
}  # fmt: skip


def test_experts_without_a_gate_have_one_slice_of_the_usual_width() -> None:
    shape = ModelShape.from_config(NEMOTRON_SUPER, MODELS / "config.json")
    model = ModelStudy(shape, 2, (16,), (4,), (16,))
    assert asked(model) == four((1, 16, 1024, 1344), (1, 16, 1024, 1344))
    assert {problem.experts for problem in model.problems_by_layer(MOE_KERNELS)} == {Experts(512, 22)}
    with pytest.raises(ModelError, match="n_groups: expected a multiple of the tensor-parallel size 16, got 8"):
        ModelStudy(shape, 16, (16,), (4,), (16,)).problems_by_layer()


def test_experts_of_deepseek() -> None:
    shape = ModelShape.from_config(DEEPSEEK_V3, MODELS / "config.json")
    model = ModelStudy(shape, 8, (16,), (4,), (16,), expert_parallel=True)
    assert {problem.kernel for problem in model.problems_by_layer()} == {*DENSE_KERNELS, *MOE_KERNELS}
    assert asked(model) == four((2, 16, 7168, 2048), (1, 16, 7168, 2048))
    assert asked(replace(model, expert_parallel=False))["w2_expand"] == (1, 16, 7168, 256)


@pytest.mark.parametrize(
    ("name", "more", "message"),
    [
        ("mixtral-8x7b", {"tensor_parallel": 16, "expert_parallel": True}, "number of experts: expected a multiple"),
        (
            "mixtral-8x7b",
            {"tensor_parallel": 2, "expert_parallel": True, "fully_sharded": True},
            "enable-expert-parallel",
        ),
        ("qwen3-30b-a3b", {"tensor_parallel": 4, "fully_sharded": True, "ranks": [1]}, "expected a rank"),
    ],
)
def test_what_cannot_be_spread_is_one_line(name: str, more: dict[str, Any], message: str) -> None:
    with pytest.raises(ModelError, match=message) as caught:
        served(name, **more)
    assert "\n" not in str(caught.value)


def test_an_intermediate_size_that_does_not_divide_is_refused() -> None:
    shape = ModelShape.from_config({**GPT_OSS, "intermediate_size": 2882}, MODELS / "config.json")
    with pytest.raises(ModelError, match="intermediate size of the experts: expected a multiple"):
        ModelStudy(shape, 4, (16,), (4,), (16,)).problems_by_layer()


def test_the_shipped_studies_pose_the_problems_of_qwen_3() -> None:
    study = load_study_file(ROOT / "studies" / "qwen3-30b-a3b-moe.toml")
    problems = study.problems()
    assert len(problems) == 2 * 3 * 4
    recorded = LoraProblem("fused_moe_lora_w2_expand", 4, 1, 256, 16, 2048, 768, experts=Experts(128, 8))
    assert recorded in problems
    (*further,) = load_study_file(ROOT / "studies" / "moe-further.toml").problems()
    assert [replace(problem, m=256) in problems for problem in further] == [True] * 4
