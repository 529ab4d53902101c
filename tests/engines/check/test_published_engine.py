"""What ``check`` says that an engine finds is what the published vLLM's own lookup finds, or fails with."""

import json
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import test_vllm_client
from helpers import EXPAND_TABLE, H100, SHRINK_TABLE
from hypothesis import given
from hypothesis import strategies as st
from test_vllm_client import asked_by_engine, experts_asked
from tuned_folder import MODEL, Documents, checked, qwen

from bo_tune.engines.check import Report
from bo_tune.engines.models.serving import ModelStudy
from bo_tune.engines.vllm.lookup import Found
from bo_tune.kernels.moe.untuned import as_read

client = test_vllm_client.client

MOE = f"{H100.file_name}_FUSED_MOE_LORA_W13_SHRINK.json"


def numbered(files: Documents) -> None:
    """Give every entry a block_m of its own, so that a neighbour's shows."""
    number = 1000

    def walk(level: dict[str, Any]) -> Iterator[dict[str, Any]]:
        if "block_m" in level:
            yield level
        else:
            for below in level.values():
                yield from walk(below)

    for document in files.values():
        for config in walk(document):
            number += 1
            config["block_m"] = number


def spoilt(files: Documents) -> None:
    numbered(files)
    del files[SHRINK_TABLE]["5"]["2"]
    files[SHRINK_TABLE]["5"]["3"]["note"] = {}
    del files[EXPAND_TABLE]["5"]["1"]["256"]["16"]["128256"]


def agrees_with(client: ModuleType, report: Report) -> None:
    for item in report.lookups:
        ask = experts_asked if "moe" in item.problem.kernel else asked_by_engine
        if isinstance(item.found, Found):
            assert ask(client, item.problem) == item.found.config, item
        else:
            with pytest.raises((KeyError, ValueError)):
                ask(client, item.problem)


@pytest.mark.parametrize("model", [MODEL, qwen(), qwen(256, tensor_parallel=2, fully_sharded=True)])
def test_every_lookup_finds_what_vllm_finds(client: ModuleType, tmp_path: Path, model: ModelStudy) -> None:
    report = checked(tmp_path, numbered, model)
    assert len(report.lookups) > 300
    agrees_with(client, report)


def test_lookups_that_stop_vllm_are_faults(client: ModuleType, tmp_path: Path) -> None:
    report = checked(tmp_path, spoilt)
    crashed = [item for item in report.lookups if not isinstance(item.found, Found)]
    assert {item.problem.num_slices for item in crashed} == {2, 3}
    assert all(item.status == "fault" for item in crashed)
    agrees_with(client, report)


NAMES = st.sampled_from(("block_m", "BLOCK_SIZE_M", "Block_m", "BLOCK_M", "block_size_m", "num_warps", "NUM_WARPS"))


def test_names_of_experts_parameters_are_read_as_vllm_reads_them(client: ModuleType) -> None:
    @given(st.dictionaries(NAMES, st.one_of(st.none(), st.integers(1, 9))))
    def compared(config: dict[str, int | None]) -> None:
        normal = client._normalize_lora_config_keys(config)
        assert as_read(config)["block_m"] == normal.get("BLOCK_SIZE_M", 64)
        assert as_read(config)["num_warps"] == normal.get("NUM_WARPS", 4)

    compared()


def test_an_empty_file_counts_as_none(client: ModuleType, tmp_path: Path) -> None:
    report = checked(tmp_path, lambda files: files.update({MOE: {}}), qwen())
    problem = next(item.problem for item in report.lookups if item.file == MOE)
    assert json.loads((tmp_path / MOE).read_text()) == {}
    assert experts_asked(client, problem)["block_m"] == 64
    assert any(fault.reason.startswith("the file is empty: with this folder the experts") for fault in report.faults)
