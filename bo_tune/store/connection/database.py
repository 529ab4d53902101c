"""The relational database below the studies, opened so that several processes can safely read and write it at once.

SQLite: a transaction that may write takes the write lock when it begins (``BEGIN IMMEDIATE``), so that none fails
half-way because another process was faster. A busy timeout bounds the wait for the lock. A new database appears in its
folder complete, in one step. PostgreSQL: the tables are created under one of the server's own locks. The server
disconnects a client that stops in the middle of a transaction, so that it holds nobody up. Other databases are refused.
Data in memory is also in a SQLite database, with one connection that threads take in turn.
"""

import os
import secrets
import sqlite3
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import quote

from alembic.util import CommandError
from optuna.exceptions import StorageInternalError
from optuna.storages import RDBStorage
from optuna.storages._rdb import models
from sqlalchemy import Connection, create_engine, event, inspect
from sqlalchemy.engine import URL, Engine
from sqlalchemy.exc import (
    ArgumentError,
    DBAPIError,
    IntegrityError,
    InterfaceError,
    NoSuchModuleError,
    OperationalError,
    SQLAlchemyError,
)
from sqlalchemy.pool import QueuePool

from bo_tune.core.choices import DEFAULT_STORAGE, MEMORY
from bo_tune.errors import StorageError, one_line
from bo_tune.processes.streams import hurry
from bo_tune.store.connection.sqlite_file import check_file, may_be_written, reading, refuse_network
from bo_tune.store.connection.url import parsed, shown, without_secrets
from bo_tune.store.leases.lease import LEASES

BACKENDS = frozenset(["sqlite", "postgresql"])
"""Kinds of databases on which leases are known to hold, by SQLAlchemy's names."""

KNOWN_SCHEMA = 12
"""Version of Optuna's tables (``models.SCHEMA_VERSION``) whose rows this package reads and writes itself."""

SQLITE_BUSY_TIMEOUT_S = 60

SQLITE_BUSY_LOOK_MS = 500
"""Longest single wait of a transaction for its turn in SQLite. Nothing can interrupt such a wait."""

OUTAGE_S = 60.0
"""Time that a database server may be away before a session gives up."""

CUTS = ("closed the connection unexpectedly", "terminating connection", "the database system is")
"""Messages of the server and its driver about a connection that was cut off while it was being made."""

READS = "bo_tune_reads"
"""Execution option of a connection that only reads. On SQLite it takes no lock that others wait for."""

_SCHEMA_LOCK = 0x626F5F74756E65  # "bo_tune"

Result = TypeVar("Result")


class DuplicateError(StorageError):
    """Another process has just written something that may exist only once."""


@contextmanager
def storage_errors(url: str) -> Iterator[None]:
    """Turn the database's errors into one line that names the place, without the URL's secrets."""
    try:
        yield
    except ArgumentError as error:
        known = f" ({one_line(error)})" if isinstance(error, NoSuchModuleError) else ""
        raise StorageError(
            f"{shown(url)}: expected a database URL{known}, for example {DEFAULT_STORAGE}; percent-encode special "
            "characters in a password"
        ) from None  # its text may hold the URL
    except (SQLAlchemyError, StorageInternalError) as error:
        cause: BaseException = error
        while (below := getattr(cause, "orig", None) or cause.__cause__) is not None:
            cause = below
        kind = DuplicateError if isinstance(error, IntegrityError) else StorageError
        raise kind(f"{shown(url)}: the database reported an error: {without_secrets(one_line(cause), url)}") from error


class Database:
    """The database below the studies. Safe to use from several threads.

    Args:
        url: of the database; shown in errors without its secrets.
        create: whether to create the database or its tables if they are missing.
        lease_s: how long leases hold. A server need not wait longer for a client that stopped half-way.
        only_read: whether nothing will be written, so that the database need not be writable.

    Attributes:
        lock: held while this process writes, so that rows of leases are never locked in two orders.
        busy_s: seconds spent in it, summed over threads, including waits for each other.

    Raises:
        StorageError: it cannot be opened, is not a database of studies, or has another schema version.
    """

    def __init__(self, url: str, *, create: bool, lease_s: float, only_read: bool = False) -> None:
        if models.SCHEMA_VERSION != KNOWN_SCHEMA:
            raise StorageError(
                f"the installed Optuna has tables of version {models.SCHEMA_VERSION}, but this version of bo_tune "
                f"knows only version {KNOWN_SCHEMA}"
            )
        self._url = url
        self.engine = _in_memory() if url == MEMORY else _opened(url, create and not only_read, lease_s, only_read)
        self.lock = threading.Lock()
        self.busy_s = 0.0
        if url == MEMORY:
            weakref.finalize(self, self.engine.dispose)

    def read(self, work: Callable[[Connection], Result]) -> Result:
        """Read a consistent state, and retry if the server was away. Raises StorageError."""

        def attempt() -> Result:
            with self.engine.connect().execution_options(**{READS: True}) as connection:
                return work(connection)

        with storage_errors(self._url), self._counted():
            return self._through_outages(attempt)

    def write(self, work: Callable[[Connection], Result], *, again: bool = True) -> Result:
        """Write in one transaction.

        Args:
            again: whether to retry if the server was away. If an attempt was cut off, its result is not known.

        Raises:
            DuplicateError: another process has just written something that may exist only once.
            StorageError: the database fails, or stays away.
        """

        def attempt() -> Result:
            with self.engine.begin() as connection:
                return work(connection)

        with storage_errors(self._url), self._counted(), self.lock:
            return self._through_outages(attempt) if again else attempt()

    def close(self) -> None:
        """Close the connections. A database in memory is gone with the last who holds it."""
        if self._url != MEMORY:
            self.engine.dispose()

    def _through_outages(self, work: Callable[[], Result]) -> Result:
        is_server = self.engine.dialect.name != "sqlite"
        return _again(work, lambda _attempt, error: is_server and _is_outage(error))

    @contextmanager
    def _counted(self) -> Iterator[None]:
        start = time.perf_counter()
        yield
        self.busy_s += time.perf_counter() - start


