"""``bo-tune folders``: tuned folders are listed, the fitting one is found and copied."""

import json
from pathlib import Path

from helpers import ROOT, Cli

MODELS = ROOT / "studies" / "models"
SERVED = ("--model", MODELS / "llama-3.1-8b", "--max-loras", 4, "--rank", 16)


def test_all_are_listed_by_model_gpu_versions_and_age(cli: Cli) -> None:
    ran = cli("folders", "--json", "listed.json")
    assert (ran.code, ran.err) == (0, "")
    listed = json.loads(Path("listed.json").read_text())["folders"]
    assert len(listed) >= 10
    assert {"name", "gpu", "kernel_sources", "toolchains", "tuned_at"} <= listed[0].keys()
    assert all(one["name"] in ran.out for one in listed)
    assert "ago" in ran.out


def test_the_one_that_fits_a_model_is_copied_and_passes_its_check(cli: Cli) -> None:
    ran = cli("folders", *SERVED, "--gpu", "H200", "--out", "tuned")
    assert (ran.code, ran.err) == (0, "")
    first, _, *after = ran.out.splitlines()
    assert first == "wrote 4 files of llama-3.1-8b to tuned"
    assert after[-1].strip() == f"export VLLM_TUNED_CONFIG_FOLDER={Path('tuned').absolute()}"
    assert cli("check", "tuned", *SERVED).code == 0
    again = cli("folders", "llama-3.1-8b", "--out", "tuned")
    assert again.out.startswith("wrote 0 files of llama-3.1-8b to tuned; 4 files were already there\n")


def test_a_file_with_other_content_is_not_overwritten(cli: Cli) -> None:
    Path("tuned").mkdir()
    Path("tuned/NVIDIA_H200_SHRINK.json").write_text("{}")
    ran = cli("folders", "phi-4", "--out", "tuned")
    assert (ran.code, ran.error) == (
        2,
        "tuned/NVIDIA_H200_SHRINK.json exists with other content; choose another folder",
    )
    assert [path.name for path in Path("tuned").iterdir()] == ["NVIDIA_H200_SHRINK.json"]


def test_bad_input_is_told_in_one_line(cli: Cli) -> None:
    assert cli("folders", "llama").error == "'llama': no tuned folder has this name; bo-tune folders lists them all"
    assert cli("folders", "--gpu", "V100").error.startswith("--gpu V100: there are tuned folders for NVIDIA H200")
    assert (
        cli("folders", "--out", "x").error == "--out: copies one folder; name a model's folder and, with --gpu, the GPU"
    )
    other = cli("folders", "--model", MODELS / "llama-3.1-8b", "--max-loras", 4, "--rank", 32)
    assert (other.code, other.out) == (2, "")
    assert other.error.startswith("no tuned folder answers every lookup of this engine")
    for wrong, message in (
        (("--engine", "sglang"), "--engine sglang: the tuned folders that come with bo_tune are for vLLM alone"),
        (("--m", "1,16"), "--m: a folder is checked for all numbers of tokens; leave --m out"),
    ):
        refused = cli("folders", *SERVED, *wrong)
        assert (refused.code, refused.error) == (2, message)
    assert not Path("x").exists()
