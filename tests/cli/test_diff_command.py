"""``bo-tune diff``: two folders, entry by entry."""

import json
from pathlib import Path
from typing import Any

import pytest
from helpers import EXPAND, SHRINK, Cli, Ran, sliced, write_all

SHRINK_FILE, EXPAND_FILE = "NVIDIA_H100_80GB_HBM3_SHRINK.json", "NVIDIA_H100_80GB_HBM3_EXPAND_TRUE.json"


@pytest.fixture
def folders(cli: Cli, tmp_path: Path) -> Path:
    """Two folders: one of a search of four configs, one of all of them."""
    grids = tmp_path / "grids"
    grids.mkdir()
    write_all(grids, sliced(SHRINK), sliced(EXPAND))
    common = ("--device", f"replay:{grids}", "--storage", "memory")
    assert cli("tune", *common, "--budget", 1, "--sampler", "random", "--out", "a").code == 0
    assert cli("grid", *common, "--out", "b").code == 0
    return Path.cwd()


def entries(cli: Cli, *words: object) -> tuple[Ran, dict[tuple[str, str], dict[str, Any]]]:
    ran = cli("diff", *words, "--json", "x.json")
    document = json.loads(Path("x.json").read_text())
    assert sum(document["counts"].values()) == len(document["entries"])
    return ran, {(one["file"], one["status"]): one for one in document["entries"]}


def test_changed_entries_are_shown_with_both_times(cli: Cli, folders: Path) -> None:
    ran, found = entries(cli, "a", "b")
    assert (ran.code, ran.err) == (0, "")
    one = found[SHRINK_FILE, "changed"]
    a, b = one["a"], one["b"]
    for shown in (f"{a['time_us']:.2f}", f"{b['time_us']:.2f}", "/".join(one["keys"]), SHRINK_FILE, EXPAND_FILE):
        assert shown in ran.out
    assert one["change_percent"] == pytest.approx(100 * (b["time_us"] / a["time_us"] - 1))
    assert f"{one['change_percent']:+.2f} %" in ran.out
    assert a["default_us"] == pytest.approx(a["time_us"])  # one config is launched: the default
    assert "2 entries: 0 same, 2 changed, 0 only in A, 0 only in B" in ran.out


def test_what_one_folder_lacks_and_what_is_the_same(cli: Cli, folders: Path) -> None:
    (folders / "a" / EXPAND_FILE).unlink()
    ran, found = entries(cli, "a", "b")
    assert found[EXPAND_FILE, "only in B"]["a"] is None
    ran, found = entries(cli, "b", "b")
    assert set(found) == {(SHRINK_FILE, "same"), (EXPAND_FILE, "same")}
    assert SHRINK_FILE not in ran.out
    every = cli("diff", "b", "b", "--all").out
    assert SHRINK_FILE in every
    assert " same " in every


def test_a_config_put_in_by_hand_has_no_time(cli: Cli, folders: Path) -> None:
    """A sidecar says nothing of a config that it does not have, and a file may have none."""
    table = folders / "b" / SHRINK_FILE
    table.write_text(table.read_text().replace('"num_warps": 4', '"num_warps": 16').replace(": 8,", ": 4,"))
    (folders / "a" / EXPAND_FILE.replace(".json", ".provenance.json")).unlink()
    ran, found = entries(cli, "a", "b")
    assert found[SHRINK_FILE, "changed"]["b"]["time_us"] is None
    assert found[SHRINK_FILE, "changed"]["change_percent"] is None
    assert found[EXPAND_FILE, "changed"]["a"]["time_us"] is None
    assert "both times are known" not in ran.out


def test_a_script_can_ask_whether_they_differ(cli: Cli, folders: Path) -> None:
    assert cli("diff", "a", "b", "--exit-code", "-q") == Ran(1, "", "")
    assert cli("diff", "b", "b", "--exit-code", "-q") == Ran(0, "", "")


def test_what_is_no_folder_of_tuned_json_is_one_line(cli: Cli, folders: Path) -> None:
    assert cli("diff", "a", "none").error.startswith("none: No such file")
    (folders / "empty").mkdir()
    assert "no tuned JSON" in cli("diff", "empty", "a").error
    (folders / "b" / SHRINK_FILE).write_text("{")
    assert SHRINK_FILE in cli("diff", "a", "b").error
