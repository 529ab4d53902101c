"""What ``bo-tune check`` prints: every fact at every width."""

import json
from dataclasses import replace
from io import StringIO
from pathlib import Path

import pytest
from helpers import ROOT, SHRINK_TABLE
from rich.console import Console

from bo_tune.display.check import check_lines, check_tables
from bo_tune.engines.check import Fault, Report, check_folder
from bo_tune.engines.models.serving import ModelStudy

MIXTRAL = ROOT / "studies" / "models" / "mixtral-8x7b"
CONFIG = {"block_m": 16, "block_n": 32, "block_k": 64, "split_k": 8, "num_warps": 4, "num_stages": 2, "num_ctas": 1}


def report(folder: Path) -> Report:
    """Return a check of one file of two, which lacks a k."""
    entry = {"4096": {"16": CONFIG}}
    document = {"5": {"3": {"16": entry, "64": entry}, "1": {"16": {"128": {"16": CONFIG}}}}}
    (folder / SHRINK_TABLE).write_text(json.dumps(document))
    model = ModelStudy.of(
        str(MIXTRAL), tensor_parallel=1, ranks=[16], max_loras=[4], ms=[1], target_modules=["q_proj", "o_proj"]
    )
    return check_folder(folder, model, ms=[16, 24, 48, 56, 512, 1024, 2048], gpu=None)


@pytest.mark.parametrize("width", [60, 80, 200])
def test_every_fact_is_there(tmp_path: Path, width: int) -> None:
    file = StringIO()
    console = Console(file=file, width=width)
    checked = report(tmp_path)
    for table in check_tables(checked):
        console.print(table)
    text = file.getvalue()
    assert max(map(len, text.splitlines())) <= width
    assert "…" not in text.replace("… (7)", "")
    if width == 200:
        for fact in (
            "5/3/*/4096/16",
            "qkv_proj",
            "2048 takes 64",
            "so k 128 is used",
            "the file does not exist",
            "… (7)",
        ):
            assert fact in text


def test_totals_and_what_was_left_out(tmp_path: Path) -> None:
    lines = check_lines(report(tmp_path))
    assert lines[0] == (
        "28 lookups: 1 find their own entry, 6 take the entry of the nearest m, 21 fail or take another lookup's "
        "entry; 2 faults"
    )
    unknown = check_lines(replace(report(tmp_path), gpu=None))
    assert "shared memory was not checked: bo_tune does not know NVIDIA_H100_80GB_HBM3" in unknown
    assert any("--lora-target-modules q_proj o_proj" in line for line in lines)


def test_a_fault_of_the_whole_folder_has_a_row(tmp_path: Path) -> None:
    whole = replace(report(tmp_path), lookups=(), general=(Fault("", "", "nothing was looked up"),))
    (table,) = check_tables(whole)
    file = StringIO()
    Console(file=file, width=100).print(table)
    assert "nothing was looked up" in file.getvalue()
    assert check_lines(whole)[0].endswith("; 1 fault")
