"""What was recorded of calls' whole grids is tuned without a GPU, several kernels out of one folder."""

import shutil
from pathlib import Path
from typing import Any

import autotuned_kernels as own
import pytest
import torch
from helpers import ROOT, FakeDevice

import bo_tune
from bo_tune.core.space import Config
from bo_tune.kernels.autotuned import misses
from bo_tune.kernels.user.definition import Definition
from bo_tune.kernels.user.spec import UserSpec
from bo_tune.processes.importing import import_source


def device(kernel: Definition) -> FakeDevice:
    def time_us(config: Config) -> float:
        return 1000.0 / config["BLOCK"] + abs(config["num_warps"] - 4)

    return FakeDevice(time_us, UserSpec(kernel, frozenset()).search_space)


def test_calls_of_several_kernels_are_recorded_and_replayed(
    launched: list[Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BO_TUNE_ON_MISS", "record")
    monkeypatch.setenv("BO_TUNE_CALLS", "calls")
    monkeypatch.setattr(misses, "_WRITERS", {})
    for n in (1000, 3000):
        own.doubled(torch.empty(n))
    own.added_up(torch.empty(500))
    for name, kernel in (("double_kernel", own.double_kernel), ("add_up_kernel", own.add_up_kernel.fn)):
        found = bo_tune.tune_recorded("calls", kernels=[name], device=device(kernel.definition), record="grids")
        assert {best.kernel for best in found} == {name}
    again = bo_tune.tune_recorded("calls", device="replay:grids", table="own.tuned.json")
    chosen = {(best.kernel, best.problem["n"]): (best.config["BLOCK"], best.config["num_warps"]) for best in again}
    assert chosen == {
        ("double_kernel", 1000): (256, 4), ("double_kernel", 3000): (256, 4), ("add_up_kernel", 500): (128, 4)
    }  # fmt: skip
    monkeypatch.setenv("BO_TUNE_ON_MISS", "error")
    monkeypatch.setenv("BO_TUNE_TABLE", "own.tuned.json")
    for kernel in (own.double_kernel, own.add_up_kernel.fn):
        monkeypatch.setattr(kernel, "_winners", {})
    # Recorded as of the stand-in's GPU, which is the one that is played.
    own.doubled(torch.empty(3000))
    own.added_up(torch.empty(500))
    assert [(options["BLOCK"], options["num_warps"]) for options in launched[-2:]] == [(256, 4), (128, 4)]


def test_more_than_forty_configs_are_searched_and_few_are_measured_whole(
    launched: list[Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BO_TUNE_ON_MISS", "record")
    monkeypatch.setenv("BO_TUNE_CALLS", "calls")
    monkeypatch.setattr(misses, "_WRITERS", {})
    shutil.copytree(ROOT / "examples", tmp_path / "examples")
    drop_in = import_source(str(tmp_path / "examples" / "drop_in.py"))
    own.doubled(torch.empty(1000))
    (whole,) = bo_tune.tune_recorded("calls", device=device(own.double_kernel.definition))
    assert whole.launched_configs == 9
    drop_in.matmul(*(torch.empty(512, 512, dtype=torch.float16) for _ in "ab"))
    kernel = drop_in.matmul_kernel.definition
    square = FakeDevice(lambda config: 100 + config["BLOCK_M"] / 16, UserSpec(kernel, frozenset()).search_space)
    (searched,) = bo_tune.tune_recorded("calls", kernels=["matmul_kernel"], device=square)
    assert searched.launched_configs < 40 < len(kernel.listed)
    assert searched.problem == {"M": 512, "N": 512, "K": 512, "dtypes": "3xfloat16"}
