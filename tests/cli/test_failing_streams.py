"""Streams that fail under a real command: the run goes on, what it found is written, and one signal ends it."""

import fcntl
import json
import os
import select
import signal
import sqlite3
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import closing
from pathlib import Path

import forked
import pytest
from helpers import (
    EXPAND,
    EXPAND_TABLE,
    PATIENCE_S,
    SHRINK,
    SHRINK_TABLE,
    command,
    run_command,
    sliced,
    sqlite_url,
    write_all,
)

pytestmark = pytest.mark.slow

FULL = Path("/dev/full")
ENDS_WITHIN_S = 5.0
"""After one signal."""

HOW = [(), ("--workers", "2")]


@pytest.fixture
def tune(tmp_path: Path) -> list[str]:
    """A run that soon comes to its end."""
    return tuning(tmp_path, (16,))


@pytest.fixture
def long_tune(tmp_path: Path) -> list[str]:
    """A run that prints more than a pipe holds, and is under way for a while."""
    return tuning(tmp_path, (16, 32, 64, 128, 256, 512))


def tuning(folder: Path, ms: Sequence[int]) -> list[str]:
    recordings = write_all(folder / "recordings", *(sliced(name, m=m) for name in (SHRINK, EXPAND) for m in ms))
    where = ("--device", f"replay:{recordings}", "--storage", sqlite_url(folder / "a.db"), "--out", folder / "out")
    return command("tune", *where, "--sampler", "random", "--budget", 15, "--verbose")


def assert_all_is_written(folder: Path) -> None:
    for name in (SHRINK_TABLE, EXPAND_TABLE):
        assert json.loads((folder / "out" / name).read_text())


def leases(folder: Path) -> int:
    """Count the studies that somebody holds."""
    with closing(sqlite3.connect(folder / "a.db")) as database:
        held = "select count(*) from bo_tune_leases where expires_at > ?"
        try:
            return int(database.execute(held, [time.time()]).fetchone()[0])
        except sqlite3.OperationalError:  # a database that is being made
            return 0


@pytest.mark.parametrize("how", HOW, ids=" ".join)
def test_a_reader_that_goes_away_does_not_end_a_run(long_tune: list[str], how: tuple[str, ...], tmp_path: Path) -> None:
    with forked.Popen([*long_tune, *how], cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline()
        process.stdout.close()
        assert process.wait(PATIENCE_S) == 0
        assert process.stderr is not None
        assert process.stderr.read() == b""
    assert_all_is_written(tmp_path)
    assert leases(tmp_path) == 0


@pytest.mark.skipif(not FULL.exists(), reason="there is no full device")
@pytest.mark.parametrize("how", HOW, ids=" ".join)
def test_a_full_stdout_is_told_at_the_end(tune: list[str], how: tuple[str, ...], tmp_path: Path) -> None:
    with FULL.open("w") as full:
        done = forked.run(
            [*tune, *how], cwd=tmp_path, stdout=full, stderr=subprocess.PIPE, timeout=PATIENCE_S, check=False
        )
    assert (done.returncode, done.stderr) == (1, b"bo-tune: stdout: No space left on device\n")
    assert_all_is_written(tmp_path)


@pytest.mark.parametrize("closed", [">&-", "2>&-", "<&- >&- 2>&-"])
def test_closed_streams_change_nothing(tune: list[str], closed: str, tmp_path: Path) -> None:
    done = subprocess.run(
        ["sh", "-c", f'exec "$@" {closed}', "sh", *tune], cwd=tmp_path, capture_output=True, timeout=PATIENCE_S
    )
    assert done.returncode == 0
    assert done.stderr == b""
    assert_all_is_written(tmp_path)


@pytest.fixture
def blocked(long_tune: list[str], tmp_path: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A run under way whose stdout nobody reads any more, so that it waits."""
    with forked.Popen(long_tune, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        fcntl.fcntl(process.stdout, fcntl.F_SETPIPE_SZ, select.PIPE_BUF)
        while b"recorded" not in process.stdout.readline():
            assert process.poll() is None
        yield process
        process.kill()


@pytest.mark.skipif(not hasattr(fcntl, "F_SETPIPE_SZ"), reason="pipes are of one size")
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP], ids=lambda n: n.name)
def test_one_signal_ends_a_run_that_waits_for_its_reader(
    blocked: subprocess.Popen[bytes], number: signal.Signals, tmp_path: Path
) -> None:
    assert leases(tmp_path)
    time.sleep(2)
    assert blocked.poll() is None
    began = time.monotonic()
    blocked.send_signal(number)
    assert blocked.wait(PATIENCE_S) == 130
    assert time.monotonic() - began < ENDS_WITHIN_S
    assert leases(tmp_path) == 0


def test_nohup_is_heeded(long_tune: list[str], tmp_path: Path) -> None:
    nohup = ["nohup", *long_tune]
    with subprocess.Popen(nohup, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as process:
        assert process.stdout is not None
        assert process.stdout.readline()
        process.send_signal(signal.SIGHUP)
        assert process.stdout.read()
        assert process.wait(PATIENCE_S) == 0


def test_who_has_seen_enough_of_a_table_is_no_fault(tune: list[str], tmp_path: Path) -> None:
    assert run_command(*tune[1:], cwd=tmp_path).code == 0
    for words in (("show", "--storage", sqlite_url(tmp_path / "a.db")), ("tune", "--help")):
        reads, writes = os.pipe()
        os.close(reads)
        done = forked.run(command(*words), cwd=tmp_path, stdout=writes, stderr=subprocess.PIPE, check=False)
        os.close(writes)
        assert (done.returncode, done.stderr) == (0, b"")
