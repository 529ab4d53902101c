"""Databases and folders that may only be read: on a mount that is read-only, or closed to whoever runs the tests."""

import os
import shutil
import sqlite3
import subprocess
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from helpers import EXPAND, SHRINK, contents, run_command, sliced, sqlite_url, write_all

READING = {
    "show": ("show",),
    "show one": ("show", "lora_shrink"),
    "report": ("report", "--out", "page.html"),
    "export": ("export", "--out", "exported"),
}


def _only_to_be_read(folder: Path, mount: Path) -> Path:
    """Return a place where a folder can be read and not written. Root may write wherever the mount lets it."""
    if os.geteuid():
        for path in (*folder.iterdir(), folder):
            path.chmod(0o555 if path.is_dir() else 0o444)
        return folder
    mount.mkdir()
    for words in (("--bind", folder, mount), ("-o", "remount,ro,bind", mount)):
        if subprocess.run(["mount", *words], capture_output=True, check=False).returncode:
            pytest.skip("root may not mount here")
    return mount


@pytest.fixture
def tuned(tmp_path: Path) -> Path:
    """A folder with a database and the files tuned into it."""
    (tmp_path / "recordings").mkdir()
    recordings = write_all(tmp_path / "recordings", sliced(SHRINK), sliced(EXPAND))
    folder = tmp_path / "kept"
    folder.mkdir()
    where = ("--storage", sqlite_url(folder / "a.db"), "--out", folder / "out")
    ran = run_command("tune", "--device", f"replay:{recordings}", *where, "--budget", 5, cwd=tmp_path)
    assert ran.code == 0, ran
    return folder


@pytest.fixture
def closed(tuned: Path, tmp_path: Path) -> Iterator[Path]:
    place = _only_to_be_read(tuned, tmp_path / "mount")
    yield place
    if place == tuned:
        for path in (place, *place.iterdir()):
            path.chmod(0o755)
    else:
        subprocess.run(["umount", place], check=True)


@pytest.mark.parametrize("words", READING.values(), ids=READING)
def test_looking_needs_no_more_than_reading(closed: Path, words: tuple[str, ...], tmp_path: Path) -> None:
    before = contents(closed)
    ran = run_command(words[0], "--storage", sqlite_url(closed / "a.db"), *words[1:], cwd=tmp_path)
    assert (ran.code, ran.err) == (0, ""), ran
    assert contents(closed) == before


def test_what_a_writer_left_in_its_log_is_read(tuned: Path, tmp_path: Path) -> None:
    """As a copy of a folder in which a session was at work has it: what is stored last is in the log alone."""
    left = tmp_path / "left"
    with closing(sqlite3.connect(tuned / "a.db")) as writer:
        writer.execute("pragma wal_autocheckpoint = 0")
        writer.execute("delete from studies where study_name like 'lora_expand%'")
        writer.commit()
        shutil.copytree(tuned, left)
    place = _only_to_be_read(left, tmp_path / "mount")
    try:
        ran = run_command("show", "--storage", sqlite_url(place / "a.db"), cwd=tmp_path)
        assert ran.code == 0, ran
        assert "lora_shrink" in ran.out
        assert "lora_expand" not in ran.out
    finally:
        if place != left:
            subprocess.run(["umount", place], check=True)


def test_files_are_checked_and_compared_where_they_may_only_be_read(closed: Path, tmp_path: Path) -> None:
    ran = run_command("compare", closed / "out", closed / "out", cwd=tmp_path)
    assert (ran.code, ran.err) == (0, ""), ran


@pytest.mark.parametrize("words", [("tune",), ("grid",), ("delete", "lora_shrink")], ids=" ".join)
def test_who_would_write_is_told(closed: Path, words: tuple[str, ...], tmp_path: Path) -> None:
    device = () if words[0] == "delete" else ("--device", f"replay:{tmp_path / 'recordings'}")
    url = sqlite_url(closed / "a.db")
    error = run_command(*words, *device, "--storage", url, cwd=tmp_path).error
    assert error == f"{url}: nothing may be written there; show, report and export only read"
