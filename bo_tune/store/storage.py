"""The database of studies: names studies, settles who may write to them, and stores each change in one transaction.

Whoever works on a study takes its lease first (``StoredStudy.take``). From then on, everything it writes is either
written under that lease or not at all (see ``leases``).
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any, TypeVar

import optuna
from optuna.trial import FrozenTrial

from bo_tune.core.choices import DEFAULT_STORAGE, LEASE_S, MEMORY
from bo_tune.core.problem import GpuInfo
from bo_tune.core.study_name import StudyName
from bo_tune.errors import LeaseLostError, StorageError
from bo_tune.store.attributes import (
    FRESH_ATTR,
    GPU_ATTR,
    HOSTS_ATTR,
    JOB_ATTR,
    LAYERS_ATTR,
    NAME_ATTR,
    READABLE,
    SCHEMA_ATTR,
    SCHEMA_VERSION,
)
from bo_tune.store.connection.database import Database, DuplicateError
from bo_tune.store.connection.url import shown
from bo_tune.store.frozen import frozen
from bo_tune.store.leases.holders import Holder
from bo_tune.store.leases.keeper import LeaseKeeper
from bo_tune.store.reader import StudyReader, StudySummary
from bo_tune.store.result import StudyResult
from bo_tune.store.rows.study_reader import StudyRow
from bo_tune.store.rows.study_writer import WritableRows
from bo_tune.store.rows.trial_queue import LOST, TrialQueue, Writer, Written

__all__ = ["StoredStudy", "StudyName", "StudyStore", "StudySummary"]

OPENING_ATTEMPTS = 10
"""Attempts to find studies and add missing ones, while other processes add the same ones."""

MOST_HOSTS = 8
"""A study remembers this many states of hosts: the last that named it."""

FOREVER_S = 1e9
"""Duration of leases on studies in memory, which nobody else can take."""

Result = TypeVar("Result")


def silence_optuna() -> None:
    """Keep Optuna from announcing every study and trial, for programs that report them in their own way."""
    optuna.logging.set_verbosity(optuna.logging.ERROR)


class StudyStore(StudyReader[FrozenTrial]):
    """The database of studies.

    Args:
        lease_s: after this time without a sign of life from a worker, its studies go to others.
        only_read: whether nothing will be written, so that the database need not be writable.

    Raises:
        StorageError: the URL names no database of studies, or one of another schema version.
    """

    def __init__(
        self, url: str = DEFAULT_STORAGE, *, create: bool = True, lease_s: float = LEASE_S, only_read: bool = False
    ) -> None:
        super().__init__(shown(url), frozen)
        lease_s = FOREVER_S if url == MEMORY else lease_s
        self._database = Database(url, create=create, lease_s=lease_s, only_read=only_read)
        self._queue = TrialQueue(self._insert)
        self._keeper = LeaseKeeper(self._database, lease_s, self._queue.lose)
        try:
            self._check_schema()
        except StorageError:
            self.close()
            raise

    @property
    def busy_s(self) -> float:
        """Seconds spent storing trials."""
        return self._queue.busy_s

    @property
    def database_s(self) -> float:
        """Seconds spent in the database for any purpose, summed over threads, including waits for each other."""
        return self._database.busy_s

    def load(self, name: StudyName) -> "StoredStudy":
        """Open an existing study by its name. Raises StorageError if there is none."""
        return StoredStudy(self, self.row(name).study_id, name)

    def open(self, name: StudyName, gpu: GpuInfo) -> "StoredStudy":
        """Open a study. It is created if it is new.

        Raises:
            StorageError: the study was written under another version of this package's schema.
        """
        return self.open_all({name: gpu})[name]

    def open_all(
        self,
        studies: Mapping[StudyName, GpuInfo],
        jobs: Mapping[StudyName, Any] | None = None,
        *,
        fresh: bool = False,
    ) -> "dict[StudyName, StoredStudy]":
        """Open many studies, create the new ones, and store how they are to be searched, if ``jobs`` says so.

        Args:
            fresh: whether to begin them anew. Existing ones are set aside, except for those that a call like this has
                created and that are not ``settle``d.

        Raises:
            StorageError: one was written under another version of this package's schema, or one to be set aside is
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
        for _ in range(OPENING_ATTEMPTS):
            found = self._found(wanted)
            if not any(_missing(wanted[name], found.get(name)) for name in wanted):
                break
            self._complete(wanted)
        if lost := wanted.keys() - found.keys():
            raise StorageError(f"{self.url}: {min(lost)} can be neither found nor created, so the database is damaged")
        return {name: StoredStudy(self, found[str(name)].study_id, name) for name in studies}

    def _set_aside(self, names: Iterable[StudyName]) -> None:
        """Give studies other names, in one transaction."""
        by_name, moment = {str(name): name for name in names}, _now()
        held = self._keeper.holders(as_of_now=True)

        def rename(rows: WritableRows, _: set[Writer]) -> None:
            for row in rows.studies(list(by_name)):
                if row.attributes.get(FRESH_ATTR):
                    continue
                holder = held.get(row.study_id)
                if holder is not None and not holder.mine:
                    raise StorageError(
                        f"{row.name}: {holder.host}, process {holder.pid}, is working on this study; start it "
                        "again with --fresh once that is done"
                    )
                aside = replace(by_name[row.name], set_aside=moment)
                rows.rename(row.study_id, str(aside))
                rows.set_attributes(row.study_id, {NAME_ATTR: aside.to_json()})

        self._keeper.write([], rename)

    def settle(self, names: Iterable[StudyName]) -> None:
        """Note that a session that may have begun studies anew has ended.

        From now on, a session that begins them anew begins from nothing.
        """

        def settle(rows: WritableRows, _: set[Writer]) -> None:
            for row in rows.studies([str(name) for name in names]):
                if row.attributes.get(FRESH_ATTR):
                    rows.set_attributes(row.study_id, {FRESH_ATTR: None})

        if any(self.attribute_of(FRESH_ATTR).values()):
            self._keeper.write([], settle)

    def note_host(self, digest: str, said: Mapping[StudyName, Mapping[str, Any]]) -> None:
        """Store what a host in the state of this digest said about studies (``HOSTS_ATTR``). Raises StorageError."""
        names = {str(name): dict(told) for name, told in said.items()}

        def note(rows: WritableRows, _: set[Writer]) -> None:
            for row in rows.studies(list(names)):
                known = row.attributes.get(HOSTS_ATTR) or {}
                if known.get(digest) != names[row.name]:
                    others = [(other, told) for other, told in known.items() if other != digest]
                    kept = dict([*others[1 - MOST_HOSTS :], (digest, names[row.name])])
                    rows.set_attributes(row.study_id, {HOSTS_ATTR: kept})

        found = self._read(lambda rows: rows.studies(list(names)))
        if any((row.attributes.get(HOSTS_ATTR) or {}).get(digest) != names[row.name] for row in found):
            self._keeper.write([], note)

    def note_layers(self, layers: Mapping[StudyName, Sequence[str]]) -> None:
        """Store which layers look studies' configs up, in addition to known ones. Raises StorageError."""
        names = {str(name): list(served) for name, served in layers.items() if served}

        def together(row: StudyRow) -> list[str]:
            return list(dict.fromkeys([*(row.attributes.get(LAYERS_ATTR) or ()), *names[row.name]]))

        def note(rows: WritableRows, _: set[Writer]) -> None:
            for row in rows.studies(list(names)):
                if row.attributes.get(LAYERS_ATTR) != together(row):
                    rows.set_attributes(row.study_id, {LAYERS_ATTR: together(row)})

        found = self._read(lambda rows: rows.studies(list(names))) if names else []
        if any(row.attributes.get(LAYERS_ATTR) != together(row) for row in found):
            self._keeper.write([], note)

    def delete(self, study_id: int, name: str) -> int:
        """Delete a study and return how many trials it had.

        Raises:
            StorageError: it is being worked on, does not exist any more, or the database fails.
        """
        token = self._keeper.take(study_id, name)
        if token is None:
            raise StorageError(f"{name}: a worker is working on this study; delete it once that is done")
        trials = sum(self.counts([study_id]).get(study_id, {}).values())

        def delete(rows: WritableRows, held: set[Writer]) -> None:
            for number, _ in held:
                rows.delete(number)

        if self._keeper.write([(study_id, token)], delete):
            raise LeaseLostError(LOST)
        self._keeper.release((study_id, token))
        return trials

    def _complete(self, wanted: Mapping[str, Mapping[str, Any]]) -> None:
        """Add missing studies, and missing attributes of existing ones."""

        def complete(rows: WritableRows, _: set[Writer]) -> None:
            there = {row.name: row for row in rows.studies(list(wanted))}
            for name, found in there.items():
                if missing := _missing(wanted[name], found):
                    rows.set_attributes(found.study_id, missing)
            rows.add_studies({name: attributes for name, attributes in wanted.items() if name not in there})

        try:
            self._keeper.write([], complete)
        except DuplicateError:  # another process was faster to add the same ones
            return

    def _found(self, wanted: Mapping[str, Any]) -> dict[str, StudyRow]:
        rows = self._read(lambda rows: rows.studies(list(wanted)))
        for row in rows:
            schema = row.attributes.get(SCHEMA_ATTR, SCHEMA_VERSION)
            if schema not in READABLE:
                raise StorageError(f"{self.url}: study {row.name} has schema {schema}; this version reads {READABLE}")
        return {row.name: row for row in rows}

    def holders(self) -> dict[int, Holder]:
        """Return who works on which study, by the study's number. Answers may be half a second old."""
        return self._keeper.holders()

    def close(self) -> None:
        """Store what is left, and give back leases and connections."""
        self._queue.close()
        self._keeper.close()
        self._database.close()

    def _read(self, work: Callable[[WritableRows], Result]) -> Result:
        return self._database.read(lambda connection: work(WritableRows(connection)))

    def _insert(self, trials: Sequence[Written]) -> set[Writer]:
        def insert(rows: WritableRows, held: set[Writer]) -> None:
            rows.insert((writer[0], trial) for writer, trial in trials if writer in held)

        return {*self._keeper.write({writer for writer, _ in trials}, insert)}


