"""``bo-tune problems`` and ``tune --dry-run``, and options that change what a study file asks for."""

import json
from pathlib import Path
from typing import Any

import pytest
from helpers import ROOT, Cli

STUDIES = ROOT / "studies"
LLAMA, QWEN, GPT = (STUDIES / "models" / name for name in ("llama-3.1-8b", "qwen3-30b-a3b", "gpt-oss-20b"))
SERVED = ("--max-loras", 4, "--max-lora-rank", 16)
STUDY = f"""
[model]
config = "{LLAMA}"
ranks = [16]
max_loras = [4]
m = [16, 8192]
"""


def problems(cli: Cli, *words: object, command: tuple[str, ...] = ("problems",)) -> list[dict[str, Any]]:
    ran = cli(*command, *words, "--json", "-")
    assert (ran.code, ran.err) == (0, "")
    document = json.loads(ran.out)
    assert document["command"] == "problems"
    found: list[dict[str, Any]] = document["problems"]
    return found


def test_what_would_be_tuned_by_layer(cli: Cli) -> None:
    ran = cli("problems", STUDIES / "llama-3.1-8b.toml")
    assert (ran.code, ran.err) == (0, "")
    text = " ".join(ran.out.split())
    assert "o_proj, lm_head 1, 16, 64, 256, 1024 4 1 4096 16" in text
    assert "o_proj, down_proj, embed_tokens 1, 16, 64, 256, 1024, 8192 4 1 16 4096" in text
    assert "47 studies serve 64 lookups: the layers in one row share their studies" in text
    assert "expect about 504 binaries and 0.8 minutes, as measured on an H100 and an H200 with 16 cores" in text


def test_programs_get_the_keys_of_each_lookup(cli: Cli) -> None:
    found = problems(cli, "--model", LLAMA, *SERVED, "--m", 16, "--target-modules", "qkv_proj,lm_head")
    keys = ["kernel", "max_loras", "num_slices", "m", "k", "n", "layers"]
    assert [list(problem) for problem in found] == [keys] * 4
    assert found[-1] == {
        "kernel": "lora_expand", "max_loras": 4, "num_slices": 1, "m": 16, "k": 16, "n": 128256, "layers": ["lm_head"],
    }  # fmt: skip
    experts = problems(cli, "--model", GPT, *SERVED, "--m", 16, "--kernel", "fused_moe_lora_w13_shrink")
    assert experts == [
        {
            "kernel": "fused_moe_lora_w13_shrink", "max_loras": 4, "num_slices": 1, "m": 16, "k": 16, "n": 3072,
            "i": 5888, "layers": ["experts"],
        }
    ]  # fmt: skip


def test_a_dry_run_lists_the_same_and_tunes_nothing(cli: Cli) -> None:
    words = (STUDIES / "qwen3-30b-a3b-moe.toml", "--kernel", "fused_moe_lora_w2_shrink")
    listed, dry = cli("problems", *words), cli("tune", *words, "--dry-run")
    assert listed == dry
    assert "6 studies serve 6 lookups" in dry.out
    assert "the experts' kernels of one m must agree on one block_m" in " ".join(dry.out.split())
    assert problems(cli, *words) == problems(cli, *words, "--dry-run", command=("tune",))
    assert list(Path.cwd().iterdir()) == []


ALIASES = {
    "--tensor-parallel-size": ("--tp", 2),
    "--max-lora-rank": ("--rank", 8),
    "--fully-sharded-loras": ("--fully-sharded",),
    "--lora-target-modules": ("--target-modules", "o_proj"),
    "--enable-expert-parallel": ("--expert-parallel",),
}


@pytest.mark.parametrize("name", ALIASES)
def test_options_have_vllms_names_and_shorter_ones(cli: Cli, name: str) -> None:
    short, *value = ALIASES[name]
    served = ("--model", QWEN, "--max-loras", 4, "--m", 16, *(() if "rank" in name else ("--rank", 16)))
    told = problems(cli, *served, "--tp", 2, name, *value)
    assert told == problems(cli, *served, "--tp", 2, short, *value)


