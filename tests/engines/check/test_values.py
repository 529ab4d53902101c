"""What configs have to hold, by vLLM 0.33.0's own code."""

from typing import Any

import pytest

from bo_tune.engines.check.values import config_fault

SHRINK = {"block_m": 16, "block_n": 32, "block_k": 64, "split_k": 8, "num_warps": 4, "num_stages": 2, "num_ctas": 1}
EXPAND = {name: value for name, value in SHRINK.items() if name != "split_k"}


@pytest.mark.parametrize("name", SHRINK)
def test_a_dense_config_needs_every_name(name: str) -> None:
    config = {key: value for key, value in SHRINK.items() if key != name}
    assert config_fault("SHRINK", config) == f"no {name}: a KeyError in the engine"
    assert config_fault("EXPAND_TRUE", config) == (
        None if name == "split_k" else f"no {name}: a KeyError in the engine"
    )


def test_good_configs() -> None:
    assert config_fault("SHRINK", {**SHRINK, "group_size_m": 8, "max_nreg": None, "comment": "ignored"}) is None
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
    assert config_fault(stem, {**SHRINK, **change}) == fault
