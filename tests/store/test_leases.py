"""Leases on SQLite and PostgreSQL: one holder at a time, and nothing written by one that has lost it."""

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from datetime import datetime
from pathlib import Path

import forked
import pytest
from helpers import H100, sqlite_url
from optuna.trial import FrozenTrial
from postgres import Postgres
from sqlalchemy import insert, select, update
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.exc import DBAPIError

from bo_tune.core.outcome import Measurement
from bo_tune.core.problem import LoraProblem
from bo_tune.core.study_name import StudyName
from bo_tune.errors import LeaseLostError, StorageError
from bo_tune.processes.identity import is_gone, process_name, this_process
from bo_tune.store.attributes import RESULT_ATTR
from bo_tune.store.frozen import to_trial
from bo_tune.store.leases.lease import LEASES, DatabaseNow, Leases
from bo_tune.store.storage import StoredStudy, StudyStore

pytestmark = pytest.mark.slow

CONFIG = {"block_n": 32, "block_k": 64, "num_warps": 4, "num_stages": 2, "split_k": 8, "num_ctas": 1}
NOW = datetime(2026, 1, 2, 3, 4, 5)
LONG, SHORT = 60.0, 1.0
"""Leases, in seconds: the short one is long beside what a loaded machine takes for a statement."""


def name(m: int = 1) -> StudyName:
    return StudyName(LoraProblem("lora_shrink", 4, 1, m, 4096, 16), H100.name, "x")


def trial(block_m: int) -> FrozenTrial:
    return to_trial({**CONFIG, "block_m": block_m}, Measurement((5.0,)), start=NOW, end=NOW)


