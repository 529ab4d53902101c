"""``bo-tune write``: tuned JSON from a database, whoever tuned, and whether the session came to its end or not."""

import json
from pathlib import Path

import pytest
from helpers import EXPAND, EXPAND_TABLE, SHRINK, SHRINK_TABLE, Cli, sliced, sqlite_url, write_all

from bo_tune.engines.folder import read_provenance


@pytest.fixture
def tuned(tmp_path: Path, cli: Cli) -> str:
    """A database of two finished studies, whose tables are in ``out``."""
    recordings = tmp_path / "recordings"
    recordings.mkdir()
    write_all(recordings, sliced(SHRINK), sliced(EXPAND))
    url = sqlite_url(tmp_path / "x.db")
    ran = cli("tune", "--device", f"replay:{recordings}", "--storage", url, "--budget", 5, "--out", tmp_path / "out")
    assert ran.code == 0, ran.err
    return url


def test_it_writes_what_tune_wrote(tuned: str, tmp_path: Path, cli: Cli) -> None:
    ran = cli("write", "--storage", tuned, "--out", tmp_path / "again", "--json", "x.json")
    assert (ran.code, ran.err) == (0, "")
    assert json.loads(Path("x.json").read_text())["entries"] == 2
    for name in (SHRINK_TABLE, EXPAND_TABLE):
        assert (tmp_path / "again" / name).read_bytes() == (tmp_path / "out" / name).read_bytes()
        told, first = (read_provenance(tmp_path / folder / name) for folder in ("again", "out"))
        assert {keys: (one.study, one.time_us, one.date, one.triton, one.session) for keys, one in told.items()} == {
            keys: (one.study, one.time_us, one.date, one.triton, one.session) for keys, one in first.items()
        }


def test_words_choose_among_studies(tuned: str, tmp_path: Path, cli: Cli) -> None:
    assert cli("write", "lora_shrink", "H100", "--storage", tuned, "--out", tmp_path / "some").code == 0
    assert {path.name for path in (tmp_path / "some").glob("*.json")} >= {SHRINK_TABLE}
    assert not (tmp_path / "some" / EXPAND_TABLE).exists()


def test_what_has_no_result_yet_is_counted(tuned: str, tmp_path: Path, cli: Cli) -> None:
    again = cli("tune", "--device", f"replay:{tmp_path / 'recordings'}", "--storage", tuned, "--budget", 5, "--seed", 9,
                "--kernel", "lora_shrink", "--out", tmp_path / "other")  # fmt: skip
    assert again.code == 0
    ran = cli("write", "--storage", tuned, "--out", tmp_path / "both", "--json", "-", "-q")
    figures = json.loads(ran.out)
    assert (figures["entries"], figures["not_ended"]) == (2, 0), "of two studies of one lookup the last counts"
    told = read_provenance(tmp_path / "both" / SHRINK_TABLE)
    assert ["seed 9" in one.study for one in told.values()] == [True]


@pytest.mark.parametrize("words", [("no such study",), ("lora_shrink", "H200")])
def test_nothing_to_write_is_told_in_a_line(tuned: str, tmp_path: Path, cli: Cli, words: tuple[str, ...]) -> None:
    ran = cli("write", *words, "--storage", tuned, "--out", tmp_path / "none")
    assert ran.code == 2
    assert "no finished study whose config an engine looks up" in ran.error
    assert not (tmp_path / "none").exists()


def test_a_database_that_is_not_there_is_not_made(tmp_path: Path, cli: Cli) -> None:
    ran = cli("write", "--storage", sqlite_url(tmp_path / "none.db"))
    assert ran.code == 2
    assert not (tmp_path / "none.db").exists()
