"""Reading within bounds, writing in one step. How a kill leaves files is tested with the tables (``test_tables``)."""

import os
from pathlib import Path

import pytest
from helpers import contents

from bo_tune.engines.folder import check_lock, locked
from bo_tune.files import check_file_writable, parse_json, plain_name, read_file, write_atomically


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
    with os.fdopen(os.open(pipe, os.O_RDONLY | os.O_NONBLOCK), "rb") as reader:
        check_file_writable(pipe)
        write_atomically(pipe, b"new")
        assert reader.read() == b"new"
    assert pipe.is_fifo()
    with pytest.raises(OSError, match="Nobody reads from it"):
        write_atomically(pipe, b"new")


def test_what_another_process_reads_is_written_to() -> None:
    """As ``--json >(jq .studies)`` has it."""
    read_end, write_end = os.pipe()
    check_file_writable(Path(f"/dev/fd/{write_end}"))
    write_atomically(Path(f"/dev/fd/{write_end}"), b"new")
    os.close(write_end)
    with os.fdopen(read_end, "rb") as reader:
        assert reader.read() == b"new"


def test_what_is_no_file_or_too_large_is_not_read(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path / "pipe", Path("/dev/zero")):
        with pytest.raises(OSError, match="Not a regular file"):
            read_file(path)
    (tmp_path / "large").write_bytes(bytes(2**20 + 1))
    with pytest.raises(OSError, match="Larger than 1 MiB"):
        read_file(tmp_path / "large", 2**20)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('{"a": 1}'.encode("utf-16"), "expected UTF-8 text"),
        (b"\xef\xbb\xbf{}", "without a byte order mark"),
        (b'{"a": 1, "b": {"c": 1, "c": 2}}', "the key 'c' occurs twice"),
        (b'{"a": NaN}', "NaN is not a number"),
        (b"[1e999]", "a number is out of bounds"),
        (b"[-1" + b"0" * 300 + b"]", "a number is out of bounds"),
        (b"[" + b"9" * 5000 + b"]", "not JSON"),
        (b"[" * 65 + b"]" * 65, "levels of nesting"),
        (b"[" * 100_000, "not JSON"),
        (b'{"\\ud800": 1}', "half a character"),
        (b"[" + b"," * 4_000_001, "it has more than 4000000 values"),
    ],
    ids=str,
)
def test_json_that_is_refused(content: bytes, message: str) -> None:
    with pytest.raises(ValueError, match=message) as caught:
        parse_json(content)
    assert "\n" not in str(caught.value)


def test_json_that_is_read() -> None:
    assert parse_json('{"ä": [1e299, -5, "\\ud83d\\ude00", null]}'.encode()) == {"ä": [1e299, -5, "\U0001f600", None]}
    assert parse_json(b"[" * 64 + b"]" * 64)
    assert parse_json(b'{"a": 1, "a": 2}', repeats=True) == {"a": 2}


def test_a_folder_is_an_error(tmp_path: Path) -> None:
    for attempt in (lambda: write_atomically(tmp_path, b"new"), lambda: check_file_writable(tmp_path)):
        with pytest.raises(IsADirectoryError):
            attempt()


@pytest.mark.parametrize("place", ["pipe", "/dev/zero", "/dev/full", ".", "none", "file/x", "n" * 300])
def test_only_a_file_is_read(tmp_path: Path, place: str) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError):  # noqa: PT011 - whatever the system says; that it says it at once is what counts
        read_file(tmp_path / place)


@pytest.mark.parametrize("place", ["file/x", "file/x/y", "n" * 300, "n" * 240, "n" * 300 + "/x", "/proc/x/y"])
def test_a_place_that_cannot_be_written_is_found_out(tmp_path: Path, place: str) -> None:
    (tmp_path / "file").write_text("")
    for attempt in (lambda: check_file_writable(tmp_path / place), lambda: write_atomically(tmp_path / place, b"")):
        with pytest.raises(OSError):  # noqa: PT011 - whatever the system says
            attempt()


def test_finding_out_leaves_everything_as_it_is(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("old")
    (tmp_path / "link").symlink_to(tmp_path / "elsewhere" / "file")
    (tmp_path / "elsewhere").mkdir()
    for name in ("file", "link", "new/file"):
        check_file_writable(tmp_path / name)
    assert contents(tmp_path) == {"file": b"old"}
    assert (tmp_path / "link").is_symlink()


@pytest.mark.parametrize(("umask", "mode"), [(0o077, 0o600), (0o022, 0o644), (0o002, 0o664)])
def test_new_files_follow_the_umask(tmp_path: Path, umask: int, mode: int) -> None:
    before = os.umask(umask)
    try:
        with locked(tmp_path / "file", 1.0):
            write_atomically(tmp_path / "file", b"new")
    finally:
        os.umask(before)
    assert (tmp_path / "file").stat().st_mode & 0o777 == mode


def test_a_lock_of_another_user_is_found_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with locked(tmp_path / "file", 1.0):
        pass
    monkeypatch.setattr(os, "access", lambda *_: False)  # as of any user but root
    with pytest.raises(PermissionError, match="belongs to another user"):
        check_lock(tmp_path / "file")


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
