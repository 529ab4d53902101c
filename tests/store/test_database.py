"""Opening databases: created once however many come at once, and refused where locks do not hold."""

import os
import sqlite3
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

import forked
import optuna
import pytest
from helpers import H100, PATIENCE_S, sqlite_url
from postgres import Postgres
from sqlalchemy import text

from bo_tune.core.problem import LoraProblem
from bo_tune.core.study_name import StudyName
from bo_tune.errors import StorageError
from bo_tune.store.connection import database, sqlite_file
from bo_tune.store.connection.sqlite_file import network_filesystem
from bo_tune.store.storage import StudyStore

MOUNTS = """\
overlay / overlay rw,relatime 0 0
/dev/vda /home ext4 rw 0 0
server:/export /home/shared nfs4 rw,vers=4.2 0 0
//nas/x /mnt/with\\040space cifs rw 0 0
me@host:/x /home/me/there fuse.sshfs rw 0 0
tmpfs /home/shared/scratch tmpfs rw 0 0
"""


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("/home/x.db", None),
        ("/home/shared/x.db", "nfs4"),
        ("/home/shared/deep/er/x.db", "nfs4"),
        ("/home/sharedx/x.db", None),
        ("/home/shared/scratch/x.db", None),
        ("/mnt/with space/x.db", "cifs"),
        ("/home/me/there/x.db", "fuse.sshfs"),
        ("/elsewhere/x.db", None),
    ],
)
def test_file_systems_that_hosts_share_are_known(path: str, expected: str | None) -> None:
    assert network_filesystem(Path(path), MOUNTS) == expected


def test_sqlite_on_a_network_share_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mounts = tmp_path / "mounts"
    mounts.write_text(f"overlay / overlay rw 0 0\nserver:/x {tmp_path.resolve()} nfs rw 0 0\n")
    monkeypatch.setattr(sqlite_file, "_MOUNTS", mounts)
    with pytest.raises(StorageError, match=r"network file system \(nfs\); .*postgresql") as caught:
        StudyStore(sqlite_url(tmp_path / "x.db"))
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "x.db").exists()


@pytest.mark.slow
def test_processes_that_create_a_database_at_once_all_find_it(tmp_path: Path) -> None:
    program = (
        "import sys; from bo_tune.store.storage import StudyStore\nsys.stdin.read()\n"
        "store = StudyStore(sys.argv[1]); store.summaries(); store.close()"
    )
    url = sqlite_url(tmp_path / "x.db")
    ready, go = os.pipe()
    processes = [
        forked.Popen([sys.executable, "-c", program, url], stdin=ready, stderr=subprocess.PIPE, text=True)
        for _ in range(5)
    ]
    os.close(ready)
    os.close(go)
    for process in processes:
        _, error = process.communicate(timeout=PATIENCE_S)
        assert process.returncode == 0, error
    assert {p.name.removesuffix("-wal").removesuffix("-shm") for p in tmp_path.iterdir()} == {"x.db"}


def test_tables_on_a_server_are_created_once(postgres: Postgres) -> None:
    url = postgres.new_database()
    together = threading.Barrier(6)

    def open_it(_: int) -> StudyStore:
        together.wait()
        return StudyStore(url)

    with ThreadPoolExecutor(6) as threads:
        stores = list(threads.map(open_it, range(6)))
    name = StudyName(LoraProblem("lora_shrink", 4, 1, 16, 4096, 16), H100.name, "x")
    with ThreadPoolExecutor(6) as threads:
        studies = list(threads.map(lambda store: store.open(name, H100), stores))
    assert len({study.study_id for study in studies}) == 1
    for store in stores:
        store.close()


def test_a_server_that_cuts_off_who_opens_its_database_is_asked_again(postgres: Postgres) -> None:
    url = postgres.new_database()
    began = time.monotonic()
    with postgres.cutting(url, every_s=0.01, for_s=1.0):
        StudyStore(url).close()
    assert time.monotonic() - began > 1.0, "it was cut off"


