"""Adapters: every field of their configs is honoured as vLLM 0.33 and PEFT do, or refused with its reason."""

import json
from pathlib import Path
from typing import Any

import pytest
from helpers import ROOT
from hypothesis import given, settings
from hypothesis import strategies as st

from bo_tune.engines.models.adapter import Adapter, joint_rank, joint_targets
from bo_tune.engines.models.adapter_config import AdapterConfig, read_config
from bo_tune.engines.models.serving import ModelStudy
from bo_tune.engines.models.shape import ModelShape
from bo_tune.errors import ModelError

MODELS = ROOT / "studies" / "models"
SHAPES = {path.parent.name: ModelShape.from_file(path) for path in MODELS.glob("*/config.json")}
LLAMA = SHAPES["llama-3.1-8b"]

PLAIN: dict[str, Any] = {"peft_type": "LORA", "r": 8, "lora_alpha": 16, "target_modules": ["q_proj", "v_proj"]}

ALL: dict[str, Any] = {"target_modules": "all-linear"}


def adapter(folder: Path, **fields: Any) -> Adapter:
    values = {name: value for name, value in {**PLAIN, **fields}.items() if value != "absent"}
    (folder / "adapter_config.json").write_text(json.dumps(values))
    return Adapter.from_file(folder)


def changed(folder: Path, shape: ModelShape = LLAMA, **fields: Any) -> tuple[str, ...] | None:
    return adapter(folder, **fields).target_modules(shape)


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({}, ("qkv_proj",)),
        ({"target_modules": ["o_proj", "gate_proj", "lm_head"]}, ("o_proj", "gate_up_proj", "lm_head")),
        ({"target_modules": ["self_attn.o_proj", "not_there"]}, ("o_proj",)),
        ({"target_modules": ["model.layers.5.mlp.down_proj"]}, ("down_proj",)),
        ({"target_modules": r".*\.(q_proj|v_proj|o_proj)$"}, ("qkv_proj", "o_proj")),
        ({"target_modules": r"model\.layers\.(0|31)\.mlp\.(gate|up|down)_proj"}, ("gate_up_proj", "down_proj")),
        (ALL, None),
        ({"target_modules": None}, None),
        (
            {"target_modules": "all-linear", "exclude_modules": ["q_proj"]},
            ("qkv_proj", "o_proj", "gate_up_proj", "down_proj"),
        ),
        ({**ALL, "exclude_modules": r".*mlp.*"}, ("qkv_proj", "o_proj")),
        ({"target_modules": ["q_proj", "o_proj"], "exclude_modules": ["o_proj"]}, ("qkv_proj",)),
        ({"layers_to_transform": [3, 31]}, ("qkv_proj",)),
        ({"layers_to_transform": 3, "layers_pattern": "layers"}, ("qkv_proj",)),
        ({"target_modules": None, "target_parameters": ["o_proj.weight"]}, ("o_proj",)),
        ({"target_modules": [], "target_parameters": ["mlp.down_proj.weight"]}, ("down_proj",)),
        ({"modules_to_save": None, "use_rslora": True, "alpha_pattern": {"q_proj": 4}, "bias": "none"}, ("qkv_proj",)),
        ({"peft_type": "absent", "init_lora_weights": "eva", "fan_in_fan_out": False, "new_field": 1}, ("qkv_proj",)),
        ({"init_lora_weights": False, "use_dora": False, "lora_bias": False, "layer_replication": None}, ("qkv_proj",)),
    ],
)
def test_modules_that_an_adapter_changes(
    tmp_path: Path, fields: dict[str, Any], expected: tuple[str, ...] | None
) -> None:
    assert changed(tmp_path, **fields) == expected


@pytest.mark.parametrize(
    ("model", "fields", "expected"),
    [
        ("phi-4", {"target_modules": ["qkv_proj", "down_proj"]}, ("qkv_proj", "down_proj")),
        ("mixtral-8x7b", {"target_modules": ["q_proj", "w1"]}, ("qkv_proj", "experts")),
        ("mixtral-8x7b", {"target_modules": ["gate"]}, ("gate",)),
        ("qwen3-30b-a3b", {"target_modules": ["o_proj", "down_proj"]}, ("o_proj", "experts")),
        ("qwen3-30b-a3b", {"target_modules": r".*experts\.7\.up_proj"}, ("experts",)),
        ("qwen1.5-moe-a2.7b", {"target_modules": ["down_proj"]}, ("down_proj", "experts")),
        (
            "gpt-oss-20b",
            {"target_modules": ["q_proj"], "target_parameters": ["7.mlp.experts.gate_up_proj"]},
            ("qkv_proj", "experts"),
        ),
        ("gpt-oss-20b", {"target_modules": r"model\.layers\.\d+\.self_attn\.o_proj"}, ("o_proj",)),
        ("gemma-3-4b", {"target_modules": r"model\.language_model\..*\.q_proj"}, ("qkv_proj",)),
        ("gemma-3-4b", {"target_modules": r"language_model\.model\.layers\.\d+\.mlp\.up_proj"}, ("gate_up_proj",)),
    ],
)
def test_names_are_those_of_the_model_that_was_trained(
    tmp_path: Path, model: str, fields: dict[str, Any], expected: tuple[str, ...]
) -> None:
    assert changed(tmp_path, SHAPES[model], **fields) == expected


