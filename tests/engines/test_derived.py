"""A model's layers as the installed vLLM tells them: compared with the table, or in its place."""

import json
from pathlib import Path
from typing import Any

import pytest
from helpers import ROOT

from bo_tune.cli.served import Served
from bo_tune.core.choices import LayersFrom
from bo_tune.engines.models.serving import ModelStudy
from bo_tune.engines.vllm import derived as module
from bo_tune.engines.vllm.derived import derived
from bo_tune.errors import ModelError
from bo_tune.formats.study_file import load_study_file

MODELS = ROOT / "studies" / "models"
LLAMA, QWEN = MODELS / "llama-3.1-8b", MODELS / "qwen3-30b-a3b"
SAID: dict[str, Any] = {"tensor_parallel": 1, "ranks": [16], "max_loras": [4], "ms": [16]}


def answer(name: str, **served: Any) -> dict[str, Any]:
    """Return what an engine tells that wraps what the table has."""
    model = ModelStudy.of(str(MODELS / name), **{**SAID, **served})
    whole = {module.label: module for module in (*model.shape.linear, *model.shape.outer)}
    layers = [
        {
            "name": full,
            "shrink_k": k,
            "shrink_n": n,
            "widths": widths,
            "per_sequence": full.endswith("lm_head"),
            "adds": [whole[full.rpartition("*.")[2].partition(".")[2] or full.rpartition(".")[2]].kind == "replicated"],
        }
        for full, (_, k, n, *widths) in model.wrapped
    ]
    told: dict[str, Any] = {"version": "0.33.0", "layers": layers, "experts": None}
    if model.has_experts:
        w13, w2 = model.problems_by_layer(["fused_moe_lora_w13_expand", "fused_moe_lora_w2_expand"])
        assert w13.experts is not None
        sizes = [w13.num_slices, w13.k, w2.k, w13.n, w13.i, w2.i]
        sizes += [w13.experts.count, w13.experts.local, w13.experts.top_k]
        told["experts"] = {"name": "experts", **dict(zip(module.EXPERT_SIZES, sizes, strict=True))}
    return told


@pytest.fixture
def tells(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Any:
    """Has the engine tell what it is given."""
    file = tmp_path / "told.json"
    monkeypatch.setattr(module, "MODULE", "told_engine")
    monkeypatch.syspath_prepend(str(Path(__file__).parent))
    monkeypatch.setenv("TOLD_ENGINE", str(file))

    def tell(**told: Any) -> None:
        file.write_text(json.dumps(told))

    return tell


@pytest.mark.parametrize(
    ("name", "served"),
    [
        ("llama-3.1-8b", {}),
        ("llama-3.1-8b", {"tensor_parallel": 4, "fully_sharded": True}),
        ("qwen3-30b-a3b", {"tensor_parallel": 2}),
        ("qwen3-30b-a3b", {"tensor_parallel": 2, "expert_parallel": True}),
        ("gpt-oss-20b", {"tensor_parallel": 2}),
    ],
)
def test_an_engine_that_agrees_poses_the_same_problems(tells: Any, name: str, served: dict[str, Any]) -> None:
    tells(**answer(name, **served))
    model = derived(config=str(MODELS / name), **{**SAID, **served})
    assert model.note == "layers as the installed vLLM 0.33.0 wraps them: the table agrees"
    table = ModelStudy.of(str(MODELS / name), **{**SAID, **served})
    assert model.problems_by_layer() == table.problems_by_layer()


def test_what_an_engine_is_asked(tells: Any) -> None:
    served = {"tensor_parallel": 2, "expert_parallel": True, "max_sequences": 64, "unpacked_experts": True}
    asked = {
        "model": str(QWEN), "tensor_parallel_size": 2, "max_lora_rank": 16, "enable_expert_parallel": True,
        "enable_mixed_moe_lora_format": True, "max_num_seqs": 64,
    }  # fmt: skip
    tells(asked=asked, **answer("qwen3-30b-a3b", tensor_parallel=2, expert_parallel=True))
    assert "agrees" in str(derived(config=str(QWEN), **{**SAID, **served}).note)


def test_differences_are_told_and_the_engine_counts(tells: Any) -> None:
    told = answer("llama-3.1-8b")
    told["layers"] = told["layers"][:-1]
    told["layers"][0]["widths"] = [4096, 512, 512]
    told["experts"] = {"name": "experts", **dict.fromkeys(module.EXPERT_SIZES, 8)}
    tells(**told)
    model = derived(config=str(LLAMA), **SAID)
    note = str(model.note)
    assert "the table has lm_head (slices 1, k 4096, n 16, widths 128256), but vLLM does not wrap it like that" in note
    assert "vLLM wraps model.layers.*.self_attn.qkv_proj (slices 3, k 4096, n 16, widths 4096 512 512)" in note
    assert "1 more differences" in note
    layers = {layer.name: layer.slice_sizes for layer in model.layers}
    assert layers["qkv_proj"] == (4096, 512, 512)
    assert "lm_head" not in layers
    assert model.has_experts


def unknown(folder: Path) -> Path:
    config = json.loads((QWEN / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "architectures": ["MyForCausalLM"]}))
    return folder


