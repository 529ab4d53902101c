"""The database of studies: naming studies, who may write to them, and what is stored, in one transaction each.

Whoever works on a study takes its lease first (``StoredStudy.take``); from then on everything it writes is written
under that lease or not at all (see ``leases``). Studies in memory have no leases: nobody else can reach them.
"""

import threading
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Any, Self, TypeVar

import optuna
from optuna.exceptions import DuplicatedStudyError
from optuna.storages import BaseStorage, InMemoryStorage, RDBStorage
from optuna.trial import FrozenTrial, TrialState
from sqlalchemy.exc import IntegrityError

from bo_tune.errors import LeaseLostError, StorageError
from bo_tune.problem import GpuInfo
from bo_tune.store.database import (
    DEFAULT_STORAGE,
    READS,
    open_database,
    storage_errors,
    through_outages,
)
from bo_tune.store.fenced import FencedWrite
from bo_tune.store.lease_keeper import LeaseKeeper
from bo_tune.store.leases import LEASE_S, Holder
from bo_tune.store.rows import FastRows, PlainRows, Rows
from bo_tune.store.study_name import StudyName
from bo_tune.store.trial_queue import LOST, TrialQueue, Writer, Written
from bo_tune.store.trial_writer import is_known_schema
from bo_tune.store.trials import COST
from bo_tune.store.url import shown

__all__ = ["DEFAULT_STORAGE", "MEMORY", "StoredStudy", "StudyName", "StudyStore", "StudySummary"]

MEMORY = "memory"
"""Storage that keeps nothing after the process: for replays that can be run again."""

SCHEMA_VERSION = 1
"""Of what this package stores in Optuna's tables. Raised when a stored trial or result changes its meaning."""

SCHEMA_ATTR = "bo_tune:schema"
NAME_ATTR = "bo_tune:name"
GPU_ATTR = "bo_tune:gpu"
RESULT_ATTR = "bo_tune:result"
SPACE_ATTR = "bo_tune:space"
JOB_ATTR = "bo_tune:job"
"""How a session wants the study searched; whoever takes the study does it like this."""
DONE_ATTR = "bo_tune:done"
"""The job as it was when the study was last brought to its end."""

FIGURES_ATTR = "bo_tune:figures"
"""Counts of the trials of a study that was brought to its end (``results.figures_of``)."""
ORIGIN_ATTR = "bo_tune:origin"
"""What measured the result, and in which session: versions of driver, torch and triton."""

FINISHED = (TrialState.COMPLETE, TrialState.PRUNED)

OPENING_ATTEMPTS = 10
"""How often studies are looked for and added while other processes add the same ones."""

Result = TypeVar("Result")


def silence_optuna() -> None:
    """Keep Optuna from announcing every study and trial; for programs that say it in their own way."""
    optuna.logging.set_verbosity(optuna.logging.ERROR)


class StoredStudy:
    """One study in the database. Safe to use from several threads."""

    def __init__(self, store: "StudyStore", study_id: int, name: str) -> None:
        self._store = store
        self.study_id = study_id
        self.name = name
        self._token: int | None = None

    @property
    def _writer(self) -> Writer:
        return self.study_id, self._token

    def take(self) -> bool:
        """Take the lease of the study; False where another worker has it. In memory there is none to take.

        Raises:
            StorageError: the database fails.
        """
        keeper = self._store._keeper
        if keeper is None:
            return True
        token = keeper.take(self.study_id)
        if token is None:
            return False
        self._token = token
        return True

    def release(self) -> None:
        """Give the lease back, so that others need not wait until it expires."""
        keeper = self._store._keeper
        if keeper is not None and self._token is not None:
            keeper.release((self.study_id, self._token))
            self._token = None

    def trials(self) -> list[FrozenTrial]:
        """Return the finished trials this package recorded, oldest first; none of those still to be stored."""
        found = self._store._read(lambda rows: rows.trials([self.study_id], FINISHED))
        return [t for t in found[self.study_id] if COST in t.user_attrs]

    def add(self, trial: FrozenTrial) -> None:
        """Record a finished trial.

        Raises:
            LeaseLostError: another worker has the study by now.
            StorageError: the database cannot take it.
        """
        self.add_soon(trial, lambda: None)
        self.flush()

    def add_soon(self, trial: FrozenTrial, then: Callable[[], None]) -> None:
        """Record a finished trial within a second, without waiting for it; see ``trial_queue``.

        Args:
            then: is called when the trial is stored, before ``flush`` returns.

        Raises:
            LeaseLostError: another worker has the study by now.
            StorageError: the database could not take one of the trials before it.
        """
        self._store._queue.put(self._writer, trial, then)

    def flush(self) -> None:
        """Wait until every trial is stored. Raises LeaseLostError or StorageError where that cannot be."""
        self._store._queue.flush(self._writer)

    def attributes(self) -> Mapping[str, Any]:
        """Return every user attribute."""
        return self._store._read(lambda rows: rows.attributes(self.study_id))

    def attribute(self, key: str) -> Any:
        """Return a user attribute, or None."""
        return self.attributes().get(key)

    def set_attribute(self, key: str, value: Any) -> None:
        """Store a user attribute (any JSON value); see ``set_attributes``."""
        self.set_attributes({key: value})

    def set_attributes(self, attributes: Mapping[str, Any]) -> None:
        """Store user attributes (any JSON values) in one transaction.

        Raises:
            LeaseLostError: another worker has the study by now.
            StorageError: the database cannot take them.
        """
        self._write(lambda rows: rows.set_attributes(self.study_id, attributes))

    def has_running(self) -> bool:
        """Say whether a trial is RUNNING, which none of this package's ever is."""
        found = self._store._read(lambda rows: rows.trials([self.study_id], (TrialState.RUNNING,)))
        return bool(found[self.study_id])

    def fail_running(self) -> int:
        """End the trials that a killed process left RUNNING; return how many there were."""
        return self._write(lambda rows: rows.fail_running(self.study_id))

    def _write(self, work: Callable[[Rows], Result]) -> Result:
        done: list[Result] = []
        lost = self._store._write([self._writer], lambda rows, held: done.extend(work(rows) for _ in held))
        if lost:
            raise LeaseLostError(LOST)
        return done[-1]


