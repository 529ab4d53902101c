"""The shipped models' lookups, worked out by hand from VLLM_CONTRACT.md and the shapes of the models."""

import json
from pathlib import Path
from typing import Any

import pytest
from helpers import ROOT

from bo_tune.engines.models.architectures.modules import NEVER_CALLED
from bo_tune.engines.models.architectures.table import ARCHITECTURES
from bo_tune.engines.models.architectures.without_adapters import WITHOUT_ADAPTERS
from bo_tune.engines.models.problems import DENSE_KERNELS
from bo_tune.engines.models.serving import ModelStudy
from bo_tune.engines.models.shape import ModelShape
from bo_tune.errors import ModelError
from bo_tune.kernels.registry import kernel_spec

MODELS = ROOT / "studies" / "models"

Lookups = set[tuple[int, int, int]]
"""(num_slices, k, n)."""


def served(name: str, tensor_parallel: int = 1, **more: Any) -> ModelStudy:
    settings: dict[str, Any] = {"ranks": [16], "max_loras": [4], "ms": [16], **more}
    return ModelStudy.of(str(MODELS / name), tensor_parallel=tensor_parallel, **settings)


def lookups(model: ModelStudy) -> tuple[Lookups, Lookups]:
    """Return what shrink and expand are looked up with, by the keys of the files."""
    found: dict[str, Lookups] = {"lora_shrink": set(), "lora_expand": set()}
    for problem in model.problems_by_layer(DENSE_KERNELS):
        max_loras, slices, m, k, n = map(int, kernel_spec(problem.kernel).table_key(problem))
        assert (max_loras, m) == (5, 16)
        found[problem.kernel].add((slices, k, n))
    return found["lora_shrink"], found["lora_expand"]


