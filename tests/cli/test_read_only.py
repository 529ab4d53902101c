"""Databases and folders that may only be read: on a mount that is read-only, or closed to whoever runs the tests."""

import os
import shutil
import sqlite3
import subprocess
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from helpers import EXPAND, SHRINK, Cli, contents, run_command, sliced, sqlite_url, write_all

pytestmark = pytest.mark.slow

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


@pytest.fixture(scope="module")
def tuned_once(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with recordings, and with a database and the files tuned into it in another."""
    place = tmp_path_factory.mktemp("once")
    folder, recordings = place / "kept", place / "recordings"
    for made in (folder, recordings):
        made.mkdir()
    write_all(recordings, sliced(SHRINK), sliced(EXPAND))
    where = ("--storage", sqlite_url(folder / "a.db"), "--out", folder / "out")
    words = ("tune", "--device", f"replay:{recordings}", *where, "--budget", 5, "--sampler", "random")
    ran = run_command(*words, cwd=place)
    assert ran.code == 0, ran
    return place


@pytest.fixture
def tuned(tuned_once: Path, tmp_path: Path) -> Path:
    """A test's own folder with a database and the files tuned into it."""
    shutil.copytree(tuned_once, tmp_path, dirs_exist_ok=True)
    return tmp_path / "kept"


@pytest.fixture
def closed(tuned: Path, tmp_path: Path) -> Iterator[Path]:
    place = _only_to_be_read(tuned, tmp_path / "mount")
    yield place
    if place == tuned:
        for path in (place, *place.iterdir()):
            path.chmod(0o755)
    else:
        subprocess.run(["umount", place], check=True)


@pytest.mark.usefixtures("charts_are_empty")
@pytest.mark.parametrize("words", READING.values(), ids=READING)
def test_looking_needs_no_more_than_reading(cli: Cli, closed: Path, words: tuple[str, ...]) -> None:
    before = contents(closed)
    ran = cli(words[0], "--storage", sqlite_url(closed / "a.db"), *words[1:])
    assert (ran.code, ran.err) == (0, ""), ran
    assert contents(closed) == before


def test_what_a_writer_left_in_its_log_is_read(cli: Cli, tuned: Path, tmp_path: Path) -> None:
    """As a copy of a folder in which a session was at work has it: what is stored last is in the log alone."""
    left = tmp_path / "left"
    with closing(sqlite3.connect(tuned / "a.db")) as writer:
        writer.execute("pragma wal_autocheckpoint = 0")
        writer.execute("delete from studies where study_name like 'lora_expand%'")
        writer.commit()
        shutil.copytree(tuned, left)
    place = _only_to_be_read(left, tmp_path / "mount")
    try:
        ran = cli("show", "--storage", sqlite_url(place / "a.db"))
        assert ran.code == 0, ran
        assert "lora_shrink" in ran.out
        assert "lora_expand" not in ran.out
    finally:
        if place != left:
            subprocess.run(["umount", place], check=True)


def test_files_are_checked_and_compared_where_they_may_only_be_read(cli: Cli, closed: Path) -> None:
    ran = cli("compare", closed / "out", closed / "out")
    assert (ran.code, ran.err) == (0, ""), ran


@pytest.mark.parametrize("words", [("tune",), ("grid",), ("delete", "lora_shrink")], ids=" ".join)
def test_who_would_write_is_told(cli: Cli, closed: Path, words: tuple[str, ...], tmp_path: Path) -> None:
    device = () if words[0] == "delete" else ("--device", f"replay:{tmp_path / 'recordings'}")
    url = sqlite_url(closed / "a.db")
    error = cli(*words, *device, "--storage", url).error
    assert error == f"{url}: nothing can be written there; only show, report and export work"