@dataclass(frozen=True, slots=True)
class StudySummary:
    """A study as listed: its name and user attributes, without its trials."""

    study_id: int
    name: StudyName
    attributes: Mapping[str, Any]

    @property
    def gpu(self) -> GpuInfo:
        """The GPU it is about."""
        return GpuInfo.from_json(self.attributes[GPU_ATTR])


class StudyStore:
    """The database of studies.

    Args:
        lease_s: after how long without a word from a worker its studies go to others.

    Raises:
        StorageError: where the URL names no database of studies, or one of another schema version.
    """

    def __init__(self, url: str = DEFAULT_STORAGE, *, create: bool = True, lease_s: float = LEASE_S) -> None:
        self.url = shown(url)
        self._url = url
        self._storage: BaseStorage = (
            InMemoryStorage() if url == MEMORY else open_database(url, create=create, lease_s=lease_s)
        )
        self._fast = isinstance(self._storage, RDBStorage) and is_known_schema()
        self._lock = threading.Lock()
        self._seconds = 0.0
        self._queue = TrialQueue(self._insert)
        self._keeper: LeaseKeeper | None = None
        if isinstance(self._storage, RDBStorage):
            self._keeper = LeaseKeeper(self._storage, url, lease_s, self._lock, self._queue.lose)

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

    def summaries(self) -> list[StudySummary]:
        """List the studies of this package, in order of name, without loading trials."""
        found = [
            StudySummary(row.study_id, StudyName.from_json(row.attributes[NAME_ATTR]), row.attributes)
            for row in self._read(lambda rows: rows.studies())
            if row.attributes.get(SCHEMA_ATTR) == SCHEMA_VERSION
        ]
        return sorted(found, key=lambda s: str(s.name))

    def trials_of(self, summaries: Collection[StudySummary]) -> dict[StudyName, list[FrozenTrial]]:
        """Return the finished trials of studies, as ``StoredStudy.trials`` does, reading them together."""
        names = {summary.study_id: summary.name for summary in summaries}
        found = self._read(lambda rows: rows.trials(list(names), FINISHED))
        return {names[i]: [t for t in trials if COST in t.user_attrs] for i, trials in found.items()}

    def attribute_of_all(self, key: str) -> dict[int, Any]:
        """Return a user attribute of all studies that have it, by their numbers."""
        return self._read(lambda rows: rows.attribute_of_all(key))

    def counts(self) -> dict[int, dict[TrialState, int]]:
        """Return how many trials studies have, by state, whoever recorded them; of one without trials nothing."""
        return self._read(lambda rows: rows.counts())

    def load(self, name: StudyName) -> StoredStudy:
        """Open an existing study by its name. Raises StorageError where there is none."""
        found = self._read(lambda rows: rows.studies([str(name)]))
        if not found:
            raise StorageError(f"{self.url}: no study {name}")
        return StoredStudy(self, found[0].study_id, str(name))

    def open(self, name: StudyName, gpu: GpuInfo) -> StoredStudy:
        """Open a study, creating it where it is new.

        Raises:
            StorageError: if the study was written under another version of this package's schema.
        """
        return self.open_all({name: gpu})[name]

    def open_all(
        self, studies: Mapping[StudyName, GpuInfo], jobs: Mapping[StudyName, Any] | None = None
    ) -> dict[StudyName, StoredStudy]:
        """Open many studies, creating the new ones, and say of some how they are to be searched.

        Raises:
            StorageError: if one was written under another version of this package's schema.
        """
        wanted = {
            str(name): {
                NAME_ATTR: asdict(name),
                GPU_ATTR: asdict(gpu),
                SCHEMA_ATTR: SCHEMA_VERSION,
                **({JOB_ATTR: jobs[name]} if jobs and name in jobs else {}),
            }
            for name, gpu in studies.items()
        }
        found = self._found(wanted)
        for _ in range(OPENING_ATTEMPTS):
            if not any(_missing(wanted[name], found.get(name)) for name in wanted):
                break
            self._complete(wanted)
            found = self._found(wanted)
        return {name: StoredStudy(self, found[str(name)][0], str(name)) for name in studies}

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
            if schema != SCHEMA_VERSION:
                raise StorageError(
                    f"{self.url}: study {row.name} has schema {schema}, this version reads {SCHEMA_VERSION}"
                )
        return {row.name: (row.study_id, row.attributes) for row in rows}

    def holders(self) -> dict[int, Holder]:
        """Return who works on which study, by the study's number; known for half a second."""
        return self._keeper.holders() if self._keeper else {}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

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


def _missing(wanted: Mapping[str, Any], found: tuple[int, Mapping[str, Any]] | None) -> dict[str, Any]:
    """Return the attributes that a study still lacks: all of a new one, and a job that is another by now."""
    there = found[1] if found else {}
    return {
        key: value for key, value in wanted.items() if key not in there or (key == JOB_ATTR and there[key] != value)
    }
