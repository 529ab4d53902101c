"""Lookups of Mamba-2 layers in a folder that holds a file of theirs."""

import json
from pathlib import Path
from typing import Any

import pytest
from helpers import H100
from mamba_models import NEMOTRON, served
from tuned_folder import documents, write

from bo_tune.engines.check import Report, check_folder

NAME = f"headdim=64,dstate=128,device_name={H100.file_name},cache_dtype=float32.json"
GOOD = {"BLOCK_SIZE_M": 8, "num_warps": 2}


def checked(folder: Path, content: Any, *, name: str = NAME, **more: Any) -> Report:
    served_with = {key: more.pop(key) for key in ("tensor_parallel", "max_sequences") if key in more}
    model = served(folder / "model", NEMOTRON, **served_with)
    text = content if isinstance(content, str) else json.dumps(content)
    return check_folder(write(folder, documents(model) | {name: text}), model, **{"gpu": H100.name, **more})


def of_mamba(report: Report) -> dict[int, str]:
    return {item.m: item.status for item in report.lookups if item.file.startswith("headdim=")}


def test_every_number_of_sequences_is_looked_up(tmp_path: Path) -> None:
    report = checked(tmp_path, {"triton_version": "3.6.0", "64": GOOD, "16384": {**GOOD, "num_stages": 1}})
    assert not report.faults
    found = of_mamba(report)
    assert {pairs for pairs, status in found.items() if status == "exact"} == {64, 256 * 64}
    taken = {item.m: item.nearest_m for item in report.lookups if item.file == NAME}
    assert (taken[128], taken[128 * 64], taken[129 * 64], taken[1024 * 64]) == (64, 64, 16384, 16384)
    told = [item for item in report.to_json()["lookups"] if item["kernel"] == "selective_state_update"]
    assert told[0] == {
        "kernel": "selective_state_update", "layers": ["mamba"], "file": NAME, "asked": {"m": 64}, "status": "exact",
        "keys": ["64"], "fault": None,
    }  # fmt: skip


def test_sequences_that_are_named_are_looked_up_alone(tmp_path: Path) -> None:
    report = checked(tmp_path, {"1024": GOOD}, ms=(16, 17))
    assert of_mamba(report) == {16 * 64: "exact", 17 * 64: "nearest m"}


def test_no_more_sequences_are_looked_up_than_the_engine_has(tmp_path: Path) -> None:
    assert max(of_mamba(checked(tmp_path, {"64": GOOD}, max_sequences=16))) == 16 * 64


@pytest.mark.parametrize(
    ("content", "place", "reason"),
    [
        ({"64": {"BLOCK_SIZE_M": 8}}, "64", "expected BLOCK_SIZE_M and num_warps, got "),
        ({"64": {**GOOD, "num_warps": 3}}, "64", "num_warps: expected a power of two, got 3: the engine stops"),
        ({"note": GOOD}, "", "the file is empty: the engine uses its default config, not the shipped ones"),
        ([], "", "the engine never reads this file: expected an object"),
    ],
)
def test_a_fault_is_told_once_with_the_lookups_that_meet_it(
    tmp_path: Path, content: Any, place: str, reason: str
) -> None:
    report = checked(tmp_path, content)
    (fault,) = report.faults
    assert (fault.file, fault.place) == (NAME, place)
    assert reason in fault.reason
    assert len(report.faults[fault]) == len(of_mamba(report)) > 10
    assert set(of_mamba(report).values()) == {"fault"}


@pytest.mark.parametrize(
    "name",
    [
        NAME.replace("headdim=64", "headdim=128"),
        NAME.replace("float32", "float16"),
        NAME.replace(H100.file_name, "NVIDIA_L4"),
    ],
)
def test_files_of_others_are_not_looked_into(tmp_path: Path, name: str) -> None:
    report = checked(tmp_path, {"64": GOOD}, name=name)
    assert not of_mamba(report)
    assert not report.faults


def test_each_rank_asks_for_its_own_share(tmp_path: Path) -> None:
    assert of_mamba(checked(tmp_path, {"512": GOOD}, tensor_parallel=2, ms=(16,))) == {512: "exact"}
