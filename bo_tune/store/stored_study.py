"""One study in the database: its trials and attributes in and out, under a lease."""

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

from optuna.trial import FrozenTrial

from bo_tune.core.study_name import StudyName
from bo_tune.errors import LeaseLostError
from bo_tune.store.result import StudyResult
from bo_tune.store.rows.study_writer import WritableRows
from bo_tune.store.rows.trial_queue import LOST, Writer
from bo_tune.store.trials import State

if TYPE_CHECKING:
    from bo_tune.store.storage import StudyStore

Result = TypeVar("Result")


class StoredStudy:
    """One study in the database. Safe to use from several threads."""

    def __init__(self, store: "StudyStore", study_id: int, name: StudyName) -> None:
        self._store = store
        self.study_id, self.study_name, self.name = study_id, name, str(name)
        self._token: int | None = None

    @property
    def _writer(self) -> Writer:
        return self.study_id, self._token

    def take(self) -> bool:
        """Take the lease of the study; False where another worker has it.

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
        """Return the finished trials this package recorded, oldest first; none of those still to be stored.

        Raises:
            UnreadableStudyError: one of them cannot be what this package stored.
        """
        return self._store.trials_in(self.study_id, self.study_name)

    def result(self) -> StudyResult | None:
        """Return the result, if there is one. Raises UnreadableStudyError."""
        return self._store.result_in(self.attributes(), self.study_name)

    def add(self, trial: FrozenTrial) -> None:
        """Record a finished trial.

        Raises:
            LeaseLostError: another worker has the study by now.
            StorageError: the database cannot take it.
        """
        self.add_soon(trial, lambda: None)
        self.flush()

    def add_all(self, trials: Sequence[FrozenTrial], attributes: Mapping[str, Any]) -> None:
        """Record finished trials and set attributes, all in one transaction. Raises as ``add``."""

        def add(rows: WritableRows) -> None:
            rows.insert((self.study_id, trial) for trial in trials)
            rows.set_attributes(self.study_id, attributes)

        self._write(add)

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
        """Store a user attribute (any JSON value). Raises as ``add``."""
        self.set_attributes({key: value})

    def set_attributes(self, attributes: Mapping[str, Any]) -> None:
        """Store user attributes (any JSON values) in one transaction. Raises as ``add``."""
        self._write(lambda rows: rows.set_attributes(self.study_id, attributes))

    def has_running(self) -> bool:
        """Say whether a trial is RUNNING, which none of this package's ever is."""
        return State.RUNNING.name in self._store.counts([self.study_id]).get(self.study_id, {})

    def fail_running(self) -> int:
        """End the trials that a killed process left RUNNING; return how many there were."""
        return self._write(lambda rows: rows.fail_running(self.study_id))

    def _write(self, work: Callable[[WritableRows], Result]) -> Result:
        done: list[Result] = []
        lost = self._store._keeper.write([self._writer], lambda rows, held: done.extend(work(rows) for _ in held))
        if lost:
            raise LeaseLostError(LOST)
        return done[-1]
