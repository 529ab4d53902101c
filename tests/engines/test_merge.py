"""Tuned JSON of several hosts in one folder."""

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import forked
import pytest
from helpers import PATIENCE_S, ROOT

from bo_tune.core.problem import LoraProblem
from bo_tune.engines.base import TunedEntry
from bo_tune.engines.folder import merge_tables, read_provenance, read_table, write_tables
from bo_tune.engines.provenance import Provenance, provenance_path
from bo_tune.errors import TableError

NAME = "GPU_SHRINK.json"


def entry(m: int, split_k: int, date: str, gpu: str = "GPU") -> TunedEntry:
    config = {"block_m": 16, "split_k": split_k}
    problem = LoraProblem("lora_shrink", 4, 1, m, 4096, 16)
    origin = Provenance(
        problem, config, 5.0, 6.0, gpu, "1", "2", "3", "vllm", date, f"study {split_k}", "grid-gp", "s", {"launches": 9}
    )
    return TunedEntry(f"{gpu}_SHRINK.json", ("5", "1", str(m), "4096", "16"), config, origin)


def configs(folder: Path, name: str = NAME) -> dict[str, int]:
    return {keys[2]: config["split_k"] for keys, config in read_table(folder / name).configs.items()}


def test_entries_of_all_folders_are_there_with_their_origin(tmp_path: Path) -> None:
    first, second, out = tmp_path / "1", tmp_path / "2", tmp_path / "out"
    write_tables(first, [entry(1, 8, "2026-01-01"), entry(2, 16, "2026-01-02")])
    write_tables(
        second, [entry(4, 32, "2026-01-03"), replace(entry(1, 64, "2026-01-01"), file_name="OTHER_SHRINK.json")]
    )
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


@pytest.mark.parametrize("config", [{"block_m": 16, "max_nreg": None}, {"max_nreg": None}])
def test_parameters_left_open_are_kept(tmp_path: Path, config: dict[str, int | None]) -> None:
    (tmp_path / "1").mkdir()
    (tmp_path / "1" / NAME).write_text(json.dumps({"5": {"1": {"16": {"4096": {"16": config}}}}}))
    for _ in range(2):
        merge_tables([tmp_path / "1"], tmp_path / "out")
        assert read_table(tmp_path / "out" / NAME).entries == {("5", "1", "16", "4096", "16"): config}


WORKER = """
import sys
from dataclasses import replace
from pathlib import Path
from bo_tune.engines.folder import merge_tables
from bo_tune.engines.folder import read_entries, write_tables

kind, own, out, rounds = sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3]), int(sys.argv[4])
sys.stdout.write("ready\\n")
sys.stdout.flush()
sys.stdin.readline()
for number in range(rounds):
    if kind == "merge":
        merge_tables([own], out / str(number))
    else:
        write_tables(out / str(number), [entry for path in own.glob("*_SHRINK.json") for entry in read_entries(path)])
"""


@pytest.mark.slow
def test_many_merges_and_sessions_at_once(tmp_path: Path) -> None:
    """Whoever comes last to a folder, the entry measured last stays, and its sidecar tells of it."""
    rounds, workers = 12, []
    for number in range(8):
        own = tmp_path / "in" / str(number)
        write_tables(
            own, [entry(1, number + 1, f"2026-01-01T00:00:0{number}+00:00"), entry(number + 2, 1, "2026-01-01")]
        )
        kind = "merge" if number % 2 else "tune"
        command = [sys.executable, "-c", WORKER, kind, str(own), str(tmp_path / "out"), str(rounds)]
        workers.append(forked.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True))
    for worker in workers:
        assert worker.stdout is not None
        assert worker.stdout.readline() == "ready\n"
    for worker in workers:
        assert worker.stdin is not None
        worker.stdin.write("\n")
        worker.stdin.flush()
    for worker in workers:
        worker.communicate(timeout=PATIENCE_S)
        assert worker.returncode == 0
    for number in range(rounds):
        path = tmp_path / "out" / str(number) / NAME
        table, origins = read_table(path), read_provenance(path)
        assert table.entries[("5", "1", "1", "4096", "16")]["split_k"] == 8
        assert len(table.entries) == 9
        assert {keys: origin.config for keys, origin in origins.items()} == table.entries
