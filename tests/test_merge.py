"""Tuned JSON of several hosts in one folder."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from bo_tune.errors import TableError
from bo_tune.merge import merge_tables
from bo_tune.problem import Problem
from bo_tune.provenance import Provenance, provenance_path
from bo_tune.tables import TunedEntry, read_provenance, read_table, write_tables

NAME = "GPU_SHRINK.json"


def entry(m: int, split_k: int, date: str, gpu: str = "GPU") -> TunedEntry:
    config = {"block_m": 16, "split_k": split_k}
    problem = Problem("lora_shrink", 4, 1, m, 4096, 16)
    origin = Provenance(
        problem, config, 5.0, 6.0, gpu, "1", "2", "3", "vllm", date, f"study {split_k}", "grid-gp", "s", {"launches": 9}
    )
    return TunedEntry(gpu, "SHRINK", ("5", "1", str(m), "4096", "16"), config, origin)


def configs(folder: Path, name: str = NAME) -> dict[str, int]:
    return {keys[2]: config["split_k"] for keys, config in read_table(folder / name).configs.items()}


def test_entries_of_all_folders_are_there_with_their_origin(tmp_path: Path) -> None:
    first, second, out = tmp_path / "1", tmp_path / "2", tmp_path / "out"
    write_tables(first, [entry(1, 8, "2026-01-01"), entry(2, 16, "2026-01-02")])
    write_tables(second, [entry(4, 32, "2026-01-03"), replace(entry(1, 64, "2026-01-01"), gpu_file_name="OTHER")])
    paths = merge_tables([first, second], out)
    assert [path.name for path in paths] == [NAME, "OTHER_SHRINK.json"]
    assert configs(out) == {"1": 8, "2": 16, "4": 32}
    assert {o.study for o in read_provenance(out / NAME).values()} == {"study 8", "study 16", "study 32"}


@pytest.mark.parametrize("order", [(0, 1), (1, 0)])
def test_of_equal_keys_the_latest_counts_whatever_the_order(tmp_path: Path, order: tuple[int, int]) -> None:
    folders = [tmp_path / "1", tmp_path / "2"]
    write_tables(folders[0], [entry(1, 8, "2026-01-05T10:00:00+00:00")])
    write_tables(folders[1], [entry(1, 16, "2026-01-06T10:00:00+00:00")])
    merge_tables([folders[i] for i in order], tmp_path / "out")
    assert configs(tmp_path / "out") == {"1": 16}
    merge_tables([folders[0]], tmp_path / "out")  # and what is there already is not replaced by older
    assert configs(tmp_path / "out") == {"1": 16}
    (origin,) = read_provenance(tmp_path / "out" / NAME).values()
    assert origin.study == "study 16"


def test_entries_of_unknown_origin_are_kept_but_give_way(tmp_path: Path) -> None:
    first, second = tmp_path / "1", tmp_path / "2"
    write_tables(first, [entry(1, 8, "2026-01-05")])
    write_tables(second, [entry(1, 16, "2026-01-05"), entry(2, 32, "2026-01-05")])
    provenance_path(second / NAME).unlink()
    merge_tables([first, second], tmp_path / "out")
    assert configs(tmp_path / "out") == {"1": 8, "2": 32}
    assert len(read_provenance(tmp_path / "out" / NAME)) == 1


def test_a_folder_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / NAME).write_text(json.dumps({"5": []}))
    with pytest.raises(TableError, match="broken"):
        merge_tables([tmp_path / "broken"], tmp_path / "out")
    assert not (tmp_path / "out").exists()
