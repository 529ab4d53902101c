"""The database of studies: naming studies, who may write to them, and what is stored, in one transaction each.

Whoever works on a study takes its lease first (``StoredStudy.take``); from then on everything it writes is written
under that lease or not at all (see ``leases``). Studies in memory have no leases: nobody else can reach them.
"""

import threading
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any, TypeVar

import optuna
from optuna.exceptions import DuplicatedStudyError
from optuna.storages import BaseStorage, InMemoryStorage, RDBStorage
from optuna.trial import FrozenTrial
from sqlalchemy.exc import IntegrityError

from bo_tune.core.choices import DEFAULT_STORAGE, LEASE_S, MEMORY
from bo_tune.core.problem import GpuInfo
from bo_tune.core.study_name import StudyName
from bo_tune.errors import LeaseLostError, StorageError
from bo_tune.store.attributes import (
    FRESH_ATTR,
    GPU_ATTR,
    JOB_ATTR,
    NAME_ATTR,
    READABLE,
    SCHEMA_ATTR,
    SCHEMA_VERSION,
)
from bo_tune.store.connection.database import READS, open_database, storage_errors, through_outages
from bo_tune.store.connection.url import shown
from bo_tune.store.leases.fenced import FencedWrite
from bo_tune.store.leases.holders import Holder
from bo_tune.store.leases.keeper import LeaseKeeper
from bo_tune.store.reader import StudyReader
from bo_tune.store.rows.access import FastRows, PlainRows, Rows
from bo_tune.store.rows.trial_queue import LOST, TrialQueue, Writer, Written
from bo_tune.store.rows.trial_writer import is_known_schema
from bo_tune.store.sieve import StudySummary
from bo_tune.store.stored_study import StoredStudy

__all__ = ["StoredStudy", "StudyName", "StudyStore", "StudySummary"]

OPENING_ATTEMPTS = 10
"""How often studies are looked for and added while other processes add the same ones."""

Result = TypeVar("Result")


def silence_optuna() -> None:
    """Keep Optuna from announcing every study and trial; for programs that say it in their own way."""
    optuna.logging.set_verbosity(optuna.logging.ERROR)