class StoredStudy:
    """One study in the database. Safe to use from several threads."""

    def __init__(self, store: StudyStore, study_id: int, name: StudyName) -> None:
        self._store = store
        self.study_id, self.study_name, self.name = study_id, name, str(name)
        self._token: int | None = None

    @property
    def _writer(self) -> Writer:
        return self.study_id, self._token

    def take(self) -> bool:
        """Take the lease of the study. Returns False if another worker has it.

        Raises:
            StorageError: the study was deleted or set aside meanwhile, or the database fails.
        """
        token = self._store._keeper.take(self.study_id, self.name)
        if token is None:
            return False
        self._token = token
        return True

    def release(self) -> None:
        """Give the lease back, so that others need not wait until it expires."""
        if self._token is not None:
            self._store._keeper.release((self.study_id, self._token))
            self._token = None

    def trials(self) -> list[FrozenTrial]:
        """Return the finished trials that this package recorded, oldest first, without those still to be stored.

        Raises:
            UnreadableStudyError: one of them cannot come from this package.
        """
        return self._store.trials_in(self.study_id, self.study_name)

    def result(self) -> StudyResult | None:
        """Return the result, if there is one. Raises UnreadableStudyError."""
        return self._store.result_in(self.attributes(), self.study_name)

    def add(self, trial: FrozenTrial) -> None:
        """Record a finished trial.

        Raises:
            LeaseLostError: another worker has taken the study.
            StorageError: the database cannot store it.
        """
        self.add_soon(trial, lambda: None)
        self.flush()

    def add_all(self, trials: Sequence[FrozenTrial], attributes: Mapping[str, Any]) -> None:
        """Record finished trials and set attributes in one transaction. Raises the same errors as ``add``."""

        def add(rows: WritableRows) -> None:
            rows.insert((self.study_id, trial) for trial in trials)
            rows.set_attributes(self.study_id, attributes)

        self._write(add)

    def add_soon(self, trial: FrozenTrial, then: Callable[[], None]) -> None:
        """Record a finished trial within a second, without waiting for it; see ``trial_queue``.

        Args:
            then: is called when the trial is stored, before ``flush`` returns.

        Raises:
            LeaseLostError: another worker has taken the study.
            StorageError: the database could not store one of the trials before it.
        """
        self._store._queue.put(self._writer, trial, then)

    def flush(self) -> None:
        """Wait until every trial is stored. Raises LeaseLostError or StorageError if that is impossible."""
        self._store._queue.flush(self._writer)

    def attributes(self) -> Mapping[str, Any]:
        """Return every user attribute."""
        return self._store._read(lambda rows: rows.attributes(self.study_id))

    def attribute(self, key: str) -> Any:
        """Return a user attribute, or None."""
        return self.attributes().get(key)

    def set_attribute(self, key: str, value: Any) -> None:
        """Store a user attribute (any JSON value). Raises the same errors as ``add``."""
        self.set_attributes({key: value})

    def set_attributes(self, attributes: Mapping[str, Any]) -> None:
        """Store user attributes (any JSON values) in one transaction. Raises the same errors as ``add``."""
        self._write(lambda rows: rows.set_attributes(self.study_id, attributes))

    def set_note(self, text: str) -> None:
        """Set the note that optuna-dashboard shows for the study, in Markdown, unless somebody has written one.

        Raises the same errors as ``add``.
        """
        self._write(lambda rows: rows.set_note(self.study_id, text))

    def counts(self) -> Mapping[str, int]:
        """Return the number of trials by the names of their states. None of this package's is ever RUNNING."""
        return self._store.counts([self.study_id]).get(self.study_id, {})

    def fail_running(self) -> int:
        """End the trials that a killed process left RUNNING. Returns how many there were."""
        return self._write(lambda rows: rows.fail_running(self.study_id))

    def _write(self, work: Callable[[WritableRows], Result]) -> Result:
        done: list[Result] = []
        lost = self._store._keeper.write([self._writer], lambda rows, held: done.extend(work(rows) for _ in held))
        if lost:
            raise LeaseLostError(LOST)
        return done[-1]


def _now() -> str:
    return datetime.now(UTC).isoformat()


def _missing(wanted: Mapping[str, Any], found: StudyRow | None) -> dict[str, Any]:
    """Return the attributes that a study still lacks: all for a new one, and a job if it has changed."""
    there = found.attributes if found else {}
    return {
        key: value for key, value in wanted.items() if key not in there or (key == JOB_ATTR and there[key] != value)
    }