@pytest.mark.parametrize("option", ["--enable-mixed-moe-lora-format", "--enable-moe-shared-loras"])
def test_gate_and_up_apart(cli: Cli, option: str) -> None:
    words = ("--model", GPT, *SERVED, "--m", 16, "--kernel", "fused_moe_lora_w13_expand", "--tp", 2)
    (packed,), (apart,) = problems(cli, *words), problems(cli, *words, option)
    assert (packed["num_slices"], packed["i"]) == (1, 3072)
    assert (apart["num_slices"], apart["i"]) == (2, 1536)
    dense = ("--model", LLAMA, *SERVED, "--m", 16)
    assert problems(cli, *dense) == problems(cli, *dense, option)


def test_steps_and_logits(cli: Cli) -> None:
    words = ("--model", LLAMA, *SERVED, "--kernel", "lora_expand")
    more = ("--max-num-batched-tokens", 3000, "--num-speculative-tokens", 3, "--max-num-seqs", 32)
    found = problems(cli, *words, *more)
    of = {name: [p["m"] for p in found if name in p["layers"]] for name in ("qkv_proj", "lm_head")}
    assert of["qkv_proj"] == [4, 8, 16, 32, 64, 128, 256, 512, 1024, 2048, 3000]
    assert of["lm_head"] == [4, 8, 16, 32, 64, 128]


def test_options_go_before_the_study_file(cli: Cli, tmp_path: Path) -> None:
    study = tmp_path / "study.toml"
    study.write_text(STUDY)
    (tmp_path / "adapter_config.json").write_text(
        json.dumps({"r": 8, "lora_alpha": 16, "target_modules": ["down_proj"]})
    )
    (down, *more) = problems(cli, study, "--max-loras", 8, "--m", 4, "--adapter", tmp_path, "--tp", 2)
    assert (down["max_loras"], down["m"], down["k"], down["n"]) == (8, 4, 7168, 16)
    assert {problem["kernel"] for problem in more} == {"lora_expand"}
    (other,) = problems(cli, study, "--model", QWEN, "--target-modules", "o_proj", "--m", 4, "--kernel", "lora_shrink")
    assert (other["k"], other["layers"]) == (4096, ["o_proj"])
    assert {p["m"] for p in problems(cli, study, "--max-num-batched-tokens", 8192)} == {16, 8192}
    assert {p["num_slices"] for p in problems(cli, study, "--dual-stream", "--lora-target-modules", "q_proj")} == {3}


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "there is nothing to list: name a study file, or a model with --model"),
        (["{study}", "--max-num-batched-tokens", 2048], "m: expected at most 2048, the tokens of --max-num-batched-"),
        (["{study}", "--adapter", "nowhere"], "nowhere: No such file"),
        (["{study}", "--model", "nowhere"], "nowhere: No such file"),
        (["{study}", "--tp", 3], "num_attention_heads: expected a multiple of the tensor-parallel size 3, got 32"),
        (["{study}", "--rank", 7], "the engine's --max-lora-rank, one of"),
        (["{study}", "--kernel", "fused_moe_lora_w2_shrink"], "--kernel: this study has no problem of fused_moe_lora"),
        ([STUDIES / "recorded.toml", "--tp", 2], "--tensor-parallel-size: "),
        ([STUDIES / "recorded.toml", "--m", 2], "recorded.toml names its problems one by one"),
        (["--enable-expert-parallel"], "--enable-expert-parallel needs a model"),
        (
            ["--model", STUDIES / "models" / "gemma-3-4b", *SERVED, "--enable-tower-connector-lora"],
            "bo_tune does not know the tower layers",
        ),
        (
            ["--model", QWEN, *SERVED, "--fully-sharded-loras", "--enable-expert-parallel"],
            "vLLM cannot combine --fully-sharded-loras",
        ),
    ],
)
def test_what_cannot_be_combined_is_one_line(cli: Cli, tmp_path: Path, words: list[object], message: str) -> None:
    study = tmp_path / "study.toml"
    study.write_text(STUDY)
    assert message in cli("problems", *(study if word == "{study}" else word for word in words)).error
