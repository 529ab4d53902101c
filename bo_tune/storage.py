"""The database of studies: opening it, naming studies, and adding one trial in one transaction."""

import sqlite3
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import optuna
from alembic.util import CommandError
from optuna.exceptions import StorageInternalError
from optuna.storages import BaseStorage, InMemoryStorage, RDBStorage
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState
from sqlalchemy import create_engine, inspect
from sqlalchemy.engine import make_url
from sqlalchemy.exc import ArgumentError, SQLAlchemyError

from bo_tune.errors import StorageError, one_line
from bo_tune.problem import GpuInfo, Problem
from bo_tune.trial_queue import Numbered, TrialQueue
from bo_tune.trial_writer import insert_trials, is_known_schema
from bo_tune.trials import COST

DEFAULT_STORAGE = "sqlite:///bo_tune.db"
MEMORY = "memory"
"""Storage that keeps nothing after the process: for replays that can be run again."""

SCHEMA_VERSION = 1
"""Of what this package stores in Optuna's tables. Raised when a stored trial or result changes its meaning."""

SCHEMA_ATTR = "bo_tune:schema"
NAME_ATTR = "bo_tune:name"
GPU_ATTR = "bo_tune:gpu"
RESULT_ATTR = "bo_tune:result"
SPACE_ATTR = "bo_tune:space"

SQLITE_BUSY_TIMEOUT_S = 60


@dataclass(frozen=True, slots=True)
class StudyName:
    """What one study is about. Measurements of different GPUs, kernel sources or conditions never share a study.

    An exhaustive search is a study of its own, so that a grid never hands its result to a search it is
    compared with.
    """

    problem: Problem
    gpu: str
    kernel_source: str
    exhaustive: bool = False
    conditions: str = ""

    @classmethod
    def from_json(cls, stored: Mapping[str, Any]) -> "StudyName":
        """Read what ``dataclasses.asdict`` and JSON made of a name."""
        return cls(**{**stored, "problem": Problem.from_json(stored["problem"])})

    def __str__(self) -> str:
        parts = [self.problem.kernel, self.problem.label, self.gpu, self.kernel_source]
        more = [self.conditions, "grid" if self.exhaustive else ""]
        return " | ".join([*parts, *filter(None, more)])


def _configure_sqlite(connection: sqlite3.Connection, _: object) -> None:
    # Enough in WAL mode for a killed process to lose nothing; only a power cut may take the last transactions.
    connection.execute("PRAGMA synchronous=NORMAL")


def silence_optuna() -> None:
    """Keep Optuna from announcing every study and trial; for programs that say it in their own way."""
    optuna.logging.set_verbosity(optuna.logging.ERROR)


@contextmanager
def _storage_errors(place: str) -> Iterator[None]:
    """Turn the database's errors into one line that names the place."""
    try:
        yield
    except ArgumentError as error:
        raise StorageError(f"{place}: not a database URL (expected for example {DEFAULT_STORAGE})") from error
    except (SQLAlchemyError, StorageInternalError) as error:
        cause: BaseException = error
        while (below := getattr(cause, "orig", None) or cause.__cause__) is not None:
            cause = below
        raise StorageError(f"{place}: the database failed: {one_line(cause)}") from error


def _check_database(url: str, *, create: bool) -> None:
    """Refuse what is not a studies' database before Optuna would create its tables in it."""
    parsed = make_url(url)
    file = parsed.database if parsed.get_backend_name() == "sqlite" else None
    if file and not file.startswith((":memory:", "file:")) and not Path(file).exists():
        if not create:
            raise StorageError(f"{url}: no such database")
        if not Path(file).absolute().parent.is_dir():
            raise StorageError(f"{url}: the folder {Path(file).absolute().parent} does not exist")
    engine = create_engine(url)
    try:
        tables = set(inspect(engine).get_table_names())
    finally:
        engine.dispose()
    if tables and "studies" not in tables:
        raise StorageError(f"{url}: a database of something else (it has no table of studies)")


def _open_rdb(url: str, *, create: bool) -> RDBStorage:
    kwargs: dict[str, Any] = {}
    try:
        with _storage_errors(url):
            _check_database(url, create=create)
            if make_url(url).get_backend_name() == "sqlite":
                kwargs["connect_args"] = {"timeout": SQLITE_BUSY_TIMEOUT_S}
                kwargs["pool_events"] = [(_configure_sqlite, "connect")]
            storage = RDBStorage(url, engine_kwargs=kwargs)
            if storage.engine.dialect.name == "sqlite":
                with storage.engine.connect() as connection:
                    # Readers never wait for the writer. Only now: a database that is refused stays as it was.
                    connection.exec_driver_sql("PRAGMA journal_mode=WAL")
            return storage
    except (RuntimeError, ImportError) as error:  # another schema version; no driver for this kind of database
        raise StorageError(f"{url}: {one_line(error)}") from error
    except CommandError as error:  # alembic, of a revision it does not know
        raise StorageError(f"{url}: {one_line(error)}") from error


