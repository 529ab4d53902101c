"""From a launch without a winner to one with it, over all processes. The GPU is played, the rest is real."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import forked
import pytest
from helpers import PATIENCE_S, Ran, stored_trials

pytestmark = pytest.mark.slow

HERE = Path(__file__).parent

SCRIPT = """
import sys
import torch, triton, triton.language as tl
import bo_tune
from bo_tune.kernels.autotuned import child
from bo_tune.kernels.user import frozen

@bo_tune.autotune({"BLOCK": (64, 128, 256), "num_warps": (1, 2, 4)}, key=["n"], calls="calls", table="own.tuned.json")
@triton.jit
def double_kernel(x, y, n, BLOCK: tl.constexpr):
    place = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    tl.store(y + place, tl.load(x + place, mask=place < n) * 2, mask=place < n)

if __name__ == "__main__":
    child.MODULE = "fake_recorded"
    frozen.gpu_at_hand = lambda: "NVIDIA Fake 1"
    triton.runtime.jit.JITFunction.run = lambda *given, **options: None
    for n in map(int, sys.argv[1:]):
        x = torch.randn(n)
        double_kernel[lambda meta: (triton.cdiv(n, meta["BLOCK"]),)](x, torch.empty_like(x), n)
        chosen = double_kernel.best_config
        print(n, chosen.kwargs["BLOCK"], chosen.num_warps)
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with the script, and what plays the GPU beside it."""
    (tmp_path / "own.py").write_text(SCRIPT)
    for module in ("fake_recorded.py", "fake_autotuned_gpu.py"):
        shutil.copy(HERE / module, tmp_path)
    return tmp_path


def run(folder: Path, *arguments: object, start: Callable[..., Any] = forked.run, **environment: str) -> Ran:
    done = start(
        [sys.executable, *map(str, arguments)],
        cwd=folder,
        env={**os.environ, "TRITON_CACHE_DIR": str(folder / "triton"), **environment},
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
    )
    return Ran(done.returncode, done.stdout, done.stderr)


def test_what_was_recorded_is_tuned_frozen_and_launched(folder: Path) -> None:
    ran = run(folder, "own.py", 1000, 5000, BO_TUNE_ON_MISS="record")
    assert (ran.code, ran.out) == (0, "1000 128 2\n5000 128 2\n"), ran.err
    tuned = run(folder, "fake_recorded.py", "calls")
    assert tuned.code == 0, tuned.err
    assert tuned.out.startswith("double_kernel n=1000 dtypes=2xfloat32: BLOCK=256 num_warps=4 num_stages=3: 3.91 us")
    assert tuned.out.count("9 launched") == 2
    studies = stored_trials(folder / "own.db")
    assert len(studies) == 2
    assert all(" | own.py " in study for study in studies)
    again = run(folder, "fake_recorded.py", "calls")
    assert again.out == tuned.out
    assert list(stored_trials(folder / "own.db")) == list(studies)
    for word in ("error", "nearest"):
        used = run(folder, "own.py", 1000, 5000, BO_TUNE_ON_MISS=word)
        assert used.out == "1000 256 4\n5000 256 4\n", used.err


def test_a_launch_has_its_key_tuned_in_a_process_of_its_own_and_the_next_start_finds_it(folder: Path) -> None:
    ran = run(folder, "own.py", 1000, 1000)
    assert (ran.code, ran.out) == (0, "1000 256 4\n1000 256 4\n"), ran.err
    (entry,) = json.loads((folder / "own.tuned.json").read_text())["kernels"]["double_kernel"]["NVIDIA Fake 1"]
    assert entry["sizes"] == {"n": 1000, "dtypes": "2xfloat32"}
    (folder / "fake_recorded.py").unlink()
    again = run(folder, "own.py", 1000, 3000)
    assert again.out == "1000 256 4\n3000 128 2\n"
    assert "RuntimeWarning: bo_tune: double_kernel: " in again.err


def test_processes_that_miss_the_same_key_at_once_have_it_tuned_once(folder: Path) -> None:
    environment = {**os.environ, "TRITON_CACHE_DIR": str(folder / "triton"), "BO_TUNE_STORAGE": "sqlite:///one.db"}
    both = [
        forked.Popen([sys.executable, "own.py", "1000"], cwd=folder, env=environment, stdout=subprocess.PIPE, text=True)
        for _ in range(2)
    ]
    assert [process.communicate(timeout=PATIENCE_S)[0] for process in both] == ["1000 256 4\n"] * 2
    (trials,) = stored_trials(folder / "one.db").values()
    assert len(trials) == 9


def test_without_a_gpu_a_launch_says_so_and_runs_its_default_and_loads_no_database(folder: Path) -> None:
    text = SCRIPT.replace('    child.MODULE = "fake_recorded"\n', "")
    text += '    print(sorted({"optuna", "sqlalchemy"} & set(sys.modules)))\n'
    (folder / "own.py").write_text(text)
    ran = run(folder, "own.py", 1000, start=subprocess.run, CUDA_VISIBLE_DEVICES="")
    assert (ran.code, ran.out) == (0, "1000 128 2\n[]\n")
    assert "RuntimeWarning: bo_tune: double_kernel: CUDA device 0 cannot be used: " in ran.err
    assert "running its default config" in ran.err
    assert ran.err.count("Traceback") == 0
