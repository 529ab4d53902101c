"""Files of tuned LoRA configs: what is wrong with them whatever is asked."""

from pathlib import Path
from typing import Any

import pytest

from bo_tune.engines.check.lora_files import config_fault, read, structure_faults

SHRINK = "NVIDIA_H100_80GB_HBM3_SHRINK.json"
MOE = "NVIDIA_H100_80GB_HBM3_FUSED_MOE_LORA_W13_SHRINK.json"
DENSE = {"block_m": 16, "block_n": 32, "block_k": 64, "split_k": 8, "num_warps": 4, "num_stages": 2, "num_ctas": 1}


@pytest.mark.parametrize(
    ("document", "expected"),
    [
        ({"4": {"2": {"16": {"16": {"2048": {"768": {"BLOCK_SIZE_M": 64}}}}}}}, []),
        ({"4": {"2": {"16": {"16": {"2048": {"BLOCK_SIZE_M": 64}}}}}}, ["the i key 'BLOCK_SIZE_M' is not a number"]),
        ({"4": {"2": {"16": {"16": {"2048": {"x": {"block_m": 64}}}}}}}, ["the i key 'x' is not a number"]),
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
    assert (fault.place, fault.reason) == ("9/1/16/4096/32", "num_ctas is missing: a KeyError in the engine")


def test_what_cannot_be_read_is_told_as_the_engine_meets_it(tmp_path: Path) -> None:
    path = tmp_path / SHRINK
    assert [fault.reason for fault in structure_faults(SHRINK, read(path))] == [
        "the file does not exist: the engine uses its default configs"
    ]
    path.mkdir()
    (fault,) = structure_faults(SHRINK, read(path))
    assert fault.reason == "Is a directory: the engine stops"


EXPAND = {name: value for name, value in DENSE.items() if name != "split_k"}


@pytest.mark.parametrize("name", DENSE)
def test_a_dense_config_needs_every_name(name: str) -> None:
    config = {key: value for key, value in DENSE.items() if key != name}
    assert config_fault("SHRINK", config) == f"{name} is missing: a KeyError in the engine"
    assert config_fault("EXPAND_TRUE", config) == (
        None if name == "split_k" else f"{name} is missing: a KeyError in the engine"
    )


def test_good_configs() -> None:
    assert config_fault("SHRINK", {**DENSE, "group_size_m": 8, "max_nreg": None, "comment": "ignored"}) is None
    assert config_fault("EXPAND_FALSE", {**EXPAND, "group_size_m": None, "split_k": "ignored"}) is None
    assert config_fault("FUSED_MOE_LORA_W2_EXPAND", {}) is None
    assert config_fault("FUSED_MOE_LORA_W2_EXPAND", {"USE_TMA": True, "max_nreg": None, "Block_m": 3}) is None


@pytest.mark.parametrize(
    ("stem", "change", "fault"),
    [
        ("SHRINK", {"group_size_m": None}, "group_size_m: expected an integer >= 1, got null"),
        ("SHRINK", {"num_warps": 64}, "num_warps: expected at most 32, got 64"),
        ("SHRINK", {"block_k": 8}, "block_k: expected an integer >= 16, got 8"),
        ("EXPAND_TRUE", {"num_ctas": 0}, "num_ctas: expected an integer >= 1, got 0"),
        ("EXPAND_TRUE", {"block_n": True}, "block_n: expected an integer >= 1, got true"),
        ("EXPAND_TRUE", {"num_stages": 2.0}, "num_stages: expected an integer >= 1, got 2.0"),
        ("FUSED_MOE_LORA_W13_SHRINK", {"block_m": 48}, "block_m: expected a power of two, got 48"),
        ("FUSED_MOE_LORA_W13_SHRINK", {"SPLIT_K": None}, "split_k: expected an integer >= 1, got null"),
    ],
)
def test_values_that_no_launch_takes(stem: str, change: dict[str, Any], fault: str) -> None:
    assert config_fault(stem, {**DENSE, **change}) == fault
