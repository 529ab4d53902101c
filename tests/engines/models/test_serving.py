"""A model as it is served: what an engine of two streams asks for, and what is said of one engine's lookups."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from helpers import ROOT

from bo_tune.engines.models.serving import ModelStudy
from bo_tune.engines.models.shape import ModelShape
from bo_tune.kernels.registry import kernel_spec

MODELS = ROOT / "studies" / "models"

Slices = dict[str, set[int]]
"""Numbers of slices by the file that is asked for them."""

DEEPSEEK = json.loads((Path(__file__).parent / "lookups.json").read_text())["deepseek-ai--DeepSeek-R1"]["config"]
ALL, HEAD_AND_WHOLE = {"qkv_proj", "o_proj", "gate_up_proj", "down_proj"}, {"embed_tokens", "lm_head"}


def served(name: str, **more: Any) -> ModelStudy:
    values = {"tensor_parallel": 1, "ranks": [16], "max_loras": [4], "ms": [16], **more}
    return ModelStudy.of(str(MODELS / name), **values)


def layers_by_file(model: ModelStudy) -> dict[str, set[str]]:
    """Return the layers that ask each of the two files of expand."""
    found: dict[str, set[str]] = {}
    for problem, layers in model.problems_by_layer(["lora_expand"]).items():
        stem = kernel_spec(problem.kernel).file_stem(problem)
        found.setdefault(stem, set()).update(layers)
    return found


def test_one_stream_always_adds() -> None:
    assert layers_by_file(served("llama-3.1-8b")) == {"EXPAND_TRUE": ALL | HEAD_AND_WHOLE}


def test_on_two_streams_layers_that_are_spread_overwrite() -> None:
    model = served("llama-3.1-8b", dual_stream=True)
    assert layers_by_file(model) == {"EXPAND_FALSE": ALL, "EXPAND_TRUE": HEAD_AND_WHOLE}
    assert layers_by_file(served("qwen2.5-14b", dual_stream=True)) == {"EXPAND_FALSE": ALL}
    moe = served("qwen3-30b-a3b", tensor_parallel=2, dual_stream=True)
    assert layers_by_file(moe) == {
        "EXPAND_FALSE": {"qkv_proj", "o_proj"},
        "EXPAND_TRUE": {"gate", "embed_tokens", "lm_head"},
    }


def test_on_two_streams_what_each_rank_holds_whole_adds() -> None:
    shape = ModelShape.from_config(DEEPSEEK, Path("m/config.json"))
    model = ModelStudy(shape, 8, (16,), (4,), (16,), dual_stream=True)
    files = layers_by_file(model)
    assert files["EXPAND_TRUE"] == {"fused_qkv_a_proj", "gate"}
    assert {"q_b_proj", "kv_b_proj", "o_proj", "shared_experts.down_proj"} <= files["EXPAND_FALSE"]
    without_latent = ModelShape.from_config({**DEEPSEEK, "q_lora_rank": None}, Path("m/config.json"))
    files = layers_by_file(replace(model, shape=without_latent))
    assert files["EXPAND_TRUE"] == {"kv_a_proj_with_mqa", "gate"}
    assert "q_proj" in files["EXPAND_FALSE"]


def test_fully_sharded_layers_add_on_two_streams_too() -> None:
    model = served("llama-3.1-8b", tensor_parallel=4, dual_stream=True, fully_sharded=True)
    assert layers_by_file(model) == {"EXPAND_TRUE": ALL | HEAD_AND_WHOLE}
    alone = layers_by_file(served("llama-3.1-8b", dual_stream=True, fully_sharded=True))
    assert alone == {"EXPAND_FALSE": {"gate_up_proj"}, "EXPAND_TRUE": ALL | HEAD_AND_WHOLE}


def test_what_is_named_goes_before_what_the_engine_asks() -> None:
    assert set(layers_by_file(served("llama-3.1-8b", add_inputs=[False]))) == {"EXPAND_FALSE"}


def test_lm_head_has_no_more_rows_than_sequences() -> None:
    model = served("llama-3.1-8b", ms=[1, 16, 64, 256, 1024], max_sequences=64)
    heads = {
        p.m for p, layers in model.problems_by_layer().items() if "lm_head" in layers and p.kernel == "lora_expand"
    }
    assert heads == {1, 16, 64}


@pytest.mark.parametrize(
    ("model", "more", "note"),
    [
        ("llama-3.1-8b", {}, None),
        (
            "llama-3.1-8b",
            {"target_modules": ["q_proj", "v_proj"]},
            "start the engine with --lora-target-modules q_proj v_proj, or it stops with a KeyError unless the files "
            "have entries for more than these lookups: without this option it also adapts o_proj, gate_up_proj, "
            "down_proj, embed_tokens, "
            "lm_head, and looks up …_SHRINK.json for num_slices 1 and 2, …_EXPAND_TRUE.json for num_slices 1 and 2",
        ),
        (
            "llama-3.1-8b",
            {"target_modules": ["qkv_proj", "o_proj", "gate_up_proj"]},
            "start the engine with --lora-target-modules qkv_proj o_proj gate_up_proj: without this option it takes "
            "other layers' configs for down_proj, embed_tokens, lm_head if theirs are missing",
        ),
        (
            "mixtral-8x7b",
            {"target_modules": ["qkv_proj", "o_proj", "gate", "embed_tokens", "lm_head"]},
            "start the engine with --lora-target-modules qkv_proj o_proj gate embed_tokens lm_head: without this "
            "option it "
            "runs the experts with its defaults",
        ),
        (
            "llama-3.1-8b",
            {"dual_stream": True},
            "start the engine with VLLM_LORA_ENABLE_DUAL_STREAM=1, or it stops with a KeyError unless the files have "
            "entries for more than these lookups: on one stream it looks up …_EXPAND_TRUE.json for num_slices 2 and 3",
        ),
        (
            "qwen2.5-14b",
            {"dual_stream": True},
            "start the engine with VLLM_LORA_ENABLE_DUAL_STREAM=1: on one stream it looks up …_EXPAND_TRUE.json for "
            "all layers",
        ),
    ],
)
def test_what_the_engine_must_be_told(model: str, more: dict[str, Any], note: str | None) -> None:
    assert served(model, **more).note == note