class StudyStore(StudyReader[FrozenTrial]):
    """The database of studies.

    Args:
        lease_s: after how long without a word from a worker its studies go to others.
        only_read: whether nothing is going to be written, so that it need not be possible.

    Raises:
        StorageError: where the URL names no database of studies, or one of another schema version.
    """

    def __init__(
        self, url: str = DEFAULT_STORAGE, *, create: bool = True, lease_s: float = LEASE_S, only_read: bool = False
    ) -> None:
        super().__init__(shown(url))
        self._url = url
        self._storage: BaseStorage = (
            InMemoryStorage()
            if url == MEMORY
            else open_database(url, create=create and not only_read, lease_s=lease_s, only_read=only_read)
        )
        self._fast = isinstance(self._storage, RDBStorage) and is_known_schema()
        self._lock = threading.Lock()
        self._seconds = 0.0
        self._queue = TrialQueue(self._insert)
        self._keeper: LeaseKeeper | None = None
        if isinstance(self._storage, RDBStorage):
            self._keeper = LeaseKeeper(self._storage, url, lease_s, self._lock, self._queue.lose)
            try:
                self._check_schema()
            except StorageError:
                self.close()
                raise

    @property
    def shared(self) -> bool:
        """Whether other processes can reach it."""
        return isinstance(self._storage, RDBStorage)

    @property
    def busy_s(self) -> float:
        """Seconds spent storing trials."""
        return self._queue.busy_s

    @property
    def database_s(self) -> float:
        """Seconds spent in the database for whatever purpose, summed over threads, waiting for each other included."""
        return self._seconds + (self._keeper.busy_s if self._keeper else 0.0)

    def load(self, name: StudyName) -> StoredStudy:
        """Open an existing study by its name. Raises StorageError where there is none."""
        return StoredStudy(self, self.row(name).study_id, name)

    def open(self, name: StudyName, gpu: GpuInfo) -> StoredStudy:
        """Open a study, creating it where it is new.

        Raises:
            StorageError: if the study was written under another version of this package's schema.
        """
        return self.open_all({name: gpu})[name]

    def open_all(
        self,
        studies: Mapping[StudyName, GpuInfo],
        jobs: Mapping[StudyName, Any] | None = None,
        *,
        fresh: bool = False,
    ) -> dict[StudyName, StoredStudy]:
        """Open many studies, creating the new ones, and say of some how they are to be searched.

        Args:
            fresh: whether to begin them anew: those that are there are set aside, but for those that a call like this
                has created and that are not ``settle``d.

        Raises:
            StorageError: if one was written under another version of this package's schema, or one to be set aside is
                being worked on.
        """
        if fresh:
            self._set_aside(studies)
        wanted = {
            str(name): {
                NAME_ATTR: name.to_json(),
                GPU_ATTR: gpu.to_json(),
                SCHEMA_ATTR: SCHEMA_VERSION,
                **({JOB_ATTR: jobs[name]} if jobs and name in jobs else {}),
                **({FRESH_ATTR: _now()} if fresh else {}),
            }
            for name, gpu in studies.items()
        }
        found = self._found(wanted)
        for _ in range(OPENING_ATTEMPTS):
            if not any(_missing(wanted[name], found.get(name)) for name in wanted):
                break
            self._complete(wanted)
            found = self._found(wanted)
        if lost := wanted.keys() - found.keys():
            raise StorageError(f"{self.url}: {min(lost)} can be neither found nor created: the database is damaged")
        return {name: StoredStudy(self, found[str(name)][0], name) for name in studies}

    def _set_aside(self, names: Iterable[StudyName]) -> None:
        """Give studies other names, in one transaction."""
        by_name, moment = {str(name): name for name in names}, _now()
        held = self._keeper.holders(as_of_now=True) if self._keeper else {}

        def rename(rows: Rows, _: set[Writer]) -> None:
            for row in rows.studies(list(by_name)):
                if row.attributes.get(FRESH_ATTR):
                    continue
                holder = held.get(row.study_id)
                if holder is not None and not holder.mine:
                    raise StorageError(
                        f"{row.name}: is being worked on by {holder.host}, process {holder.pid}: it can be begun anew "
                        "once that is done"
                    )
                aside = replace(by_name[row.name], set_aside=moment)
                rows.rename(row.study_id, str(aside))
                rows.set_attributes(row.study_id, {NAME_ATTR: aside.to_json()})

        self._write([], rename)

    def settle(self, names: Iterable[StudyName]) -> None:
        """Note that a session that may have begun studies anew has come to its end: who begins them anew from here on
        begins from nothing."""
        begun = {i for i, since in self.attribute_of(FRESH_ATTR).items() if since}
        rows = self._read(lambda rows: rows.studies([str(name) for name in names])) if begun else []

        def settle(rows_: Rows, _: set[Writer]) -> None:
            for row in rows:
                if row.study_id in begun:
                    rows_.set_attributes(row.study_id, {FRESH_ATTR: None})

        if begun:
            self._write([], settle)

    def delete(self, study_id: int, name: str) -> int:
        """Delete a study and return how many trials it had.

        Raises:
            StorageError: it is being worked on, is not there any more, or the database fails.
        """
        token = self._keeper.take(study_id, name) if self._keeper else None
        if self._keeper and token is None:
            raise StorageError(f"{name}: is being worked on; delete it once that is done")
        writer = study_id, token
        trials = sum(self.counts([study_id]).get(study_id, {}).values())
        lost = self._write([writer], lambda rows, held: rows.delete_all(i for i, _ in held))
        if lost:
            raise LeaseLostError(LOST)
        if self._keeper and token is not None:
            self._keeper.release((study_id, token))
        return trials

    def _complete(self, wanted: Mapping[str, Mapping[str, Any]]) -> None:
        """Add the studies that are not there, and what is missing of those that are."""

        def complete(rows: Rows, _: set[Writer]) -> None:
            there = {row.name: (row.study_id, row.attributes) for row in rows.studies(list(wanted))}
            for name, found in there.items():
                missing = _missing(wanted[name], found)
                if missing:
                    rows.set_attributes(found[0], missing)
            rows.add_studies({name: attributes for name, attributes in wanted.items() if name not in there})

        try:
            self._write([], complete)
        except DuplicatedStudyError:
            return
        except StorageError as error:
            if not isinstance(error.__cause__, IntegrityError):
                raise  # else another process adds the same ones, and was faster

    def _found(self, wanted: Mapping[str, Any]) -> dict[str, tuple[int, Mapping[str, Any]]]:
        rows = self._read(lambda rows: rows.studies(list(wanted)))
        for row in rows:
            schema = row.attributes.get(SCHEMA_ATTR, SCHEMA_VERSION)
            if schema not in READABLE:
                raise StorageError(f"{self.url}: study {row.name} has schema {schema}, this version reads {READABLE}")
        return {row.name: (row.study_id, row.attributes) for row in rows}

    def holders(self) -> dict[int, Holder]:
        """Return who works on which study, by the study's number; known for half a second."""
        return self._keeper.holders() if self._keeper else {}

    def close(self) -> None:
        """Store what is left, give leases and connections back."""
        self._queue.close()
        if self._keeper is not None:
            self._keeper.close()
        if isinstance(self._storage, RDBStorage):
            self._storage.remove_session()
            self._storage.engine.dispose()

    # Transactions

    @contextmanager
    def _timed(self) -> Iterator[None]:
        start = time.perf_counter()
        yield
        self._seconds += time.perf_counter() - start

    def _read(self, work: Callable[[Rows], Result]) -> Result:
        storage = self._storage

        def attempt(_number: int) -> Result:
            if isinstance(storage, RDBStorage) and self._fast:
                with storage.engine.connect().execution_options(**{READS: True}) as connection:
                    return work(FastRows(connection))
            return work(PlainRows(storage))

        with storage_errors(self._url), self._timed():
            return through_outages(storage, attempt) if isinstance(storage, RDBStorage) else attempt(0)

    def _write(self, writers: Collection[Writer], work: Callable[[Rows, set[Writer]], object]) -> set[Writer]:
        """Write under the leases of some writers, in one transaction, and return those whose lease is lost.

        Args:
            work: is told who may write.
        """
        storage = self._storage
        with self._lock, storage_errors(self._url), self._timed():
            if self._keeper is None or not isinstance(storage, RDBStorage):
                work(PlainRows(storage), set(writers))
                return set()
            transaction = FencedWrite(storage, self._keeper.leases, writers, work, fast=self._fast)
            if all(token is not None for _, token in writers):
                lost = through_outages(storage, transaction)
            else:  # without a lease an attempt leaves no trace by which to tell whether it succeeded
                lost = transaction(0)
        for writer in lost:
            self._keeper.lose(writer)
        return {*lost}

    def _insert(self, trials: Sequence[Written]) -> set[Writer]:
        def insert(rows: Rows, held: set[Writer]) -> None:
            rows.insert((writer[0], trial) for writer, trial in trials if writer in held)

        return self._write({writer for writer, _ in trials}, insert)


def _now() -> str:
    return datetime.now(UTC).isoformat()


def _missing(wanted: Mapping[str, Any], found: tuple[int, Mapping[str, Any]] | None) -> dict[str, Any]:
    """Return the attributes that a study still lacks: all of a new one, and a job that is another by now."""
    there = found[1] if found else {}
    return {
        key: value for key, value in wanted.items() if key not in there or (key == JOB_ATTR and there[key] != value)
    }
