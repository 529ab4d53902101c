"""``bo-tune warm``: really compiling vLLM's kernels for sm_90 into a cache, on a machine without a GPU."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from helpers import ROOT, Cli
from vllm_wheel import vllm_folder

TUNED = ROOT / "studies" / "folders" / "llama-3.1-8b"
MODEL = ("--model", str(ROOT / "studies" / "models" / "llama-3.1-8b"), "--max-loras", "4", "--rank", "16")


def warm(cwd: Path, *words: str) -> subprocess.CompletedProcess[str]:
    """Run the command beside vLLM's kernels."""
    environment = {**os.environ, "PYTHONPATH": f"{ROOT}:{vllm_folder()}", "TRITON_CACHE_DIR": str(cwd / "triton")}
    command = [sys.executable, "-m", "bo_tune", "warm", str(TUNED), *MODEL, *words]
    return subprocess.run(command, env=environment, cwd=cwd, capture_output=True, text=True, timeout=300, check=False)


@pytest.mark.slow
def test_what_an_engine_launches_is_compiled_once(tmp_path: Path) -> None:
    ran = warm(tmp_path, "--m", "16,17", "--json", "warm.json")
    assert ran.returncode == 0, ran
    first = json.loads((tmp_path / "warm.json").read_text())
    assert (first["there"], first["failed"], first["gpu"]) == (0, [], "NVIDIA H200")
    entries = {path.parent.name for path in (tmp_path / "triton").rglob("_lora_*_kernel.cubin")}
    assert len(entries) == first["binaries"] > 8
    assert f"  export TRITON_CACHE_DIR={tmp_path / 'triton'}\n" in ran.stdout
    assert f"  export VLLM_TUNED_CONFIG_FOLDER={TUNED}\n" in ran.stdout
    again = warm(tmp_path, "--m", "16,17", "--json", "-", "--cache", "triton")
    second = json.loads(again.stdout)
    assert (second["binaries"], second["there"]) == (first["binaries"], first["binaries"])
    assert {path.parent.name for path in (tmp_path / "triton").rglob("_lora_*_kernel.cubin")} == entries


@pytest.mark.slow
def test_what_cannot_be_used_is_refused_in_one_line(tmp_path: Path) -> None:
    wrong = warm(tmp_path, "--tp", "2")
    assert (wrong.returncode, wrong.stdout) == (2, "")
    assert wrong.stderr.startswith(f"bo-tune: {TUNED}/NVIDIA_H200_")
    assert wrong.stderr.endswith(" faults for this engine\n")
    (tmp_path / "file").touch()
    closed = warm(tmp_path, "--m", "16", "--cache", "file/x")
    assert closed.returncode == 2
    assert closed.stderr.endswith(
        "Triton's cache cannot be written: Not a directory; name another folder with --cache\n"
    )
    assert [ran.stderr.count("\n") for ran in (wrong, closed)] == [1, 1]


def test_it_needs_vllm(cli: Cli) -> None:
    assert cli("warm", TUNED, *MODEL).error.startswith("vLLM is not installed; bo-tune warm compiles")


def test_it_is_for_vllm_alone(cli: Cli) -> None:
    assert cli("warm", TUNED, *MODEL, "--engine", "sglang").error.startswith("--engine sglang: only vLLM's kernels")