def _again(work: Callable[[], Result], is_worth_it: Callable[[int, BaseException], bool]) -> Result:
    """Do some work with the database, and retry it as long as the error makes that worth it.

    Args:
        is_worth_it: gets the number of the attempt, from 0, and its error.
    """
    give_up_at = time.monotonic() + OUTAGE_S
    attempt = 0
    while True:
        try:
            return work()
        except (SQLAlchemyError, StorageInternalError) as error:
            if not is_worth_it(attempt, error) or hurry.is_over or time.monotonic() > give_up_at:
                raise
        attempt += 1
        time.sleep(min(1.0, 0.05 * 2**attempt))


def _can_retry_opening(attempt: int, error: BaseException) -> bool:
    """Say whether another attempt may open a server: yes if it cut an attempt off.

    If it could not be reached in the first place, its address is probably wrong.
    """
    if not _is_outage(error):
        return False
    return attempt > 0 or getattr(error, "connection_invalidated", False) or any(cut in str(error) for cut in CUTS)


def _is_outage(error: BaseException) -> bool:
    if isinstance(error, StorageInternalError) and error.__cause__ is not None:
        error = error.__cause__
    if isinstance(error, OperationalError | InterfaceError):
        return True
    return isinstance(error, DBAPIError) and error.connection_invalidated


def _in_memory() -> Engine:
    engine = create_engine(
        "sqlite://",
        poolclass=QueuePool,
        pool_size=1,
        max_overflow=0,
        pool_timeout=SQLITE_BUSY_TIMEOUT_S,
        connect_args={"check_same_thread": False},
    )
    _have_transactions(engine)
    for tables in (models.BaseModel.metadata, LEASES.metadata):
        tables.create_all(engine, checkfirst=False)
    return engine


def _opened(url: str, create: bool, lease_s: float, only_read: bool) -> Engine:
    place = shown(url)
    try:
        with storage_errors(url):
            found = parsed(url)
            if _is_in_memory(found):
                raise StorageError(
                    f"{place}: this database is lost when its process exits; tune and grid have --storage {MEMORY} "
                    "for that"
                )
            if found.get_backend_name() not in BACKENDS:
                raise StorageError(
                    f"{place}: expected a SQLite or PostgreSQL database: {DEFAULT_STORAGE}, "
                    "postgresql+psycopg://USER@HOST/DATABASE"
                )
            file = _sqlite_file(found)
            if file is not None:
                refuse_network(place, file)
            check_file(place, file, create=create)
            if file is not None and not may_be_written(file):
                if not only_read:
                    raise StorageError(f"{place}: nothing can be written there; only show, report and export work")
                options = {**found.query, **reading(file), "uri": "true"}
                found = found.set(database=f"file:{quote(str(file))}", query=options)
                url = found.render_as_string(hide_password=False)
            if file is not None and not file.exists():
                _create_sqlite(found, file)

            def attempt() -> Engine:
                _check_database(url, place)
                return _open(url, found, create=create, lease_s=lease_s)

            return _again(attempt, _can_retry_opening if file is None else lambda *_: False)
    # Causes: another schema version; no driver for this kind of database; a revision that alembic does not know; a
    # value in the URL's query that the driver refuses.
    except (RuntimeError, ImportError, CommandError, TypeError, ValueError) as error:
        raise StorageError(f"{place}: {without_secrets(one_line(error), url)}") from error


def _is_in_memory(url: URL) -> bool:
    database = url.database or ":memory:"
    return url.get_backend_name() == "sqlite" and (":memory:" in database or url.query.get("mode") == "memory")


def _sqlite_file(url: URL) -> Path | None:
    file = url.database if url.get_backend_name() == "sqlite" else None
    return Path(file).absolute() if file and not file.startswith((":memory:", "file:")) else None