@pytest.fixture(params=["sqlite", "postgresql"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """An empty database."""
    if request.param == "sqlite":
        return sqlite_url(tmp_path / "x.db")
    server: Postgres = request.getfixturevalue("postgres")
    return server.new_database()


@pytest.fixture
def connect(url: str) -> Iterator[Callable[..., StudyStore]]:
    """Opens the database as another worker each time."""
    opened: list[StudyStore] = []

    def connect(lease_s: float = LONG) -> StudyStore:
        opened.append(StudyStore(url, lease_s=lease_s))
        return opened[-1]

    yield connect
    for store in opened:
        store.close()


def stop_renewing(store: StudyStore) -> None:
    """Have a worker renew its leases no more, a renewal under way finished first."""
    assert store._keeper._heart is not None
    store._keeper._closing.set()
    store._keeper._heart.join()


def sleep_through_lease(store: StudyStore, lease_s: float = SHORT) -> None:
    """Have a worker with a short lease sleep through it, as SIGSTOP would."""
    stop_renewing(store)
    time.sleep(1.2 * lease_s)


def params(study: StoredStudy) -> list[int]:
    return [t.params["block_m"] for t in study.trials()]


def test_one_worker_at_a_time(connect: Callable[..., StudyStore]) -> None:
    first, second = connect().open(name(), H100), connect().open(name(), H100)
    assert first.take()
    assert not second.take()
    assert not first.take()  # whoever has it has it once
    first.release()
    assert second.take()


def test_of_many_that_take_at_once_one_succeeds(connect: Callable[..., StudyStore]) -> None:
    studies = [connect().open(name(), H100) for _ in range(6)]
    together = threading.Barrier(len(studies))

    def take(study: StoredStudy) -> bool:
        together.wait()
        return study.take()

    for _ in range(3):
        with ThreadPoolExecutor(len(studies)) as threads:
            taken = list(threads.map(take, studies))
        assert sum(taken) == 1
        studies[taken.index(True)].release()


def test_a_lease_is_kept_for_as_long_as_its_worker_lives(connect: Callable[..., StudyStore]) -> None:
    first, second = connect(SHORT), connect(SHORT)
    study, other = first.open(name(), H100), second.open(name(), H100)
    assert study.take()
    time.sleep(2.5 * SHORT)
    assert not other.take()
    study.add(trial(16))
    assert params(other) == [16]


def test_one_that_slept_past_its_lease_writes_nothing_any_more(connect: Callable[..., StudyStore]) -> None:
    first, second = connect(SHORT), connect(LONG)
    study, other = first.open(name(), H100), second.open(name(), H100)
    assert study.take()
    study.add(trial(16))
    told: list[int] = []
    sleep_through_lease(first)
    assert other.take()
    assert params(other) == [16], "who takes over goes on from what is recorded"
    other.add(trial(32))
    study.add_soon(trial(64), lambda: told.append(64))
    with pytest.raises(LeaseLostError):
        study.flush()
    for write in (
        lambda: study.add(trial(64)),
        lambda: study.set_attribute(RESULT_ATTR, {"time_us": 1.0}),
        study.fail_running,
    ):
        with pytest.raises(LeaseLostError):
            write()
    other.add(trial(128))
    assert params(other) == [16, 32, 128]
    assert [t.number for t in other.trials()] == [0, 1, 2]
    assert other.attribute(RESULT_ATTR) is None
    assert told == []


def test_an_expired_lease_writes_nothing_even_if_nobody_took_it(connect: Callable[..., StudyStore]) -> None:
    store = connect(SHORT)
    study = store.open(name(), H100)
    assert study.take()
    sleep_through_lease(store)
    with pytest.raises(LeaseLostError):
        study.add(trial(16))
    assert study.take(), "it may be taken anew"
    study.add(trial(16))
    assert params(study) == [16]


def test_trials_of_an_earlier_lease_are_not_stored_under_a_later_one(connect: Callable[..., StudyStore]) -> None:
    """A worker that lost a study and took it again has trials of before still on their way."""
    lease_s = 3 * SHORT  # the second one, not renewed either, must outlast a write on a busy host
    first, second = connect(lease_s), connect(LONG)
    study, other = first.open(name(), H100), second.open(name(), H100)
    assert study.take()
    late = study._writer
    sleep_through_lease(first, lease_s)
    assert other.take()
    other.add(trial(32))
    other.release()
    assert study.take()
    assert first._insert([(late, trial(64)), (study._writer, trial(128))]) == {late}
    assert params(study) == [32, 128]


def test_a_lost_lease_takes_no_other_study_down(connect: Callable[..., StudyStore]) -> None:
    store, thief = connect(), connect()
    studies = [store.open(name(m), H100) for m in (1, 2, 3)]
    assert all(study.take() for study in studies)
    with thief._database.engine.begin() as connection:
        row = LEASES.c.study_id == studies[1].study_id
        connection.execute(update(LEASES).where(row).values(token=LEASES.c.token + 1))
    told: list[int] = []
    with store._database.lock:  # all in one transaction
        for m, study in enumerate(studies):
            study.add_soon(trial(16), lambda m=m: told.append(m))  # type: ignore[misc]
    studies[0].flush()
    studies[2].flush()
    with pytest.raises(LeaseLostError):
        studies[1].flush()
    assert [params(study) for study in studies] == [[16], [], [16]]
    assert sorted(told) == [0, 2]


def test_a_write_that_was_cut_off_after_it_succeeded_is_not_done_twice(connect: Callable[..., StudyStore]) -> None:
    store = connect()
    first, second = (store.open(name(m), H100) for m in (1, 2))
    assert first.take()
    assert second.take()
    leases: Leases = store._keeper.leases
    both = {(first.study_id, first._token), (second.study_id, second._token)}
    with store._database.engine.begin() as connection:
        attempts: list[int] = []
        assert leases.fence(connection, both, attempts) == (both, set())  # type: ignore[arg-type]
    second.release()
    assert second.take()
    with store._database.engine.begin() as connection:
        now = {(first.study_id, first._token), (second.study_id, second._token)}
        kept, written = leases.fence(connection, now, attempts)  # type: ignore[arg-type]
        assert kept == {(second.study_id, second._token)}
        assert written == {(first.study_id, first._token)}


def test_who_works_on_what_is_told(connect: Callable[..., StudyStore]) -> None:
    store, other = connect(), connect()
    study = store.open(name(), H100)
    assert store.holders() == {}
    assert study.take()
    (holder,) = other.holders().values()
    assert (holder.study_id, holder.pid, holder.mine) == (study.study_id, os.getpid(), False)
    assert 0 <= holder.age_s < 30
    time.sleep(0.6)
    assert [holder.mine for holder in store.holders().values()] == [True]


def test_the_lease_of_a_process_that_died_here_is_free_at_once(connect: Callable[..., StudyStore], url: str) -> None:
    program = (
        "import sys, time\nfrom bo_tune.store.storage import StudyStore\n"
        "store = StudyStore(sys.argv[1]); (summary,) = store.summaries()\n"
        "assert store.load(summary.name).take(); print('taken', flush=True); time.sleep(60)"
    )
    study = connect().open(name(), H100)
    with forked.Popen([sys.executable, "-c", program, url], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"taken\n"
        assert not study.take()
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert study.take()


def test_closing_gives_leases_back(connect: Callable[..., StudyStore]) -> None:
    store, other = connect(), connect()
    assert store.open(name(), H100).take()
    store.close()
    assert other.open(name(), H100).take()


def test_a_server_that_was_away_is_waited_for(postgres: Postgres) -> None:
    store = StudyStore(postgres.new_database())
    with closing(store):
        study = store.open(name(), H100)
        assert study.take()
        study.add(trial(16))
        postgres.stop()
        with ThreadPoolExecutor(1) as threads:
            added = threads.submit(study.add, trial(32))
            time.sleep(0.3)
            assert not added.done()
            postgres.start()
            added.result(30)
        study.set_attribute(RESULT_ATTR, {"time_us": 1.0})
        assert params(study) == [16, 32]
        assert study.attribute(RESULT_ATTR) == {"time_us": 1.0}


def test_a_server_that_stays_away_is_an_error(postgres: Postgres, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bo_tune.store.connection.database.OUTAGE_S", 0.3)
    store = StudyStore(postgres.new_database())
    study = store.open(name(), H100)
    postgres.stop()
    try:
        with pytest.raises(StorageError, match="the database reported an error"):
            study.trials()
    finally:
        postgres.start()
        store.close()


@pytest.mark.parametrize("url", ["postgresql"], indirect=True)
def test_a_server_cuts_off_who_stops_in_the_middle_of_a_transaction(url: str) -> None:
    """Else the row of its lease would stay locked for as long as it sleeps."""
    sleeper, other = StudyStore(url, lease_s=1.0), StudyStore(url)
    study = sleeper.open(name(), H100)
    assert study.take()
    stop_renewing(sleeper)
    connection = sleeper._database.engine.connect()
    held = {(study.study_id, study._token)}
    assert sleeper._keeper.leases.fence(connection, held, []) == (held, set())  # type: ignore[arg-type]
    time.sleep(1.2)  # the lease is over, its row still locked
    began = time.monotonic()
    assert other.open(name(), H100).take()
    assert time.monotonic() - began < 10
    with pytest.raises(DBAPIError):
        connection.execute(select(LEASES))
    connection.invalidate()
    connection.close()
    for store in (sleeper, other):
        store.close()


@pytest.mark.parametrize("dialect", [sqlite, postgresql])
def test_every_dialect_has_a_clock(dialect: object) -> None:
    statement = update(LEASES).where(LEASES.c.expires_at <= DatabaseNow()).values(expires_at=DatabaseNow() + 30.0)
    text = str(statement.compile(dialect=dialect.dialect()))  # type: ignore[attr-defined]
    clock = {"sqlite": "julianday", "postgresql": "clock_timestamp"}
    assert text.count(clock[dialect.__name__.rpartition(".")[2]]) == 2  # type: ignore[attr-defined]


def test_the_clock_is_that_of_the_world(connect: Callable[..., StudyStore]) -> None:
    with connect()._database.engine.connect() as connection:
        now = connection.scalar(select(DatabaseNow()))
    assert abs(now - time.time()) < 2


def test_processes_are_told_apart() -> None:
    mine = this_process()
    assert mine == process_name(os.getpid())
    assert not is_gone(mine)
    boot, namespace, pid, started = mine.split(" ")
    assert is_gone(f"{boot} {namespace} {pid} {int(started) - 1}"), "another that had the same number before"
    assert not is_gone(f"another-boot {namespace} {pid} {int(started) - 1}"), "of another machine nothing is known"
    assert not is_gone(f"{boot} pid:[1] {pid} {int(started) - 1}"), "nor of another container"
    assert not is_gone("")
    with subprocess.Popen(["sleep", "60"]) as process:
        named = process_name(process.pid)
        assert not is_gone(named)
        process.kill()
    assert is_gone(named)


def test_a_lease_of_one_who_never_said_where_it_is_expires_by_itself(connect: Callable[..., StudyStore]) -> None:
    study = connect().open(name(), H100)
    row = {"study_id": study.study_id, "token": 7, "worker": "w", "host": "h", "pid": 1, "process": "", "last_write": 0}
    with connect()._database.engine.begin() as connection:
        connection.execute(
            insert(LEASES).values({**row, "renewed_at": DatabaseNow(), "expires_at": DatabaseNow() + SHORT})
        )
    assert not study.take()
    time.sleep(1.2 * SHORT)
    assert study.take()
    assert study._token == 8
