"""The command that goes on from an interruption."""

import shlex
from pathlib import Path

import pytest

from bo_tune.cli.resume import command_line, kept_lines

URL = "postgresql+psycopg://tuner:secret@db/studies?sslmode=require"


@pytest.mark.parametrize(
    "words", [["tune", "a b.toml", "--out", "it's"], ["tune", "--m", "1,16", "--device", "replay:x"], ["worker"]]
)
def test_a_shell_reads_the_same_words(words: list[str]) -> None:
    text, hidden = command_line(["/usr/bin/bo-tune", *words])
    assert shlex.split(text) == ["bo-tune", *words]
    assert not hidden


def test_a_module_is_run_as_one() -> None:
    text, _ = command_line(["/x/bo_tune/__main__.py", "show"])
    assert text.endswith(" -m bo_tune show")


@pytest.mark.parametrize("words", [["--storage", URL], [f"--storage={URL}"]])
def test_no_password_is_shown_and_that_is_said(words: list[str]) -> None:
    lines = kept_lines(URL, ["bo-tune", "tune", *words])
    assert "secret" not in "\n".join(lines)
    assert "tuner:***@db/studies?sslmode=require" in lines[1]
    assert lines[0].startswith("kept in postgresql+psycopg://tuner:***@db/studies")
    assert lines[2] == "  (*** stands for the password, which is not shown)"


@pytest.mark.parametrize("url", ["sqlite:///x.db", "postgresql+psycopg://tuner@db/studies"])
def test_a_url_without_a_password_is_left_as_it_is(url: str) -> None:
    assert kept_lines(url, ["bo-tune", "tune", "--storage", url])[1:] == [f"  bo-tune tune --storage {url}"]


def test_in_memory_nothing_is_kept() -> None:
    assert kept_lines("memory", ["bo-tune", "tune"]) == [
        "nothing is kept: --storage memory lasts only for this session"
    ]


def test_what_is_finished_can_be_written(tmp_path: Path) -> None:
    url = "postgresql+psycopg://tuner:secret@db/studies"
    out = tmp_path / "two words"
    lines = kept_lines(url, ["bo-tune", "tune", "--storage", url], out=out)
    told, command, hidden = lines[2:]
    assert told == "to write the finished studies without resuming:"
    assert shlex.split(command)[1:] == ["write", "--storage", url.replace("secret", "***"), "--out", str(out)]
    assert hidden.startswith("  (***")
    assert kept_lines("memory", ["bo-tune", "tune"], out=tmp_path) == kept_lines("memory", ["bo-tune", "tune"])
