"""Lookups of SGLang's chunked LoRA kernels in a folder."""

import json
from pathlib import Path
from typing import Any

import pytest
from helpers import H100, ROOT

from bo_tune.core.choices import EngineChoice
from bo_tune.engines.check.csgmv import check_csgmv
from bo_tune.engines.models.serving import ModelStudy
from bo_tune.errors import TableError

SHRINK = f"lora_shrink,K=4096,R=16,S=1,device={H100.file_name}.json"
EXPAND = f"lora_expand,K=4096,R=16,S=1,device={H100.file_name}.json"
GOOD = {"BLOCK_N": 32, "BLOCK_K": 64, "num_warps": 4, "num_stages": 3}
PLACE = Path("csgmv_configs", "triton_3_6_0")


def model(**more: Any) -> ModelStudy:
    values = {"tensor_parallel": 1, "ranks": [16], "max_loras": [8], "ms": [1], "target_modules": ["o_proj"], **more}
    path = ROOT / "studies" / "models" / "llama-3.1-8b"
    return ModelStudy.of(str(path), engine=EngineChoice.SGLANG, **values)


def folder(root: Path, contents: dict[str, Any], place: Path = PLACE) -> Path:
    (root / place).mkdir(parents=True, exist_ok=True)
    for name, content in contents.items():
        (root / place / name).write_text(content if isinstance(content, str) else json.dumps(content))
    return root


@pytest.mark.parametrize("place", [PLACE, Path()], ids=["as it is named", "where files are"])
def test_every_size_of_chunks_is_looked_up(tmp_path: Path, place: Path) -> None:
    content = {"16": GOOD, "128": GOOD}
    report = check_csgmv(folder(tmp_path, {SHRINK: content, EXPAND: content}, place), model(chunk_size=128))
    assert not report.faults
    assert report.gpu == H100
    found = {(item.problem.kernel, item.m): item.status for item in report.lookups}
    kinds = {16: "exact", 32: "nearest m", 128: "exact"}
    assert found == {
        (kernel, chunk): kind for kernel in ("csgmv_shrink", "csgmv_expand") for chunk, kind in kinds.items()
    }
    assert {item.nearest_m for item in report.lookups if item.m == 32} == {16}


def test_a_missing_file_is_a_fault(tmp_path: Path) -> None:
    report = check_csgmv(folder(tmp_path, {SHRINK: {"16": GOOD}}), model())
    (fault,) = report.faults
    assert (fault.file, fault.reason) == (
        EXPAND, "the file does not exist: SGLang runs its default config, not the one that it ships",
    )  # fmt: skip


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ({}, "the file is empty: SGLang stops"),
        ([], "expected an object with chunk sizes as keys: SGLang stops"),
        ({"16": GOOD, "note": {}}, "a key is not a chunk size: SGLang stops"),
        ({"16": {"BLOCK_N": 32}}, "BLOCK_K is missing: SGLang stops"),
        ("{", "the engine stops"),
        (
            {"16": {**GOOD, "BLOCK_N": 256, "BLOCK_K": 512, "num_stages": 5}},
            f"it needs 1114112 B of shared memory, but the GPU has 232448 B: the launch would fail on {H100.name}",
        ),
    ],
)
def test_a_file_that_cannot_be_used_is_a_fault(tmp_path: Path, content: Any, reason: str) -> None:
    report = check_csgmv(folder(tmp_path, {SHRINK: content, EXPAND: {"16": GOOD}}), model(), gpu=H100.name)
    (fault,) = report.faults
    assert fault.file == SHRINK
    assert reason in fault.reason


def test_the_gpu_must_be_told_where_files_do_not(tmp_path: Path) -> None:
    with pytest.raises(TableError, match="no tuned JSON of SGLang"):
        check_csgmv(folder(tmp_path, {}), model())
    with pytest.raises(TableError, match="No such file or directory"):
        check_csgmv(tmp_path / "nowhere", model())
