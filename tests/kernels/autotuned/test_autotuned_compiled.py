"""Under ``torch.compile`` the table's winner is all that PyTorch is left to choose from."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import write_table
from helpers import PATIENCE_S

pytestmark = pytest.mark.slow

HERE = Path(__file__).parent


def compiled(*arguments: str, **environment: str) -> list[str]:
    path = os.pathsep.join([str(HERE), *sys.path])
    done = subprocess.run(
        [sys.executable, str(HERE / "compiled_checks.py"), *arguments],
        env={**os.environ, "PYTHONPATH": path, "TRITON_DEFAULT_FP_FUSION": "1", **environment},
        capture_output=True,
        text=True,
        check=False,
        timeout=PATIENCE_S,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout.splitlines()


def test_each_key_has_the_config_of_the_table(tmp_path: Path) -> None:
    table = write_table(
        tmp_path / "own.tuned.json",
        "double_kernel",
        ({"n": 1000, "dtypes": "2xfloat32"}, {"BLOCK": 256, "num_warps": 1, "num_stages": 3}),
        ({"n": 64000, "dtypes": "2xfloat32"}, {"BLOCK": 64, "num_warps": 4, "num_stages": 3}),
    )
    usual = "num_ctas=1 num_stages=3"
    wanted = [f"BLOCK=256 {usual} num_warps=1", f"BLOCK=64 {usual} num_warps=4", f"BLOCK=128 {usual} num_warps=2"]
    shown = compiled("double", "static", "dynamic", "make_fx", BO_TUNE_TABLE=str(table))
    assert shown == [*wanted, *wanted, wanted[0], wanted[2]]
    nearest = compiled("double", "dynamic", BO_TUNE_TABLE=str(table), BO_TUNE_ON_MISS="nearest")
    assert nearest == [*wanted[:2], wanted[0]]


def test_pruning_and_heuristics_below_go_on_as_they_were(tmp_path: Path) -> None:
    entry = {"n": 1000, "SCALE": 3, "dtypes": "2xfloat32"}, {"BLOCK": 1024, "num_warps": 2, "num_stages": 3}
    table = write_table(tmp_path / "own.tuned.json", "add_up_kernel", entry)
    shown = compiled("add_up", "static", BO_TUNE_TABLE=str(table))
    assert shown[0] == "BLOCK=1024 EVEN=False num_ctas=1 num_stages=3 num_warps=2"
    assert [line.split()[0] for line in shown[1:]] == ["BLOCK=64", "BLOCK=64"]


def test_without_a_table_the_first_config_is_left_and_sizes_may_stay_dynamic(tmp_path: Path) -> None:
    assert compiled("double", "dynamic", BO_TUNE_TABLE=str(tmp_path / "none.json")) == [
        "BLOCK=128 num_ctas=1 num_stages=3 num_warps=2"
    ]