ASKED = json.loads((Path(__file__).parent / "lookups.json").read_text())


@pytest.mark.parametrize(
    ("model", "targets", "expected"),
    [
        ("EXAONE-3.5-7.8B", ["c_fc_0", "out_proj"], ("out_proj", "gate_up_proj")),
        ("Falcon-H1-7B", r"model\.layers\.0\.mamba\.in_proj", ("in_proj",)),
        ("LFM2-8B-A1B", r"model\.layers\.0\.conv\.in_proj", ("in_proj",)),
        ("LFM2-8B-A1B", ["w1"], ("w13", "experts")),
        ("Jamba-1.5-Mini", ["self_attn.q_proj", "x_proj"], ("x_proj", "qkv_proj")),
        ("Hunyuan-A13B", ["shared_mlp.up_proj", "wg"], ("wg", "gate_up_proj")),
        ("Whisper-large-v3", r"model\.decoder\.layers\.0\.fc1", ("fc1",)),
        ("Whisper-large-v3", ["encoder_attn.k_proj"], ("kv_proj",)),
        ("Llama-3.2-90B-Vision", ["cross_attn.v_proj"], ("merged_proj_6_k_proj_6_v_proj",)),
        ("nvidia--Gemma-4-31B-IT-NVFP4", r"model\.language_model\.layers\.\d+\.mlp\.up_proj", ("gate_up_proj",)),
    ],
)
def test_names_that_vllm_changes(tmp_path: Path, model: str, targets: object, expected: tuple[str, ...]) -> None:
    shape = ModelShape.from_config(ASKED[model]["config"], Path("m/config.json"))
    assert changed(tmp_path, shape, target_modules=targets) == expected


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"r": "absent"}, "r is missing: vLLM refuses an adapter without it"),
        ({"lora_alpha": "absent", "peft_type": "LOHA"}, "vLLM supports only LoRA"),
        ({"lora_alpha": "absent", "peft_type": "absent"}, "lora_alpha is missing: vLLM refuses an adapter without it"),
        ({"target_modules": "absent"}, "target_modules is missing: vLLM refuses an adapter without it"),
        ({"r": 0}, "r: expected an integer >= 1, got 0"),
        ({"r": "x"}, 'r: expected an integer >= 1, got "x"'),
        ({"r": True}, "r: expected an integer >= 1, got true"),
        ({"lora_alpha": None}, "lora_alpha: expected a number, got null"),
        ({"rank_pattern": {"q_proj": 0}}, 'rank_pattern: expected an integer >= 1, got {"q_proj": 0}'),
        ({"rank_pattern": {"q_proj": "8"}}, "rank_pattern: expected ranks by name, got"),
        ({"rank_pattern": {"(q_proj": 8}}, "rank_pattern: expected a regular expression: missing )"),
        ({"alpha_pattern": {"q_proj": "8"}}, "alpha_pattern: expected alphas by name, got"),
        ({"alpha_pattern": {"*": 8}}, "alpha_pattern: expected a regular expression"),
        (
            {"target_modules": [1]},
            "target_modules: expected a list of names, a regular expression or 'all-linear'",
        ),
        ({"target_modules": "(q_proj"}, "target_modules: expected a regular expression: missing )"),
        ({"exclude_modules": "*"}, "exclude_modules: expected a regular expression"),
        ({"layers_to_transform": "1"}, "layers_to_transform: expected numbers of layers"),
        ({"layers_pattern": ["(h"]}, "layers_pattern: expected a regular expression"),
        ({"target_modules": "a{99999999999999}"}, "target_modules: expected a regular expression"),
        ({"modules_to_save": ["a\n\x1b[31m"]}, r'refuses ["a\n\u001b[31m"]'),
        ({"bias": "lora_only"}, "bias: vLLM does not support adapters with biases"),
        ({"use_dora": True}, "use_dora: vLLM does not support DoRA, got true"),
        ({"lora_bias": True}, "lora_bias: vLLM does not support biases of B"),
        (
            {"modules_to_save": ["lm_head", "score"]},
            'only classifier and score as whole modules, and refuses ["lm_head"]',
        ),
        ({"init_lora_weights": "pissa_niter_16"}, "init_lora_weights: this initialisation changes the base model"),
        ({"alora_invocation_tokens": [1, 2]}, "alora_invocation_tokens: vLLM does not support activated LoRA"),
        ({"layer_replication": [[0, 4], [2, 5]]}, "layer_replication: vLLM does not support replicated layers"),
        ({"use_bdlora": {"target_modules_bd_a": ["q_proj"]}}, "use_bdlora: vLLM does not support block-diagonal LoRA"),
        ({"use_qalora": True}, "use_qalora: vLLM does not support QALoRA"),
        ({"trainable_token_indices": [5]}, "trainable_token_indices: vLLM does not support trained tokens"),
    ],
)
def test_what_the_engine_refuses_is_refused_with_its_reason(
    tmp_path: Path, fields: dict[str, Any], message: str
) -> None:
    with pytest.raises(ModelError) as caught:
        adapter(tmp_path, **fields)
    assert message in str(caught.value)
    assert str(caught.value).startswith(f"{tmp_path / 'adapter_config.json'}: ")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("model", "fields", "message"),
    [
        (
            "llama-3.1-8b",
            {"target_modules": ["c_attn"]},
            "none of these names a module of llama-3.1-8b that takes adapters",
        ),
        ("llama-3.1-8b", {"target_modules": []}, "none of these names a module of llama-3.1-8b"),
        ("llama-3.1-8b", {"target_modules": r"model\.layers\.32\..*"}, "none of these names a module of llama-3.1-8b"),
        ("llama-3.1-8b", {"layers_to_transform": [32]}, "none of these names a module of llama-3.1-8b"),
        (
            "llama-3.1-8b",
            {"layers_to_transform": [1], "layers_pattern": ["blocks"]},
            "none of these names a module of llama-3.1-8b",
        ),
        (
            "llama-3.1-8b",
            {"modules_to_save": ["score"]},
            "score: LlamaForCausalLM has no classification head",
        ),
        (
            "mistral-nemo-12b",
            {"target_modules": ["o_proj", "lm_head"]},
            "lm_head of MistralForCausalLM takes",
        ),
    ],
)
def test_what_the_model_does_not_have(tmp_path: Path, model: str, fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ModelError) as caught:
        changed(tmp_path, SHAPES[model], **fields)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-2, 600) | st.floats() | st.text(max_size=8) | st.just("all-linear"),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=4,
)


