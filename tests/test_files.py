"""Writing files in one step. How a kill leaves them is tested with the tables (``test_tables``)."""

import os
import threading
from pathlib import Path

import pytest

from bo_tune.files import locked, plain_name, write_atomically


def test_a_file_is_replaced_and_keeps_its_permissions(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_text("old")
    path.chmod(0o640)
    write_atomically(path, b"new")
    assert path.read_text() == "new"
    assert path.stat().st_mode & 0o777 == 0o640
    assert [p.name for p in tmp_path.iterdir()] == ["a.json"]


def test_a_link_is_followed(tmp_path: Path) -> None:
    path, link = tmp_path / "a.json", tmp_path / "b.json"
    link.symlink_to(path)
    write_atomically(link, b"new")
    assert link.is_symlink()
    assert path.read_text() == "new"


def test_what_is_no_file_is_written_to_and_stays_what_it_is(tmp_path: Path) -> None:
    """``--json /dev/null`` in a container, where everybody is root, must not take the device's place."""
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    read: list[bytes] = []
    reader = threading.Thread(target=lambda: read.append(pipe.read_bytes()))
    reader.start()
    write_atomically(pipe, b"new")
    reader.join(10)
    assert read == [b"new"]
    assert pipe.is_fifo()


def test_a_folder_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(IsADirectoryError):
        write_atomically(tmp_path, b"new")


@pytest.mark.parametrize("name", ["NVIDIA_H100_80GB_HBM3_SHRINK.json", "Intel(R) Arc(TM)", "ä", "...", " x"])
def test_plain_names_stay(name: str) -> None:
    assert plain_name(name) == name


@pytest.mark.parametrize("name", ["", ".", "..", "../x", "/x", "a/b", "a\\b", "a\nb", "\x1b[31m", "\0", "\udcff"])
def test_other_names_are_refused(name: str) -> None:
    with pytest.raises(ValueError, match="cannot be the name of a file"):
        plain_name(name)


def test_a_lock_is_waited_for_and_is_that_of_the_file_behind_a_link(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tmp_path / "file")
    with locked(tmp_path / "link", 1.0):
        assert (tmp_path / ".file.lock").exists()
        with pytest.raises(TimeoutError), locked(tmp_path / "file", 0.05):
            pass
    with locked(tmp_path / "file", 0.05):
        pass