def test_a_server_that_is_not_there_is_said_at_once() -> None:
    began = time.monotonic()
    with pytest.raises(StorageError, match="refused"):
        StudyStore("postgresql+psycopg://tuner@127.0.0.1:9/studies")
    assert time.monotonic() - began < 5.0


def test_a_database_of_before_there_were_leases_gets_them(tmp_path: Path) -> None:
    file = tmp_path / "old.db"
    storage = optuna.storages.RDBStorage(sqlite_url(file))
    storage.engine.dispose()
    reading = StudyStore(sqlite_url(file), create=False)
    assert reading.holders() == {}
    reading.close()
    store = StudyStore(sqlite_url(file))
    name = StudyName(LoraProblem("lora_shrink", 4, 1, 16, 4096, 16), H100.name, "x")
    assert store.open(name, H100).take()
    store.close()


def test_writers_on_sqlite_wait_from_the_start_of_a_transaction(tmp_path: Path) -> None:
    """None fails half-way because another wrote after it had read."""
    stores = [StudyStore(sqlite_url(tmp_path / "x.db")) for _ in range(2)]
    engines = [store._database.engine for store in stores]

    def count(engine: object) -> None:
        for _ in range(20):
            with engine.begin() as connection:  # type: ignore[attr-defined]
                value = connection.execute(text("SELECT COUNT(*) FROM studies")).scalar_one()
                connection.execute(text(f"INSERT INTO studies (study_name) VALUES ('{value}')"))

    with ThreadPoolExecutor(2) as threads:
        list(threads.map(count, engines))
    for store in stores:
        store.close()
    with closing(sqlite3.connect(tmp_path / "x.db")) as connection:
        names = [int(row[0]) for row in connection.execute("SELECT study_name FROM studies ORDER BY study_id")]
    assert names == list(range(40))


def test_passwords_are_not_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(database, "OUTAGE_S", 0.0)
    with pytest.raises(StorageError) as caught:
        StudyStore("postgresql+psycopg://tuner:secret@127.0.0.1:1/studies")
    assert "secret" not in str(caught.value)
    assert "tuner" in str(caught.value)


@pytest.mark.parametrize(
    "url", ["sqlite://", "sqlite:///", "sqlite:///:memory:", "sqlite:///file::memory:?uri=true",
            "sqlite:///file:x?mode=memory&uri=true", "sqlite+pysqlite:///:memory:"],
)  # fmt: skip
def test_a_database_in_memory_is_of_no_use(url: str) -> None:
    for only_read in (False, True):
        with pytest.raises(StorageError, match=r"is lost when its process exits; tune and grid have --storage memory"):
            StudyStore(url, only_read=only_read)


@pytest.mark.parametrize("scheme", ["mysql", "mysql+pymysql", "mariadb", "mssql+pyodbc", "oracle", "x"])
@pytest.mark.parametrize("only_read", [False, True])
def test_databases_of_other_kinds_are_refused(scheme: str, only_read: bool) -> None:
    """Before their drivers are looked for: that one is missing would be the wrong advice."""
    with pytest.raises(StorageError) as caught:
        StudyStore(f"{scheme}://tuner:secret@db/studies", only_read=only_read)
    assert str(caught.value) == (
        f"{scheme}://tuner:***@db/studies: expected a SQLite or PostgreSQL database: sqlite:///bo_tune.db, postgresql+psycopg://USER@HOST/DATABASE"
    )


def test_a_query_that_the_driver_refuses_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match=r"x\.db.timeout=abc: could not convert string to float: 'abc'"):
        StudyStore(f"{sqlite_url(tmp_path / 'x.db')}?timeout=abc")


def test_an_empty_file_is_no_database_to_look_at(tmp_path: Path) -> None:
    (tmp_path / "x.db").touch()
    with pytest.raises(StorageError, match="an empty file, not a database"):
        StudyStore(sqlite_url(tmp_path / "x.db"), only_read=True)
    assert not (tmp_path / "x.db").stat().st_size
    StudyStore(sqlite_url(tmp_path / "x.db")).close()
    assert (tmp_path / "x.db").stat().st_size