@settings(deadline=None)
@given(st.dictionaries(st.sampled_from(sorted(AdapterConfig.model_fields)), VALUES))
def test_any_fields_are_read_or_refused_in_one_line(fields: dict[str, Any]) -> None:
    names: tuple[str, ...] | None = ()
    refused = ""
    try:
        config = read_config({**PLAIN, **fields})
        assert config.largest_rank >= 1
        names = Adapter(Path("a.json"), config).target_modules(LLAMA)
    except (ValueError, ModelError) as error:
        refused = str(error)
    assert refused.isprintable()
    assert names is None or set(names) <= set(LLAMA.target_names)
    assert bool(refused) is (names == ())


def several(folder: Path, *configs: dict[str, Any]) -> list[Adapter]:
    adapters = []
    for number, fields in enumerate(configs):
        one = folder / str(number)
        one.mkdir()
        adapters.append(adapter(one, **fields))
    return adapters


def test_the_largest_rank_and_all_modules_count(tmp_path: Path) -> None:
    adapters = several(
        tmp_path,
        {"target_modules": ["down_proj"], "r": 16},
        {"target_modules": ["q_proj"], "rank_pattern": {"q_proj": 64, "k_proj": 4}},
    )
    assert [one.rank for one in adapters] == [16, 64]
    assert joint_rank(adapters, ()) == (64,)
    assert joint_rank(adapters, (64, 128)) == (64, 128)
    assert joint_targets(adapters, LLAMA) == ("qkv_proj", "down_proj")
    with pytest.raises(ModelError, match="rank_pattern: expected at most 16, the rank that is served, got 64"):
        joint_rank(adapters, (16,))


def test_one_adapter_of_everything_is_everything(tmp_path: Path) -> None:
    assert joint_targets(several(tmp_path, {}, {"target_modules": "all-linear"}), LLAMA) is None
    assert joint_targets([], LLAMA) is None


def test_a_rank_that_no_engine_has_room_for(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="rank_pattern: expected at most 512, got 513"):
        joint_rank([adapter(tmp_path, rank_pattern={"q_proj": 513})], ())


@pytest.mark.parametrize(
    ("rank", "advice"),
    [(17, "the next larger one is 32"), (48, "the next larger one is 64"), (513, "the largest is 512")],
)
def test_ranks_that_no_engine_takes(rank: int, advice: str) -> None:
    with pytest.raises(ModelError) as caught:
        ModelStudy.of(str(MODELS / "llama-3.1-8b"), tensor_parallel=1, ranks=[16, rank], max_loras=[4], ms=[1])
    assert f"one of 1, 8, 16, 32, 64, 128, 256, 320, 512, got {rank}; {advice}" in str(caught.value)