def _check_database(url: str, place: str) -> None:
    """Refuse a database that is not for studies, before Optuna would create its tables in it."""
    engine = create_engine(url)
    try:
        tables = set(inspect(engine).get_table_names())
    except TypeError as error:
        raise StorageError(
            f"{place}: the database's driver refuses the URL: {without_secrets(one_line(error), url)}"
        ) from None
    finally:
        engine.dispose()
    if tables and "studies" not in tables:
        raise StorageError(f"{place}: this is a database of something else (it has no table of studies)")


def _create_sqlite(url: URL, file: Path) -> None:
    """Create a database beside its place, then put it there unless another process was faster."""
    temporary = file.with_name(f".{file.name}.{os.getpid()}-{secrets.token_hex(4)}.tmp")
    try:
        storage = RDBStorage(url.set(database=str(temporary)).render_as_string(hide_password=False))
        try:
            LEASES.metadata.create_all(storage.engine)
            with storage.engine.connect() as connection:
                # With WAL, readers never wait for the writer.
                connection.exec_driver_sql("PRAGMA journal_mode=WAL")
        finally:
            storage.remove_session()
            storage.engine.dispose()
        if not file.exists():
            try:
                os.link(temporary, file)
            except FileExistsError:
                return
            except OSError:  # a file system without links
                temporary.rename(file)
    finally:
        for suffix in ("", "-wal", "-shm", "-journal"):
            with suppress(OSError):  # perhaps nothing could be written there in the first place
                temporary.with_name(temporary.name + suffix).unlink(missing_ok=True)


def _open(url: str, found: URL, *, create: bool, lease_s: float) -> Engine:
    if found.get_backend_name() == "sqlite":
        engine = RDBStorage(url, engine_kwargs={"connect_args": {"timeout": SQLITE_BUSY_TIMEOUT_S}}).engine
        with engine.connect() as connection:
            if found.query.get("mode") != "ro":
                # With WAL, readers never wait for the writer. It is set only now, so that a database that is refused
                # stays as it was.
                connection.exec_driver_sql("PRAGMA journal_mode=WAL")
        engine.dispose()  # the connections so far begin transactions in their own way
        _have_transactions(engine)
        if create:
            _create_leases(engine)
        return engine
    with _schema_locked(url):
        engine = RDBStorage(url).engine
        if create:
            _create_leases(engine)
    event.listen(engine, "connect", _limiting_idleness(lease_s))
    engine.dispose()
    return engine


def _create_leases(engine: Engine) -> None:
    with engine.connect().execution_options(**{READS: True}) as connection:
        missing = not inspect(connection).has_table(LEASES.name)
    if missing:
        with engine.begin() as connection:  # on SQLite no other process comes between looking and creating
            LEASES.metadata.create_all(connection)


@contextmanager
def _schema_locked(url: str) -> Iterator[None]:
    """Keep other processes from creating the tables on a server at the same time."""
    engine = create_engine(url)
    try:
        with engine.connect() as connection:
            connection.exec_driver_sql(f"SELECT pg_advisory_lock({_SCHEMA_LOCK})")
            try:
                yield
            finally:
                connection.exec_driver_sql(f"SELECT pg_advisory_unlock({_SCHEMA_LOCK})")
    finally:
        engine.dispose()


def _have_transactions(engine: Engine) -> None:
    """Make the transactions of a SQLite engine begin as ``_begin_sqlite`` does."""
    event.listen(engine, "connect", _configure_sqlite)
    event.listen(engine, "begin", _begin_sqlite)


def _configure_sqlite(connection: sqlite3.Connection, _: object) -> None:
    connection.isolation_level = None  # ``_begin_sqlite`` begins transactions
    # Enough in WAL mode for a killed process to lose nothing. Only a power cut may lose the last transactions.
    connection.execute("PRAGMA synchronous=NORMAL")
    connection.execute(f"PRAGMA busy_timeout={SQLITE_BUSY_LOOK_MS}")


def _begin_sqlite(connection: Connection) -> None:
    if connection.get_execution_options().get(READS):
        connection.exec_driver_sql("BEGIN")
        return
    give_up_at = time.monotonic() + SQLITE_BUSY_TIMEOUT_S
    while True:
        try:
            connection.exec_driver_sql("BEGIN IMMEDIATE")
        except OperationalError as error:
            code = getattr(error.orig, "sqlite_errorcode", 0) & 0xFF
            if code == sqlite3.SQLITE_READONLY:
                connection.exec_driver_sql("BEGIN")  # only reading is possible here; a write will say why it fails
                return
            if code != sqlite3.SQLITE_BUSY or hurry.is_over or time.monotonic() > give_up_at:
                raise
        else:
            return


def _limiting_idleness(seconds: float) -> Callable[[Any, object], None]:
    """Return a hook for new connections that has the server end a session that stops inside a transaction.

    The limit is this many seconds, at least one. Such a session may hold a lease's row.
    """
    statement = f"SET idle_in_transaction_session_timeout = {max(1000, int(1000 * seconds))}"

    def configure(connection: Any, _: object) -> None:
        with connection.cursor() as cursor:
            cursor.execute(statement)
        connection.commit()

    return configure
