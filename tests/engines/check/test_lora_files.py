"""Files of tuned LoRA configs: what is wrong with them whatever is asked."""

from pathlib import Path
from typing import Any

import pytest

from bo_tune.engines.check.lora_files import read, structure_faults

SHRINK = "NVIDIA_H100_80GB_HBM3_SHRINK.json"
MOE = "NVIDIA_H100_80GB_HBM3_FUSED_MOE_LORA_W13_SHRINK.json"
DENSE = {"block_m": 16, "block_n": 32, "block_k": 64, "split_k": 8, "num_warps": 4, "num_stages": 2, "num_ctas": 1}


@pytest.mark.parametrize(
    ("document", "expected"),
    [
        ({"4": {"2": {"16": {"16": {"2048": {"768": {"BLOCK_SIZE_M": 64}}}}}}}, []),
        ({"4": {"2": {"16": {"16": {"2048": {"BLOCK_SIZE_M": 64}}}}}}, ["the i key 'BLOCK_SIZE_M' is no number"]),
        ({"4": {"2": {"16": {"16": {"2048": {"x": {"block_m": 64}}}}}}}, ["the i key 'x' is no number"]),
        ({"4": {"2": {}}}, ["expected an object below the num_slices key, got {}"]),
        ({"4": {"2": {"16": {"16": {"2048": {"768": {"block_m": {}}}}}}}}, ["block_m: expected an integer"]),
        ({"4": {"2": {"16": {"16": {"2048": {"768": {"num_warps": None}}}}}}}, ["num_warps: expected an integer"]),
    ],
)  # fmt: skip
def test_the_structure_of_files_with_another_level(document: dict[str, Any], expected: list[str]) -> None:
    found = [fault.reason for fault in structure_faults(MOE, document)]
    assert len(found) == len(expected)
    assert all(reason.startswith(start) for reason, start in zip(found, expected, strict=True))


def test_entries_that_no_lookup_reaches_are_read_too() -> None:
    without = {name: value for name, value in DENSE.items() if name != "num_ctas"}
    document = {"9": {"1": {"16": {"4096": {"16": DENSE, "32": without}}}}}
    (fault,) = structure_faults(SHRINK, document)
    assert (fault.place, fault.reason) == ("9/1/16/4096/32", "no num_ctas: a KeyError in the engine")


def test_what_cannot_be_read_is_told_as_the_engine_meets_it(tmp_path: Path) -> None:
    path = tmp_path / SHRINK
    assert [fault.reason for fault in structure_faults(SHRINK, read(path))] == [
        "no such file: the engine takes its default configs"
    ]
    path.mkdir()
    (fault,) = structure_faults(SHRINK, read(path))
    assert fault.reason == "Is a directory: the engine stops"
