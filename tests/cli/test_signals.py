"""One signal ends any run within seconds, whatever it waits for, and its leases are given back."""

import os
import shutil
import signal
import sqlite3
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path

import forked
import pytest
from helpers import BUNDLED, EXPAND_DECODE, PATIENCE_S, ROOT, SHRINK, command, sqlite_url
from postgres import Postgres
from sqlalchemy import create_engine, func, select
from sqlalchemy.exc import DBAPIError

from bo_tune.processes.exit_codes import INTERRUPTED
from bo_tune.store.leases.lease import LEASES, DatabaseNow
from bo_tune.store.storage import StudyStore

pytestmark = pytest.mark.slow

ENDS_WITHIN_S = 5.0
"""After one signal."""

HOW = [(), ("--workers", "2")]

ALIVE = 0.3
"""Seconds in which a run that was not asked to end does not."""

SCRIPT = """
import time
from helpers import FakeDevice
from test_api import PROBLEMS, SPEC, bo_tune, softmax

slow = FakeDevice(lambda config: 10.0, SPEC.search_space, on_measure=lambda config: time.sleep(0.2))
print("begins", flush=True)
bo_tune.tune(softmax, PROBLEMS, device=slow, storage={url!r}, stop=False)
"""


class Run:
    """A run under way, in a process group of its own."""

    def __init__(self, folder: Path, words: list[str]) -> None:
        self._folder, self._log = folder, folder / "log"
        with self._log.open("wb") as log:
            self.process = forked.Popen(words, cwd=folder, stdout=log, stderr=log, start_new_session=True)

    def until(self, text: str) -> None:
        """Wait until it has printed something."""
        end = time.monotonic() + PATIENCE_S
        while text not in self.said():
            assert self.process.poll() is None, self.said()
            assert time.monotonic() < end, self.said()
            time.sleep(0.02)

    def said(self) -> str:
        """What it has printed so far."""
        return self._log.read_text()

    def end(self, number: signal.Signals) -> int:
        """Send it a signal; it ends in time, without a traceback, and nothing it has started outlives it for long."""
        time.sleep(ALIVE)
        assert self.process.poll() is None, self.said()
        began = time.monotonic()
        self.process.send_signal(number)
        code = self.process.wait(PATIENCE_S)
        assert time.monotonic() - began < ENDS_WITHIN_S
        assert "Traceback" not in self.said()
        while self._left():
            assert time.monotonic() - began < 2 * ENDS_WITHIN_S, "a child outlives it"
            time.sleep(0.05)
        return code

    def _left(self) -> list[Path]:
        return [place for place in Path("/proc").glob("[0-9]*") if _current_folder(place) == self._folder]


def _current_folder(place: Path) -> Path | None:
    try:
        return (place / "cwd").readlink()
    except OSError:  # it has ended, or is another's
        return None


Start = Callable[..., Run]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """Starts a command beside two recordings, which are read soon and take a while; nothing of it outlives the test."""
    started: list[Run] = []
    (tmp_path / "recordings").mkdir()
    for name in (SHRINK, EXPAND_DECODE):
        shutil.copy(BUNDLED / name, tmp_path / "recordings")

    def start(*words: object) -> Run:
        started.append(Run(tmp_path, list(map(str, words))))
        return started[-1]

    yield start
    for run in started:
        if run.process.poll() is None:
            os.killpg(run.process.pid, signal.SIGKILL)
            run.process.wait()


def tune(url: str, *more: object) -> list[str]:
    """Return the command of a long run."""
    where = ("--device", "replay:recordings", "--storage", url, "--out", "out", "--verbose")
    return command("tune", *where, "--sampler", "random", "--budget", 1000, "--no-stop", *more)


def leases(url: str) -> int:
    """Count the studies that somebody holds."""
    engine = create_engine(url)
    with engine.connect() as connection:
        held = select(func.count()).select_from(LEASES).where(LEASES.c.expires_at > DatabaseNow())
        found = connection.scalar(held)
    engine.dispose()
    return found or 0


@contextmanager
def locked(file: Path) -> Iterator[None]:
    """Hold a database's only lock for writers."""
    with closing(sqlite3.connect(file, timeout=PATIENCE_S, isolation_level=None)) as connection:
        connection.execute("BEGIN IMMEDIATE")
        yield
        connection.execute("ROLLBACK")


@pytest.mark.parametrize("how", HOW, ids=" ".join)
def test_a_run_whose_database_is_locked(start: Start, how: tuple[str, ...], tmp_path: Path) -> None:
    url = sqlite_url(tmp_path / "x.db")
    run = start(*tune(url, *how))
    run.until("recorded")
    with locked(tmp_path / "x.db"):
        assert run.end(signal.SIGTERM) == INTERRUPTED
    with StudyStore(url) as store:
        assert not store.holders(), "what could not be given back is of a process that is gone"


def test_a_run_whose_server_has_stopped_answering(start: Start, postgres: Postgres) -> None:
    url = postgres.new_database()
    run = start(*tune(url))
    run.until("recorded")
    with postgres.suspended():
        assert run.end(signal.SIGTERM) == INTERRUPTED


def test_a_run_on_a_server_gives_its_leases_back(start: Start, postgres: Postgres) -> None:
    url = postgres.new_database()
    run = start(*tune(url, "--workers", 2))
    run.until("recorded")
    assert leases(url)
    assert run.end(signal.SIGXCPU) == INTERRUPTED
    assert leases(url) == 0


def test_a_worker_that_waits_for_others(start: Start, tmp_path: Path) -> None:
    url = sqlite_url(tmp_path / "x.db")
    first = start(*tune(url))
    first.until("recorded")
    with StudyStore(url) as store:
        assert first.end(signal.SIGINT) == INTERRUPTED
        assert all(store.load(summary.name).take() for summary in store.summaries())
        run = start(*command("worker", "--device", "replay:recordings", "--storage", url))
        run.until("waiting ")
        assert run.end(signal.SIGTERM) == INTERRUPTED


def test_a_run_that_is_killed_leaves_no_child(start: Start, tmp_path: Path) -> None:
    run = start(*tune(sqlite_url(tmp_path / "x.db"), "--workers", 2))
    run.until("recorded")
    assert run.end(signal.SIGKILL) == -signal.SIGKILL


def test_a_script_that_tunes(start: Start, tmp_path: Path) -> None:
    url, script = sqlite_url(tmp_path / "x.db"), tmp_path / "script.py"
    script.write_text(f"import sys\nsys.path.append({str(ROOT / 'tests')!r})\n{SCRIPT.format(url=url)}")
    run = start(sys.executable, script)
    run.until("begins")
    wait_for_a_lease(url)
    assert run.end(signal.SIGTERM) == -signal.SIGTERM
    assert leases(url) == 0


def wait_for_a_lease(url: str) -> None:
    """Wait until somebody works on a study of a database."""
    end = time.monotonic() + PATIENCE_S
    while time.monotonic() < end:
        with suppress(DBAPIError):  # it is being made
            if leases(url):
                return
        time.sleep(0.02)
    raise AssertionError("nobody works")
