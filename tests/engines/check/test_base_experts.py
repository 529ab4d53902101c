"""Lookups of the base model's experts in a folder that holds a file of theirs."""

import json
from pathlib import Path
from typing import Any

import pytest
from helpers import H100, ROOT
from tuned_folder import documents, qwen, write

from bo_tune.engines.check import Report, check_folder
from bo_tune.engines.models.serving import ModelStudy

NAME = f"E=128,N=768,device_name={H100.file_name}.json"
GOOD = {
    "BLOCK_SIZE_M": 64, "BLOCK_SIZE_N": 64, "BLOCK_SIZE_K": 64, "GROUP_SIZE_M": 1, "num_warps": 4, "num_stages": 3,
}  # fmt: skip
HUGE = {**GOOD, "BLOCK_SIZE_M": 256, "BLOCK_SIZE_N": 256, "num_stages": 5}


def checked(folder: Path, content: Any, *, name: str = NAME, model: ModelStudy | None = None, **more: Any) -> Report:
    model = model or qwen()
    text = content if isinstance(content, str) else json.dumps(content)
    return check_folder(write(folder, documents(model) | {name: text}), model, **{"gpu": H100.name, **more})


def of_experts(report: Report) -> dict[int, str]:
    return {item.m: item.status for item in report.lookups if item.file.startswith("E=")}


def test_every_number_of_tokens_is_looked_up(tmp_path: Path) -> None:
    report = checked(tmp_path, {"triton_version": "3.6.0", "1": GOOD, "256": {**GOOD, "SPLIT_K": 1}})
    assert not report.faults
    found = of_experts(report)
    assert {m for m, status in found.items() if status == "exact"} == {1, 256}
    taken = {item.m: item.nearest_m for item in report.lookups if item.file == NAME}
    assert (taken[2], taken[128], taken[129], taken[8192]) == (1, 1, 256, 256), "the first of two that are equally near"
    told = [item for item in report.to_json()["lookups"] if item["kernel"] == "fused_experts"]
    assert told[0] == {
        "kernel": "fused_experts", "layers": ["experts"], "file": NAME, "asked": {"m": 1}, "status": "exact",
        "keys": ["1"], "fault": None,
    }  # fmt: skip


def test_sizes_that_are_named_are_looked_up_alone(tmp_path: Path) -> None:
    assert of_experts(checked(tmp_path, {"16": GOOD}, ms=(16, 17))) == {16: "exact", 17: "nearest m"}


@pytest.mark.parametrize(
    ("content", "place", "reason"),
    [
        ({"16": {**GOOD, "maximum": 1}}, "16", "maximum is not a parameter of the kernel: the engine stops"),
        ({"16": GOOD, "note": {}}, "note", "the key is not a number of tokens: the engine stops"),
        ({}, "", "the file is empty: the engine uses its default configs, not the shipped ones"),
        ([], "", "expected an object with numbers of tokens as keys: the engine stops"),
        (
            {"16": HUGE},
            "16",
            f"it needs 327680 B of shared memory, but the GPU has 232448 B: the launch would fail on {H100.name}",
        ),
    ],
)
def test_a_fault_is_told_once_with_the_lookups_that_meet_it(
    tmp_path: Path, content: Any, place: str, reason: str
) -> None:
    report = checked(tmp_path, content)
    (fault,) = report.faults
    assert (fault.file, fault.place, fault.reason) == (NAME, place, reason)
    assert len(report.faults[fault]) == len(of_experts(report)) > 50
    assert set(of_experts(report).values()) == {"fault"}


def test_an_entry_that_is_never_reached_faults_no_lookup(tmp_path: Path) -> None:
    assert set(of_experts(checked(tmp_path, {"16": GOOD, "60000": HUGE})).values()) == {"exact", "nearest m"}


@pytest.mark.parametrize(
    "name",
    [
        f"E=128,N=384,device_name={H100.file_name}.json",
        f"E=128,N=768,device_name={H100.file_name},dtype=fp8_w8a8.json",
        "E=128,N=768,device_name=NVIDIA_L4.json",
    ],
)
def test_files_of_others_are_not_looked_into(tmp_path: Path, name: str) -> None:
    report = checked(tmp_path, {"16": GOOD}, name=name)
    assert not of_experts(report)
    assert not report.faults


def test_experts_of_fp8_are_looked_up_in_a_file_of_their_own(tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    config = json.loads((ROOT / "studies" / "models" / "qwen3-30b-a3b" / "config.json").read_text())
    quantization = {"quant_method": "fp8", "weight_block_size": [128, 128]}
    (tmp_path / "model" / "config.json").write_text(json.dumps({**config, "quantization_config": quantization}))
    model = ModelStudy.of(str(tmp_path / "model"), tensor_parallel=1, ranks=[16], max_loras=[4], ms=[16])
    name = NAME.replace(".json", ",dtype=fp8_w8a8,block_shape=[128,128].json")
    for number, (file, found) in enumerate(((name, {16: "exact"}), (NAME, {}))):
        folder = tmp_path / str(number)
        folder.mkdir()
        assert of_experts(checked(folder, {"16": GOOD}, name=file, model=model, ms=(16,))) == found
    # Half the bytes of 16 bits: what does not fit there may fit here.
    (tmp_path / "fits").mkdir()
    large = {**GOOD, "BLOCK_SIZE_M": 128, "BLOCK_SIZE_N": 256, "BLOCK_SIZE_K": 256, "num_stages": 4}
    assert not checked(tmp_path / "fits", {"16": large}, name=name, model=model, ms=(16,)).faults


def test_the_sidecar_of_a_file_is_none(tmp_path: Path) -> None:
    report = checked(tmp_path, {"schema_version": 1, "entries": {}}, name=NAME.replace(".json", ".provenance.json"))
    assert not report.faults


def test_each_rank_asks_for_its_own_share(tmp_path: Path) -> None:
    name = f"E=128,N=384,device_name={H100.file_name}.json"
    assert of_experts(checked(tmp_path, {"16": GOOD}, name=name, model=qwen(tensor_parallel=2), ms=(16,)))


def test_a_gpu_of_which_only_lora_files_tell_is_matched_without_its_hyphens(tmp_path: Path) -> None:
    name = "E=128,N=768,device_name=NVIDIA_Z1-80GB.json"
    files = documents(qwen(), gpu="NVIDIA_Z1_80GB") | {name: {"16": GOOD}}
    assert of_experts(check_folder(write(tmp_path, files), qwen(), ms=(16,))) == {16: "exact"}


def test_a_model_without_experts_asks_for_none(tmp_path: Path) -> None:
    path = ROOT / "studies" / "models" / "llama-3.1-8b"
    model = ModelStudy.of(str(path), tensor_parallel=1, ranks=[16], max_loras=[4], ms=[16])
    assert not of_experts(checked(tmp_path, {"16": GOOD}, model=model))
