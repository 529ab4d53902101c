"""Model configs: the shapes of VLLM_CONTRACT.md, and configs that cannot be used."""

import json
from pathlib import Path
from typing import Any

import pytest

from bo_tune.engines.models.layers import LoraLayer
from bo_tune.engines.models.shape import ModelShape
from bo_tune.errors import ModelError

LLAMA: dict[str, Any] = {
    "architectures": ["LlamaForCausalLM"], "hidden_size": 4096, "intermediate_size": 14336, "num_attention_heads": 32,
    "num_key_value_heads": 8, "head_dim": 128, "vocab_size": 128256, "torch_dtype": "bfloat16",
}  # fmt: skip


def shape_of(**changes: Any) -> ModelShape:
    config = {name: value for name, value in {**LLAMA, **changes}.items() if value != "absent"}
    return ModelShape.from_config(config, Path("m/config.json"))


def test_llama_on_one_gpu() -> None:
    assert shape_of().layers() == [
        LoraLayer("qkv_proj", 4096, (4096, 1024, 1024), dual_stream_adds=(False,)),
        LoraLayer("o_proj", 4096, (4096,), dual_stream_adds=(False,)),
        LoraLayer("gate_up_proj", 4096, (14336, 14336), dual_stream_adds=(False,)),
        LoraLayer("down_proj", 14336, (4096,), dual_stream_adds=(False,)),
        LoraLayer("embed_tokens", None, (4096,)),
        LoraLayer("lm_head", 4096, (128256,), per_sequence=True),
    ]


def test_sharding_divides_columns_then_rows() -> None:
    qkv, o, gate_up, down, *_ = shape_of(hidden_size=8192, intermediate_size=28672, num_attention_heads=64).layers(4)
    assert (qkv.shrink_k, qkv.slice_sizes) == (8192, (2048, 256, 256))
    assert (o.shrink_k, o.slice_sizes) == (2048, (8192,))
    assert (gate_up.shrink_k, gate_up.slice_sizes) == (8192, (7168, 7168))
    assert (down.shrink_k, down.slice_sizes) == (7168, (8192,))


def test_more_ranks_than_kv_heads_share_them() -> None:
    assert shape_of().layers(16)[0].slice_sizes == (256, 128, 128)


@pytest.mark.parametrize("head_dim", ["absent", None])
def test_head_dim_follows_from_hidden_and_heads(head_dim: str | None) -> None:
    assert shape_of(head_dim=head_dim).layers() == shape_of(head_dim=128).layers()


def test_a_head_dim_that_the_engine_ignores() -> None:
    qwen = shape_of(architectures=["Qwen2ForCausalLM"], head_dim=64)
    assert qwen.layers()[0].slice_sizes == (4096, 1024, 1024)


def test_head_dim_may_make_attention_wider_than_hidden() -> None:
    qkv, o, *_ = shape_of(hidden_size=1024, num_attention_heads=16, num_key_value_heads=8).layers()
    assert qkv.slice_sizes == (2048, 1024, 1024)
    assert (o.shrink_k, o.slice_sizes) == (2048, (1024,))


def test_without_kv_heads_every_head_has_its_own() -> None:
    assert shape_of(num_key_value_heads="absent").layers()[0].slice_sizes == (4096, 4096, 4096)


def test_dimensions_under_text_config() -> None:
    text = {**LLAMA, "model_type": "mistral", "architectures": None}
    config = {"architectures": ["Mistral3ForConditionalGeneration"], "text_config": text, "torch_dtype": "float16"}
    shape = ModelShape.from_config(config, Path("m/config.json"))
    assert (shape.layers()[3].shrink_k, shape.name, shape.dtype) == (14336, "m", "bfloat16")
    assert shape.modules(["language_model.model.layers.7.mlp.down_proj"]) == shape.modules(["down_proj"])


def test_checkpoints_with_fused_projections_have_one_slice() -> None:
    qkv, _, gate_up, *_ = shape_of(architectures=["Phi3ForCausalLM"]).layers(2)
    assert qkv.slice_sizes == (3072,)
    assert gate_up.slice_sizes == (14336,)


@pytest.mark.parametrize(
    ("fields", "dtype"),
    [
        ({"torch_dtype": "float16"}, "float16"),
        ({"torch_dtype": "absent", "dtype": "torch.float16"}, "float16"),
        ({"torch_dtype": "float32"}, "bfloat16"),
        ({"torch_dtype": "absent"}, "bfloat16"),
    ],
)
def test_dtype_is_the_one_served(fields: dict[str, Any], dtype: str) -> None:
    assert shape_of(**fields).dtype == dtype


def test_file_and_folder(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps(LLAMA))
    assert ModelShape.from_file(tmp_path) == ModelShape.from_file(tmp_path / "config.json")
    assert ModelShape.from_file(tmp_path).name == tmp_path.name


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"hidden_size": "absent"}, "hidden_size is missing"),
        ({"num_attention_heads": None}, "num_attention_heads is missing"),
        ({"intermediate_size": "x"}, 'intermediate_size: expected an integer >= 1, got "x"'),
        ({"num_key_value_heads": True}, "num_key_value_heads: expected an integer >= 1"),
        ({"head_dim": None, "num_attention_heads": 30}, "head_dim is missing"),
        ({"architectures": "absent"}, "architectures: expected the list of the model's classes"),
        ({"architectures": None}, "architectures: expected the list of the model's classes"),
        ({"architectures": []}, "architectures: expected the list of the model's classes"),
        ({"architectures": "LlamaForCausalLM"}, "architectures: expected the list of the model's classes"),
        ({"architectures": ["GPTNeoXForCausalLM"]}, "architectures: expected one of Cohere2ForCausalLM, "),
        ({"architectures": ["MixtralForCausalLM"]}, "num_local_experts is missing"),
        ({"hidden_size": 2**31}, "hidden_size: expected an integer <= 2147483647, got 2147483648"),
        ({"num_hidden_layers": 10**400}, "num_hidden_layers: expected an integer <= 10000, got 1000"),
        ({"architectures": ["\x1b[31m\n"]}, "architectures: expected one of"),
        ({"text_config": 3}, "text_config: expected an object"),
    ],
)
def test_unusable_configs_name_the_field(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ModelError) as caught:
        shape_of(**changes)
    assert str(caught.value).startswith(f"m/config.json: {message}")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("changes", "tp", "field"),
    [
        ({}, 3, "num_attention_heads"),
        ({"intermediate_size": 14337}, 2, "intermediate_size"),
        ({"num_key_value_heads": 6, "num_attention_heads": 24}, 4, "num_key_value_heads"),
        ({"num_key_value_heads": 6, "num_attention_heads": 24}, 8, "num_key_value_heads"),
        ({}, 0, "expected a tensor-parallel size"),
    ],
)
def test_impossible_shardings_name_the_field(changes: dict[str, Any], tp: int, field: str) -> None:
    with pytest.raises(ModelError, match=field):
        shape_of(**changes).layers(tp)


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"\xff\xfe", b"[" * 100_000])
def test_a_file_that_is_no_config(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "config.json"
    path.write_bytes(content)
    with pytest.raises(ModelError, match=r"config\.json: "):
        ModelShape.from_file(path)


def test_a_missing_file() -> None:
    with pytest.raises(ModelError, match="nowhere: No such file"):
        ModelShape.from_file(Path("nowhere"))
