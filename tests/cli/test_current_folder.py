"""Commands that start children, in a folder full of files that are named like modules: none of them is run."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from helpers import EXPAND, PATIENCE_S, SHRINK, run_command, sliced, sqlite_url, write_all
from planted import Planted

pytestmark = pytest.mark.slow

HERE = Path(__file__).parent
STUDY = """
name = "small"
[[problem]]
kernel = "lora_shrink"
max_loras = 4
num_slices = 1
m = [16, 512]
k = 4096
n = 16
[space.lora_shrink]
block_m = [16]
block_n = [32]
block_k = [32]
num_warps = [4]
num_stages = [2, 3]
split_k = [8]
"""


@pytest.fixture
def planted(tmp_path: Path) -> Planted:
    """The folder of the commands."""
    (tmp_path / "study.toml").write_text(STUDY)
    return Planted(tmp_path)


def test_compile_runs_none(planted: Planted, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path / "cache"))
    words = ("study.toml", "--kernels", "builtin", "--jobs", 1, "--configs", 1, "--out", "x.pack")
    ran = run_command("compile", *words, cwd=tmp_path, run=subprocess.run)
    assert (ran.code, planted.ran) == (0, []), ran


def test_workers_run_none(planted: Planted, tmp_path: Path) -> None:
    recordings = write_all(tmp_path / "recordings", sliced(SHRINK), sliced(EXPAND))
    where = ("--device", f"replay:{recordings}", "--storage", sqlite_url(tmp_path / "x.db"))
    search = ("--sampler", "random", "--budget", 2, "--workers", 2)
    ran = run_command("tune", *where, *search, cwd=tmp_path, run=subprocess.run)
    assert (ran.code, planted.ran) == (0, []), ran


def test_searches_compilers_and_gpu_processes_run_none(planted: Planted, tmp_path: Path) -> None:
    path = os.pathsep.join([str(HERE), *filter(None, [os.environ.get("PYTHONPATH")])])
    words = ["study.toml", "--gpus", "0,1", "--jobs", "2", "--kernels", "builtin", "--budget", "2"]
    done = subprocess.run(
        [sys.executable, HERE / "gpus.py", "tune", *words],
        env={**os.environ, "PYTHONPATH": path},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
    )
    assert (done.returncode, planted.ran) == (0, []), done
