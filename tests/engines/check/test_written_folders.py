"""Folders that bo_tune wrote for two models, asked by ``check`` and by the published vLLM's own lookup, key by key.

They were tuned on an H200 with vLLM 0.33.0's kernels and ``--budget 8 --max-loras 4 --rank 16``: GPT-OSS-20B with ``--m
1,16,256``, DeepSeek-R1 with ``--tp 8 --m 16,256``.
"""

import importlib
import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest
import torch
from helpers import ROOT
from test_published_engine import agrees_with
from vllm_wheel import importable, vllm_folder

from bo_tune.engines.check import check_folder
from bo_tune.engines.models.serving import ModelStudy

WRITTEN = Path(__file__).parent / "written"
GPU = "NVIDIA H200"
LOOKUPS = ROOT / "tests" / "engines" / "models" / "lookups.json"
DEEPSEEK = json.loads(LOOKUPS.read_text())["deepseek-ai--DeepSeek-R1"]["config"]


def model(name: str, tmp_path: Path, tensor_parallel: int, rank: int = 16) -> ModelStudy:
    """The model of a folder, or another's."""
    config = ROOT / "studies" / "models" / name
    if name == "deepseek-r1":
        config = tmp_path / "config.json"
        config.write_text(json.dumps(DEEPSEEK))
    return ModelStudy.of(
        str(config), tensor_parallel=tensor_parallel, ranks=[rank], max_loras=[4], ms=[1], max_sequences=256
    )


@pytest.fixture(params=["gpt-oss-20b", "deepseek-r1"])
def folder(request: pytest.FixtureRequest) -> Path:
    return WRITTEN / str(request.param)


@pytest.fixture
def client(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    """vLLM's module with the lookup, on an H200, reading the folder."""
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: GPU)
    monkeypatch.setenv("VLLM_TUNED_CONFIG_FOLDER", str(folder))
    with importable(vllm_folder()):
        yield importlib.import_module("vllm.lora.ops.triton_ops.utils")


def test_every_lookup_of_the_model_is_found_by_both(client: ModuleType, folder: Path, tmp_path: Path) -> None:
    ranks = {"gpt-oss-20b": 1, "deepseek-r1": 8}[folder.name]
    report = check_folder(folder, model(folder.name, tmp_path, ranks), gpu=GPU)
    assert not report.faults
    assert report.count("exact") == {"gpt-oss-20b": 30, "deepseek-r1": 36}[folder.name]
    assert len(report.lookups) > 600
    agrees_with(client, report)


@pytest.mark.parametrize(("tensor_parallel", "rank"), [(1, 16), (4, 16), (8, 64)])
def test_what_another_model_misses_both_miss(
    client: ModuleType, folder: Path, tmp_path: Path, tensor_parallel: int, rank: int
) -> None:
    other = {"gpt-oss-20b": "deepseek-r1", "deepseek-r1": "gpt-oss-20b"}[folder.name]
    report = check_folder(folder, model(other, tmp_path, tensor_parallel, rank), gpu=GPU)
    status = Counter(item.status for item in report.lookups)
    assert status["fault"] == len(report.lookups) - status["exact"] - status["nearest m"] > 0
    agrees_with(client, report)
