"""Opens a database of studies for reading. SQLite files are read by Python's own module, which loads nothing else."""

import os
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar
from urllib.parse import quote, urlencode

from bo_tune.errors import StorageError, one_line
from bo_tune.store.connection.sqlite_file import check_file, may_be_written, plain_file, reading, refuse_network
from bo_tune.store.leases import holders
from bo_tune.store.leases.holders import Holder, read_holders
from bo_tune.store.reader import StudyReader
from bo_tune.store.rows.study_reader import StudyRows
from bo_tune.store.trials import StoredTrial

if TYPE_CHECKING:
    from bo_tune.store.storage import StudyStore

KNOWN_REVISION = "v3.2.0.a"
"""Revision of Optuna's tables, in Optuna's own terms, whose rows this module reads."""

_TABLES = "SELECT name FROM sqlite_master WHERE type = 'table'"

Result = TypeVar("Result")


def looking_at(url: str) -> "SqliteReader | StudyStore":
    """Open a database of studies for reading.

    Raises:
        StorageError: the URL names no database of studies, or one of another schema version.
    """
    file = plain_file(url)
    found = SqliteReader.of(url, file) if file is not None else None
    if found is not None:
        return found
    from bo_tune.store.storage import StudyStore  # noqa: PLC0415 - most of a second, for other databases

    return StudyStore(url, only_read=True)


class SqliteReader(StudyReader[StoredTrial]):
    """A SQLite database, for reading from one thread."""

    def __init__(self, url: str, connection: sqlite3.Connection) -> None:
        super().__init__(url, lambda trial: trial)
        self._connection = connection

    @classmethod
    def of(cls, url: str, file: Path) -> "SqliteReader | None":
        """Open a file. Returns None if it does not hold the tables that this class knows, which others must judge.

        Raises:
            StorageError: it cannot be read, or a later version of this package has written to it.
        """
        refuse_network(url, file)
        check_file(url, file, create=False)
        with _storage_errors(url):
            connection = _connected(file)
        reader = cls(url, connection)
        try:
            if reader._is_known():
                reader._check_schema()
                return reader
        except StorageError:
            reader.close()
            raise
        reader.close()
        return None

    def _is_known(self) -> bool:
        with _storage_errors(self.url):
            if not {"studies", "alembic_version"} <= self._tables():
                return False
            return list(self._connection.execute("SELECT version_num FROM alembic_version")) == [(KNOWN_REVISION,)]

    def _tables(self) -> set[str]:
        return {name for (name,) in self._connection.execute(_TABLES)}

    def _read(self, work: Callable[[StudyRows], Result]) -> Result:
        with self._moment():
            return work(StudyRows(self._connection.execute))

    def holders(self) -> dict[int, Holder]:
        with self._moment():
            there = holders.TABLE in self._tables()
            found = read_holders(self._connection.execute, holders.SQLITE_NOW) if there else []
        return {holder.study_id: holder for holder in found}

    def close(self) -> None:
        with suppress(sqlite3.Error):
            self._connection.close()

    @contextmanager
    def _moment(self) -> Iterator[None]:
        """Read a consistent state, without what is stored meanwhile."""
        with _storage_errors(self.url):
            self._connection.execute("BEGIN")
            try:
                yield
            finally:
                self._connection.rollback()


def _connected(file: Path) -> sqlite3.Connection:
    """Open a file. If it may be written, SQLite repairs what a killed writer left half-done, as for any reader."""
    options = {"mode": "rw"} if may_be_written(file) else reading(file)
    connection = sqlite3.connect(
        f"file:{quote(os.fsencode(file))}?{urlencode(options)}", uri=True, isolation_level=None
    )
    connection.execute("PRAGMA query_only = 1")
    return connection


@contextmanager
def _storage_errors(url: str) -> Iterator[None]:
    try:
        yield
    except sqlite3.Error as error:
        raise StorageError(f"{url}: the database reported an error: {one_line(error)}") from error