class StoredStudy:
    """One study in the database. Safe to use from several threads."""

    def __init__(self, study: optuna.Study, queue: TrialQueue, lock: threading.Lock) -> None:
        self._study = study
        self._queue = queue
        self._lock = lock

    @property
    def name(self) -> str:
        """The study's name."""
        return self._study.study_name

    def trials(self) -> list[FrozenTrial]:
        """Return the finished trials this package recorded, oldest first; none of those still to be stored."""
        states = (TrialState.COMPLETE, TrialState.PRUNED)
        return [t for t in self._study.get_trials(deepcopy=False, states=states) if COST in t.user_attrs]

    def add(self, trial: FrozenTrial) -> None:
        """Record a finished trial. Raises StorageError if the database cannot take it."""
        self.add_soon(trial, lambda: None)
        self.flush()

    def add_soon(self, trial: FrozenTrial, then: Callable[[], None]) -> None:
        """Record a finished trial within a second, without waiting for it; see ``trial_queue``.

        Args:
            then: is called when the trial is stored, before ``flush`` returns.

        Raises:
            StorageError: the database could not take one of the trials before it.
        """
        self._queue.put(self._study._study_id, trial, then)

    def flush(self) -> None:
        """Wait until every trial is stored. Raises StorageError if the database cannot take one."""
        self._queue.flush()

    def attribute(self, key: str) -> Any:
        """Return a user attribute, or None."""
        return self._study.user_attrs.get(key)

    def set_attribute(self, key: str, value: Any) -> None:
        """Store a user attribute (any JSON value). Raises StorageError if the database cannot take it."""
        with self._lock, _storage_errors(self.name):
            self._study.set_user_attr(key, value)

    def fail_running(self) -> int:
        """End the trials that a killed process left RUNNING; return how many there were."""
        stuck = self._study.get_trials(deepcopy=False, states=(TrialState.RUNNING,))
        with self._lock, _storage_errors(self.name):
            for trial in stuck:
                self._study.tell(trial.number, state=TrialState.FAIL)
        return len(stuck)


@dataclass(frozen=True, slots=True)
class StudySummary:
    """A study as listed: its name and user attributes, without its trials."""

    name: StudyName
    attributes: Mapping[str, Any]


class StudyStore:
    """The database of studies.

    Raises:
        StorageError: where the URL names no database of studies, or one of another schema version.
    """

    def __init__(self, url: str = DEFAULT_STORAGE, *, create: bool = True) -> None:
        self.url = url
        self._storage: BaseStorage = InMemoryStorage() if url == MEMORY else _open_rdb(url, create=create)
        self._lock = threading.Lock()
        self._queue = TrialQueue(self._insert)

    @property
    def busy_s(self) -> float:
        """Seconds spent storing trials."""
        return self._queue.busy_s

    def _insert(self, trials: Sequence[Numbered]) -> None:
        with self._lock, _storage_errors(self.url):
            if isinstance(self._storage, RDBStorage) and is_known_schema():
                insert_trials(self._storage, trials)
            else:
                for study_id, trial in trials:
                    self._storage.create_new_trial(study_id, template_trial=trial)

    def summaries(self) -> list[StudySummary]:
        """List the studies of this package, in order of name, without loading trials."""
        found = [
            StudySummary(StudyName.from_json(s.user_attrs[NAME_ATTR]), s.user_attrs)
            for s in self._storage.get_all_studies()
            if s.user_attrs.get(SCHEMA_ATTR) == SCHEMA_VERSION
        ]
        return sorted(found, key=lambda s: str(s.name))

    def load(self, name: StudyName) -> StoredStudy:
        """Open an existing study by its name."""
        return StoredStudy(optuna.load_study(study_name=str(name), storage=self._storage), self._queue, self._lock)

    def open(self, name: StudyName, gpu: GpuInfo) -> StoredStudy:
        """Open a study, creating it where it is new.

        Raises:
            StorageError: if the study was written under another version of this package's schema.
        """
        with self._lock, _storage_errors(self.url):
            study = optuna.create_study(
                storage=self._storage, study_name=str(name), direction=StudyDirection.MINIMIZE, load_if_exists=True
            )
            found = study.user_attrs.get(SCHEMA_ATTR)
            if found is None:
                # The schema comes last: a study killed on the way is found without it, and completed.
                for key, value in ((NAME_ATTR, asdict(name)), (GPU_ATTR, asdict(gpu)), (SCHEMA_ATTR, SCHEMA_VERSION)):
                    study.set_user_attr(key, value)
            elif found != SCHEMA_VERSION:
                raise StorageError(f"{self.url}: study {name} has schema {found}, this version reads {SCHEMA_VERSION}")
        return StoredStudy(study, self._queue, self._lock)

    def close(self) -> None:
        """Store what is left and give back the connections."""
        self._queue.close()
        if isinstance(self._storage, RDBStorage):
            self._storage.remove_session()
            self._storage.engine.dispose()