def test_an_architecture_that_the_table_does_not_have(tells: Any, tmp_path: Path) -> None:
    told = answer("qwen3-30b-a3b")
    conv = {"name": "model.layers.*.conv1d", "shrink_k": 4, "shrink_n": 16, "widths": [8], "per_sequence": False}
    tells(**{**told, "layers": [*told["layers"], {**conv, "adds": [True]}]})
    model = derived(config=str(unknown(tmp_path)), **SAID)
    assert model.problems_by_layer() == ModelStudy.of(str(QWEN), **SAID).problems_by_layer()
    assert str(model.note).endswith("wraps them: the table does not have this model")
    with pytest.raises(ModelError, match="--max-lora-rank is needed"):
        derived(config=str(tmp_path), **{**SAID, "ranks": []})
    with pytest.raises(
        ModelError, match="--adapter: bo_tune knows the names of modules only for architectures in its table"
    ):
        derived(config=str(tmp_path), adapters=["a"], **SAID)


@pytest.mark.parametrize(
    ("told", "message"),
    [
        ({"error": module.NOT_INSTALLED}, "--derive engine: no vLLM is installed here"),
        ({"error": "ValueError: LoRA is not supported for X"}, "--derive engine: ValueError: LoRA is not supported"),
        ({"exit": 3}, "--derive engine: exit code 3: last words"),
    ],
)
def test_an_engine_that_gives_no_answer_is_one_line(tells: Any, told: dict[str, Any], message: str) -> None:
    tells(**told)
    with pytest.raises(ModelError, match=message) as caught:
        derived(config=str(LLAMA), **SAID)
    assert "\n" not in str(caught.value)


def test_the_command_line_and_a_study_file_ask_the_engine(tells: Any, tmp_path: Path) -> None:
    tells(**answer("llama-3.1-8b"))
    served = Served(model=str(LLAMA), max_loras=["4"], rank=["16"], m=["16"], derive=LayersFrom.ENGINE)
    assert "the table agrees" in str(served.study().note)
    study = tmp_path / "study.toml"
    study.write_text(f'[model]\nconfig = "{LLAMA}"\nm = 16\n')
    asked = load_study_file(study, Served(derive=LayersFrom.ENGINE).settings())
    assert "the table agrees" in str(asked.note)
    assert asked.problems() == load_study_file(study).problems()
    assert load_study_file(study).note is None
    assert Served(derive=LayersFrom.ENGINE).given() == ["--derive"]


def test_no_vllm_is_installed_with_the_tests() -> None:
    with pytest.raises(ModelError, match="no vLLM is installed here"):
        derived(config=str(LLAMA), **SAID)