CASES: dict[str, tuple[Lookups, Lookups]] = {
    "llama-3.1-8b": (
        {(3, 4096, 16), (1, 4096, 16), (2, 4096, 16), (1, 14336, 16)},
        {(3, 16, 4096), (1, 16, 4096), (2, 16, 14336), (1, 16, 128256)},
    ),
    "qwen2.5-14b": (
        {(3, 5120, 16), (1, 5120, 16), (2, 5120, 16), (1, 13824, 16)},
        {(3, 16, 5120), (1, 16, 5120), (2, 16, 13824)},
    ),
    "mistral-nemo-12b": (
        {(3, 5120, 16), (1, 4096, 16), (2, 5120, 16), (1, 14336, 16)},
        {(3, 16, 4096), (1, 16, 5120), (2, 16, 14336)},
    ),
    "qwen3-8b": (
        {(3, 4096, 16), (1, 4096, 16), (2, 4096, 16), (1, 12288, 16)},
        {(3, 16, 4096), (1, 16, 4096), (2, 16, 12288), (1, 16, 151936)},
    ),
    "gemma-2-9b": (
        {(3, 3584, 16), (1, 4096, 16), (2, 3584, 16), (1, 14336, 16)},
        {(3, 16, 4096), (1, 16, 3584), (2, 16, 14336)},
    ),
    "gemma-3-4b": (
        {(3, 2560, 16), (1, 2048, 16), (2, 2560, 16), (1, 10240, 16)},
        {(3, 16, 2048), (1, 16, 2560), (2, 16, 10240)},
    ),
    "phi-4": (
        {(1, 5120, 16), (1, 17920, 16)},
        {(1, 16, 7680), (1, 16, 5120), (1, 16, 35840), (1, 16, 100352)},
    ),
    "gpt-oss-20b": (
        {(3, 2880, 16), (1, 4096, 16), (1, 2880, 16)},
        {(3, 16, 4096), (1, 16, 2880), (1, 16, 32)},
    ),
    "mixtral-8x7b": (
        {(3, 4096, 16), (1, 4096, 16)},
        {(3, 16, 4096), (1, 16, 4096), (1, 16, 8), (1, 16, 32000)},
    ),
    "qwen3-30b-a3b": (
        {(3, 2048, 16), (1, 4096, 16), (1, 2048, 16)},
        {(3, 16, 4096), (1, 16, 2048), (1, 16, 128), (1, 16, 151936)},
    ),
    "qwen1.5-moe-a2.7b": (
        {(3, 2048, 16), (1, 2048, 16), (2, 2048, 16), (1, 5632, 16)},
        {(3, 16, 2048), (1, 16, 2048), (2, 16, 5632), (1, 16, 60)},
    ),
    "qwen2.5-7b": (
        {(3, 3584, 16), (1, 3584, 16), (2, 3584, 16), (1, 18944, 16)},
        {(3, 16, 3584), (1, 16, 3584), (2, 16, 18944)},
    ),
    "llama-3.2-3b": (
        {(3, 3072, 16), (1, 3072, 16), (2, 3072, 16), (1, 8192, 16)},
        {(3, 16, 3072), (1, 16, 3072), (2, 16, 8192), (1, 16, 128256)},
    ),
    "qwen3-32b": (
        {(3, 5120, 16), (1, 8192, 16), (2, 5120, 16), (1, 25600, 16), (1, 5120, 16)},
        {(3, 16, 8192), (1, 16, 5120), (2, 16, 25600), (1, 16, 151936)},
    ),
    "qwen3-14b": (
        {(3, 5120, 16), (1, 5120, 16), (2, 5120, 16), (1, 17408, 16)},
        {(3, 16, 5120), (1, 16, 5120), (2, 16, 17408), (1, 16, 151936)},
    ),
    "qwen3-4b": (
        {(3, 2560, 16), (1, 4096, 16), (2, 2560, 16), (1, 9728, 16), (1, 2560, 16)},
        {(3, 16, 4096), (1, 16, 2560), (2, 16, 9728), (1, 16, 151936)},
    ),
    "llama-2-7b": (
        {(3, 4096, 16), (1, 4096, 16), (2, 4096, 16), (1, 11008, 16)},
        {(3, 16, 4096), (1, 16, 4096), (2, 16, 11008), (1, 16, 32000)},
    ),
    "llama-3.2-1b": (
        {(3, 2048, 16), (1, 2048, 16), (2, 2048, 16), (1, 8192, 16)},
        {(3, 16, 2048), (1, 16, 2048), (2, 16, 8192), (1, 16, 128256)},
    ),
    "mistral-7b": (
        {(3, 4096, 16), (1, 4096, 16), (2, 4096, 16), (1, 14336, 16)},
        {(3, 16, 4096), (1, 16, 4096), (2, 16, 14336)},
    ),
    "mistral-small-24b": (
        {(3, 5120, 16), (1, 4096, 16), (2, 5120, 16), (1, 32768, 16)},
        {(3, 16, 4096), (1, 16, 5120), (2, 16, 32768)},
    ),
    "qwen2.5-0.5b": (
        {(3, 896, 16), (1, 896, 16), (2, 896, 16), (1, 4864, 16)},
        {(3, 16, 896), (1, 16, 896), (2, 16, 4864)},
    ),
    "qwen2.5-1.5b": (
        {(3, 1536, 16), (1, 1536, 16), (2, 1536, 16), (1, 8960, 16)},
        {(3, 16, 1536), (1, 16, 1536), (2, 16, 8960)},
    ),
    "qwen2.5-3b": (
        {(3, 2048, 16), (1, 2048, 16), (2, 2048, 16), (1, 11008, 16)},
        {(3, 16, 2048), (1, 16, 2048), (2, 16, 11008)},
    ),
    "qwen2.5-32b": (
        {(3, 5120, 16), (1, 5120, 16), (2, 5120, 16), (1, 27648, 16)},
        {(3, 16, 5120), (1, 16, 5120), (2, 16, 27648)},
    ),
    "qwen3-0.6b": (
        {(3, 1024, 16), (1, 2048, 16), (2, 1024, 16), (1, 3072, 16), (1, 1024, 16)},
        {(3, 16, 2048), (1, 16, 1024), (2, 16, 3072), (1, 16, 151936)},
    ),
    "qwen3-1.7b": (
        {(3, 2048, 16), (1, 2048, 16), (2, 2048, 16), (1, 6144, 16)},
        {(3, 16, 2048), (1, 16, 2048), (2, 16, 6144), (1, 16, 151936)},
    ),
    "gemma-2-27b": (
        {(3, 4608, 16), (1, 4096, 16), (2, 4608, 16), (1, 36864, 16)},
        {(3, 16, 4096), (1, 16, 4608), (2, 16, 36864)},
    ),
    "gemma-3-12b": (
        {(3, 3840, 16), (1, 4096, 16), (2, 3840, 16), (1, 15360, 16)},
        {(3, 16, 4096), (1, 16, 3840), (2, 16, 15360)},
    ),
    "gemma-3-27b": (
        {(3, 5376, 16), (1, 4096, 16), (2, 5376, 16), (1, 21504, 16)},
        {(3, 16, 4096), (1, 16, 5376), (2, 16, 21504)},
    ),
    "phi-4-mini": (
        {(1, 3072, 16), (1, 8192, 16)},
        {(1, 16, 5120), (1, 16, 3072), (1, 16, 16384), (1, 16, 200064)},
    ),
    "gpt-oss-120b": (
        {(3, 2880, 16), (1, 4096, 16), (1, 2880, 16)},
        {(3, 16, 4096), (1, 16, 2880), (1, 16, 128)},
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_lookups_on_one_gpu(name: str) -> None:
    assert lookups(served(name)) == CASES[name]


def test_every_shipped_model_is_among_the_cases() -> None:
    several_gpus = {name for name, *_ in SHARDED.values()}
    assert {path.parent.name for path in MODELS.glob("*/config.json")} == set(CASES) | several_gpus


SHARDED: dict[str, tuple[str, int, bool, Lookups, Lookups]] = {
    "70B": (
        "llama-3.3-70b", 4, False,
        {(3, 8192, 16), (1, 2048, 16), (2, 8192, 16), (1, 7168, 16), (1, 8192, 16)},
        {(3, 16, 2048), (1, 16, 8192), (2, 16, 7168), (1, 16, 128256)},
    ),
    "70B, fully": (
        "llama-3.3-70b", 4, True,
        {(3, 8192, 4), (1, 2048, 16), (2, 8192, 4), (1, 7168, 16), (1, 8192, 16)},
        {(3, 16, 2048), (1, 16, 2048), (2, 16, 7168), (1, 16, 8192), (1, 16, 128256)},
    ),
    "72B": (
        "qwen2.5-72b", 4, False,
        {(3, 8192, 16), (1, 2048, 16), (2, 8192, 16), (1, 7392, 16)},
        {(3, 16, 2048), (1, 16, 8192), (2, 16, 7392)},
    ),
    "experts of eight ranks": (
        "qwen3-235b-a22b", 8, False,
        {(3, 4096, 16), (1, 1024, 16), (1, 4096, 16)},
        {(3, 16, 1024), (1, 16, 4096), (1, 16, 128), (1, 16, 151936)},
    ),
    "more ranks than kv heads": (
        "qwen3-8b", 16, False,
        {(3, 4096, 16), (1, 256, 16), (2, 4096, 16), (1, 768, 16), (1, 4096, 16)},
        {(3, 16, 256), (1, 16, 4096), (2, 16, 768), (1, 16, 151936)},
    ),
    "kv heads wider than a rank's queries": (
        "gemma-3-4b", 8, False,
        {(3, 2560, 16), (1, 256, 16), (2, 2560, 16), (1, 1280, 16)},
        {(3, 16, 256), (1, 16, 2560), (2, 16, 1280)},
    ),
    "one slice, fully": (
        "phi-4", 2, True,
        {(1, 5120, 8), (1, 2560, 16), (1, 8960, 16), (1, 5120, 16)},
        {(1, 16, 3840), (1, 16, 2560), (1, 16, 17920), (1, 16, 5120), (1, 16, 100352)},
    ),
    "experts": (
        "qwen3-30b-a3b", 4, True,
        {(3, 2048, 4), (1, 1024, 16), (1, 2048, 16)},
        {(3, 16, 1024), (1, 16, 512), (1, 16, 128), (1, 16, 2048), (1, 16, 151936)},
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", SHARDED)
def test_lookups_of_one_of_several_ranks(case: str) -> None:
    name, tensor_parallel, fully_sharded, *expected = SHARDED[case]
    assert list(lookups(served(name, tensor_parallel, fully_sharded=fully_sharded))) == expected


def test_one_gpu_shares_nothing() -> None:
    assert lookups(served("llama-3.1-8b", fully_sharded=True)) == CASES["llama-3.1-8b"]


def test_experts_are_read() -> None:
    shapes = {name: served(name).shape.moe for name in CASES}
    assert shapes["llama-3.1-8b"] is None
    kept = {name: (moe.num_experts, moe.top_k, moe.intermediate, moe.packed) for name, moe in shapes.items() if moe}
    assert kept == {
        "mixtral-8x7b": (8, 2, 14336, False),
        "gpt-oss-20b": (32, 4, 2880, True),
        "gpt-oss-120b": (128, 4, 2880, True),
        "qwen3-30b-a3b": (128, 8, 768, False),
        "qwen1.5-moe-a2.7b": (60, 4, 1408, False),
    }


def changed(name: str, **changes: Any) -> ModelShape:
    config = json.loads((MODELS / name / "config.json").read_text())
    return ModelShape.from_config({**config, **changes}, Path("m/config.json"))


@pytest.mark.parametrize("change", [{"mlp_only_layers": [0]}, {"mlp_only_layers": [0], "decoder_sparse_step": 2}])
def test_dense_layers_among_experts_are_served_too(change: dict[str, Any]) -> None:
    names = {layer.name: layer.slice_sizes for layer in changed("qwen3-30b-a3b", **change).layers(2)}
    assert names["gate_up_proj"] == (3072, 3072)
    assert names["down_proj"] == (2048,)


def test_dense_layers_that_vllm_does_not_know_of_are_packed_by_none() -> None:
    names = [layer.name for layer in changed("qwen3-30b-a3b", decoder_sparse_step=2).layers()]
    assert "down_proj" in names
    assert "gate_up_proj" not in names


@pytest.mark.parametrize(
    ("name", "changes", "tensor_parallel", "message"),
    [
        ("phi-4", {}, 4, "num_key_value_heads: expected a multiple of the tensor-parallel size 4, got 10"),
        ("phi-4", {}, 3, "num_attention_heads: expected a multiple of the tensor-parallel size 3, got 40"),
        ("qwen1.5-moe-a2.7b", {"shared_expert_intermediate_size": 5633}, 2, "shared_expert_intermediate_size"),
        ("mixtral-8x7b", {"num_local_experts": None}, 1, "num_local_experts is missing"),
        ("gpt-oss-20b", {"num_experts_per_tok": None}, 1, "num_experts_per_tok is missing"),
        ("qwen3-30b-a3b", {"moe_intermediate_size": 1.5}, 1, "moe_intermediate_size: expected an integer"),
        (
            "qwen3-30b-a3b",
            {"architectures": ["DbrxForCausalLM"]},
            1,
            "architectures: DbrxForCausalLM takes no adapters",
        ),
        ("llama-3.1-8b", {"vocab_size": None}, 1, "vocab_size is missing, but lm_head takes adapters"),
        ("llama-3.1-8b", {"vocab_size": 262144}, 1, "vocab_size: expected at most 258048"),
    ],
)
def test_what_cannot_be_served_is_one_line(
    name: str, changes: dict[str, Any], tensor_parallel: int, message: str
) -> None:
    with pytest.raises(ModelError) as caught:
        changed(name, **changes).layers(tensor_parallel)
    assert str(caught.value).startswith(f"m/config.json: {message}")
    assert "\n" not in str(caught.value)


def test_fields_that_transformers_would_fill_in() -> None:
    qkv = {name: changed(name, **change).layers()[0].slice_sizes for name, change in FILLED_IN.items()}
    assert qkv == {
        "gemma-3-4b": (2048, 1024, 1024),
        "mistral-nemo-12b": (4096, 1024, 1024),
        "qwen3-8b": (4096, 1024, 1024),
    }
    moe = changed("gpt-oss-20b", num_experts_per_tok=None, experts_per_token=2).moe
    assert moe is not None
    assert moe.top_k == 2


FILLED_IN: dict[str, dict[str, Any]] = {
    "gemma-3-4b": {},
    "mistral-nemo-12b": {"num_key_value_heads": None},
    "qwen3-8b": {"head_dim": None, "hidden_size": 2560},
}


COMMAND_R: dict[str, Any] = {
    "hidden_size": 8192, "intermediate_size": 22528, "num_attention_heads": 64, "num_key_value_heads": 64,
    "vocab_size": 256000,
}  # fmt: skip


def test_command_r_has_no_lm_head() -> None:
    shape = ModelShape.from_config({"architectures": ["CohereForCausalLM"], **COMMAND_R}, Path("m/config.json"))
    assert [layer.name for layer in shape.layers()] == [
        "qkv_proj", "o_proj", "gate_up_proj", "down_proj", "embed_tokens",
    ]  # fmt: skip
    with pytest.raises(ModelError, match="no layer that takes adapters is called 'lm_head'"):
        shape.layers(target_modules=["lm_head"])


@pytest.mark.parametrize("name", ["KimiK25ForConditionalGeneration", "MiMoV2FlashForCausalLM"])
def test_what_takes_no_adapters_is_refused_with_the_reason(name: str) -> None:
    config = {"architectures": [name], "text_config": COMMAND_R}
    with pytest.raises(ModelError) as caught:
        ModelShape.from_config(config, Path("m/config.json"))
    assert (
        str(caught.value)
        == f"m/config.json: architectures: {name} takes no adapters in vLLM 0.33: it is not SupportsLoRA"
    )


def test_the_first_known_architecture_decides() -> None:
    config = {"architectures": ["MyForCausalLM", "MistralForCausalLM", "LlamaForCausalLM"], **COMMAND_R}
    shape = ModelShape.from_config(config, Path("m/config.json"))
    assert shape.architecture == "MistralForCausalLM"
    assert not ARCHITECTURES.keys() & WITHOUT_ADAPTERS


def test_what_vllm_does_not_wrap_fully_sharded() -> None:
    shape = ModelShape.from_config(ASKED[NEMOTRON]["config"], Path("m/config.json"))
    names = [layer.name for layer in shape.layers(4)]
    assert set(names) - {layer.name for layer in shape.layers(4, fully_sharded=True)} == {"in_proj"}
    with pytest.raises(ModelError, match="cannot wrap in_proj with --fully-sharded-loras"):
        shape.layers(4, fully_sharded=True, target_modules=["q_proj", "in_proj"])
    qwen = ModelShape.from_config(ASKED[QWEN_3_6]["config"], Path("m/config.json"))
    (in_proj,) = qwen.layers(4, fully_sharded=True, target_modules=["in_proj_z"])
    assert (in_proj.shrink_n(16), in_proj.slice_sizes) == (4, (512, 512, 1536, 1536))


def test_adapters_that_are_never_called_pose_no_problems() -> None:
    qwen = served("qwen1.5-moe-a2.7b").shape
    assert "shared_expert_gate" not in {layer.name for layer in qwen.layers()}
    assert [layer.name for layer in qwen.layers(target_modules=["o_proj", "shared_expert_gate"])] == ["o_proj"]
    with pytest.raises(ModelError, match="the engine never calls the adapters of shared_expert_gate"):
        qwen.layers(target_modules=["shared_expert_gate"])


def test_quantizations_for_which_a_projection_is_whole_on_each_rank() -> None:
    config = ASKED[QWEN_3_6]["config"]
    for method, width in (("fp8", 12), ("awq", 48)):
        shape = ModelShape.from_config(
            {**config, "quantization_config": {"quant_method": method}}, Path("m/config.json")
        )
        (layer,) = shape.layers(4, target_modules=["in_proj_b"])
        assert layer.slice_sizes == (width, width)


@pytest.mark.parametrize("kind", [None, "gpt2", 3])
def test_a_language_model_that_is_not_known_within_another(kind: object) -> None:
    text = {**COMMAND_R, "model_type": kind}
    with pytest.raises(ModelError, match=r"m: text_config\.model_type: expected one of llama, mistral"):
        ModelShape.from_config({"architectures": ["LlavaForConditionalGeneration"], "text_config": text}, Path("m"))


ASKED: dict[str, Any] = json.loads((Path(__file__).parent / "lookups.json").read_text())
"""By model: the fields of its config that matter, the full names of the ``modules`` and the ``experts`` that vLLM
0.33.0's own LoRA manager wraps, and how at rank 16. Of each module in their order: slices, k and n of shrink (0 where
nothing shrinks) and the width of each slice of expand; null where it is not wrapped. Of experts: slices of w13, keys k
of w13 and w2, hidden size, keys i of w13 and w2, how many there are and each token visits. Not quantised. ``tp4`` is a
tensor-parallel size of 4, ``fs4`` the same with fully sharded adapters; null where the engine does not start. Models
without cases take no adapters."""

NEMOTRON = "nvidia--NVIDIA-Nemotron-3-Nano-30B-A3B-BF16"
QWEN_3_6 = "nvidia--Qwen3.6-27B-NVFP4"

CASES_ASKED = [(name, case) for name in ASKED for case in ASKED[name]["lookups"]]


@pytest.mark.parametrize(("name", "sharding"), CASES_ASKED)
def test_the_engine_wraps_the_same(name: str, sharding: str) -> None:
    asked, expected = ASKED[name], ASKED[name]["lookups"][sharding]
    shape = ModelShape.from_config(asked["config"], Path("m/config.json"))
    model = ModelStudy(shape, int(sharding[2:]), (16,), (4,), (16,), fully_sharded=sharding.startswith("fs"))
    if expected is None:
        with pytest.raises(ModelError, match="expected a"):
            model.check()
        return
    named = zip(asked["modules"], expected["dense"], strict=True)
    assert sorted(model.wrapped) == sorted((module, tuple(sizes)) for module, sizes in named if sizes is not None)
    assert model.has_experts is ("experts" in expected)
    if model.has_experts:
        w13, w2 = model.problems_by_layer(["fused_moe_lora_w13_expand", "fused_moe_lora_w2_expand"])
        assert w13.experts is not None
        sizes = [w13.num_slices, w13.k, w2.k, w13.n, w13.i, w2.i, w13.experts.count, w13.experts.top_k]
        assert sizes == expected["experts"]
        assert (w2.num_slices, w2.n) == (1, w13.n)
        assert shape.moe is not None
        assert shape.moe.engine_name(shape.naming) == asked["experts"]


@pytest.mark.parametrize("name", ASKED)
def test_what_is_wrapped_is_called_but_for_a_few(name: str) -> None:
    config = ASKED[name]["config"]
    if not ASKED[name]["lookups"]:
        with pytest.raises(ModelError, match="takes no adapters in vLLM"):
            ModelShape.from_config(config, Path("m/config.json"))
        return
    modules = ModelShape.from_config(config, Path("m/config.json")).linear
    assert {module.suffix for module in modules if not module.called} == NEVER_CALLED & {m.suffix for m in modules}


def test_most_served_models_are_asked_for() -> None:
    architectures = {ASKED[name]["config"]["architectures"][0] for name in ASKED}
    assert (len(ASKED), len(architectures)) == (60, 45)


FALCON_H1 = ASKED["Falcon-H1-7B"]["config"]


def test_a_single_group_of_states_is_held_by_every_rank() -> None:
    # vLLM's MambaMixer2 then has one projection, of which each rank holds the states whole.
    shape = ModelShape.from_config(FALCON_H1, Path("m/config.json"))
    alone, two = ({layer.name: layer for layer in shape.layers(ranks)}["in_proj"] for ranks in (1, 2))
    assert alone.slice_sizes == (3072, 3072, 256, 256, 24)
    assert two.slice_sizes == (1536 + 1536 + 256 + 256 + 12,)
    (shared,) = [layer for layer in shape.layers(2, fully_sharded=True) if layer.name == "in_proj"]
    assert shared.shrink_n(16) == 8
    assert "in_proj" not in {layer.name for layer in shape.layers(1, fully_sharded=True)}


def test_gemma_4_with_shared_keys_and_layers_of_their_own() -> None:
    config = {
        "architectures": ["Gemma4ForCausalLM"], "hidden_size": 1536, "intermediate_size": 6144,
        "num_hidden_layers": 4, "num_kv_shared_layers": 2, "use_double_wide_mlp": True,
        "layer_types": ["sliding_attention", "full_attention", "sliding_attention", "full_attention"],
        "num_attention_heads": 8, "num_key_value_heads": 1, "head_dim": 256, "hidden_size_per_layer_input": 256,
    }  # fmt: skip
    layers = ModelShape.from_config(config, Path("m/config.json")).layers()
    assert [(layer.name, layer.slice_sizes) for layer in layers if layer.name in {"qkv_proj", "q_proj"}] == [
        ("qkv_proj", (2048, 256, 256)), ("q_proj", (2048,)), ("qkv_proj", (4096, 512, 512)), ("q_proj", (4096,)),
    ]  # fmt: skip
    assert [layer.slice_sizes for layer in layers if layer.name == "gate_up_proj"] == [(6144, 6144), (12288, 12288)]
    assert {layer.name: layer.slice_sizes for layer in layers}["per_layer_model_projection"] == (1024,)
    with pytest.raises(ModelError, match="layer_types: expected 5 of full_attention, sliding_attention, got 4"):
        ModelShape.from_config({**config, "num_hidden_layers": 5}, Path("m"))
    with pytest.raises(ModelError, match="layer_types: expected the kind of each layer, got null"):
        ModelShape.from_config({**config, "layer_types": None}, Path("m"))


def test_what_is_known_of_one_rank_alone() -> None:
    shape = ModelShape.from_config(ASKED["Llama-3.2-90B-Vision"]["config"], Path("m/config.json"))
    with pytest.raises(
        ModelError, match="bo_tune knows MllamaForConditionalGeneration only at a tensor-parallel size of 1"
    ):
        shape.layers(2)


def test_sizes_of_layers_that_differ() -> None:
    config = {**ASKED["Hunyuan-A13B"]["config"], "moe_topk": [8, 4]}
    with pytest.raises(ModelError, match=r"moe_topk: expected an integer >= 1, got \[8, 4\]"):
        ModelShape.from_config(config, Path("m/config.json"))


def test_towers_are_refused_where_the_engine_would_adapt_them() -> None:
    text = {"model_type": "mistral", **COMMAND_R}
    shape = ModelShape.from_config({"architectures": ["LlavaForConditionalGeneration"], "text_config": text}, Path("m"))
    with pytest.raises(
        ModelError, match="--enable-tower-connector-lora: bo_tune does not know the tower layers of Llava"
    ):
        shape.check_towers()
    served("llama-3.1-8b", tower_connector=True)  # the engine passes over it


def test_llama_4_has_experts_in_every_few_layers() -> None:
    text = {
        "hidden_size": 5120, "intermediate_size": 8192, "intermediate_size_mlp": 16384, "num_attention_heads": 40,
        "num_key_value_heads": 8, "head_dim": 128, "num_local_experts": 128, "num_experts_per_tok": 1,
        "interleave_moe_layer_step": 2,
    }  # fmt: skip
    config = {"architectures": ["Llama4ForConditionalGeneration"], "text_config": text}
    shape = ModelShape.from_config(config, Path("m/config.json"))
    sizes = {layer.name: layer.slice_sizes for layer in shape.layers(8)}
    assert sizes["gate_up_proj"] == (2048, 2048)
    assert sizes["shared_expert.gate_up_proj"] == (1024, 1024)
    assert sizes["router"] == (128,)
    assert shape.moe is not None
    assert (shape.moe.intermediate, shape.moe.packed) == (8192, False)
    text["interleave_moe_layer_step"] = 1
    names = {layer.name for layer in ModelShape.from_config(config, Path("m/config.json")).layers()}
    assert "gate_up_proj" not in names


@pytest.mark.parametrize(
    ("name", "packed"), [("Qwen3_5MoeForCausalLM", False), ("Qwen3_5MoeForConditionalGeneration", True)]
)
def test_one_family_in_two_formats_of_experts(name: str, packed: bool) -> None:
    config = {**ASKED["Qwen--Qwen3.5-397B-A17B"]["config"], "architectures": [name]}
    shape = ModelShape.from_config(config, Path("m/config.json"))
    assert shape.moe is not None
    assert shape.moe.packed is packed
