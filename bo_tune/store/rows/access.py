"""What is read from and written to the database of studies, in its two ways.

``FastRows`` runs statements of its own in one transaction, for the schema of Optuna's tables that it knows.
``PlainRows`` goes through Optuna's storage, call by call: for studies in memory, and for any other schema.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Protocol

from optuna.storages import BaseStorage
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState
from sqlalchemy import Connection

from bo_tune.errors import StorageError
from bo_tune.store.attributes import RESULT_ATTR
from bo_tune.store.frozen import frozen
from bo_tune.store.rows import study_rows
from bo_tune.store.rows.query import through
from bo_tune.store.rows.readable import ReadableRows
from bo_tune.store.rows.study_reader import StudyRow, StudyRows
from bo_tune.store.rows.trial_reader import read_trials
from bo_tune.store.rows.trial_writer import insert_trials


class Rows(ReadableRows[FrozenTrial], Protocol):
    """The studies of a database and their trials, to be read and written."""

    def add_studies(self, studies: Mapping[str, Mapping[str, Any]]) -> None:
        """Add studies by name, with their attributes. Raises IntegrityError where one is there already."""

    def set_attributes(self, study_id: int, attributes: Mapping[str, Any]) -> None:
        """Set attributes of a study."""

    def rename(self, study_id: int, name: str) -> None:
        """Give a study another name. Raises StorageError where that cannot be."""

    def delete_all(self, study_ids: Iterable[int]) -> None:
        """Delete studies with their trials."""

    def insert(self, trials: Iterable[tuple[int, FrozenTrial]]) -> None:
        """Add finished trials, each after the number of its study."""

    def fail_running(self, study_id: int) -> int:
        """End the trials of a study that are RUNNING, and return how many there were."""


class FastRows(StudyRows):
    """Statements in the transaction of a connection."""

    def __init__(self, connection: Connection) -> None:
        super().__init__(through(connection))
        self._connection = connection

    def trials(self, study_ids: Sequence[int], states: Sequence[str]) -> dict[int, list[FrozenTrial]]:
        """See ``ReadableRows``."""
        return {i: list(map(frozen, some)) for i, some in read_trials(self._query, study_ids, states).items()}

    def add_studies(self, studies: Mapping[str, Mapping[str, Any]]) -> None:
        """See ``Rows``."""
        study_rows.add_studies(self._connection, studies)

    def rename(self, study_id: int, name: str) -> None:
        """See ``Rows``."""
        study_rows.rename(self._connection, study_id, name)

    def delete_all(self, study_ids: Iterable[int]) -> None:
        """See ``Rows``."""
        for study_id in study_ids:
            study_rows.delete(self._connection, study_id)

    def set_attributes(self, study_id: int, attributes: Mapping[str, Any]) -> None:
        """See ``Rows``."""
        study_rows.set_attributes(self._connection, study_id, attributes)

    def insert(self, trials: Iterable[tuple[int, FrozenTrial]]) -> None:
        """See ``Rows``."""
        insert_trials(self._connection, trials)

    def fail_running(self, study_id: int) -> int:
        """See ``Rows``."""
        return study_rows.fail_running(self._connection, study_id)


class PlainRows:
    """Calls of an Optuna storage, each a transaction of its own."""

    def __init__(self, storage: BaseStorage) -> None:
        self._storage = storage

    def studies(self, names: Sequence[str] | None = None, *, ids: Sequence[int] | None = None) -> list[StudyRow]:
        """See ``Rows``."""
        return [
            StudyRow(study._study_id, study.study_name, dict(study.user_attrs), [])
            for study in self._storage.get_all_studies()
            if (names is None or study.study_name in names) and (ids is None or study._study_id in ids)
        ]

    def finished(self, kernel: str) -> list[StudyRow]:
        """See ``Rows``."""
        return [s for s in self.studies() if s.name.startswith(f"{kernel} |") and RESULT_ATTR in s.attributes]

    def names(self, key: str) -> dict[int, str]:
        """See ``Rows``."""
        return {study.study_id: study.name for study in self.studies() if key in study.attributes}

    def add_studies(self, studies: Mapping[str, Mapping[str, Any]]) -> None:
        """See ``Rows``."""
        for name, attributes in studies.items():
            study_id = self._storage.create_new_study([StudyDirection.MINIMIZE], name)
            self._storage.set_study_system_attr(study_id, study_rows.METRIC_NAMES_ATTR, study_rows.METRIC_NAMES)
            self.set_attributes(study_id, attributes)

    def attributes(self, study_id: int) -> Mapping[str, Any]:
        """See ``Rows``."""
        return self._storage.get_study_user_attrs(study_id)

    def attribute_of(self, key: str, study_ids: Sequence[int] | None = None) -> dict[int, Any]:
        """See ``Rows``."""
        return {s.study_id: s.attributes[key] for s in self.studies(ids=study_ids) if key in s.attributes}

    def values_of(self, key: str) -> list[Any]:
        """See ``Rows``."""
        return list(self.attribute_of(key).values())

    def rename(self, study_id: int, name: str) -> None:
        """See ``Rows``."""
        raise StorageError("this version of Optuna cannot rename studies")

    def delete_all(self, study_ids: Iterable[int]) -> None:
        """See ``Rows``."""
        for study_id in study_ids:
            self._storage.delete_study(study_id)

    def set_attributes(self, study_id: int, attributes: Mapping[str, Any]) -> None:
        """See ``Rows``."""
        for key, value in attributes.items():
            self._storage.set_study_user_attr(study_id, key, value)

    def trials(self, study_ids: Sequence[int], states: Sequence[str]) -> dict[int, list[FrozenTrial]]:
        """See ``Rows``."""
        wanted = tuple(TrialState[state] for state in states)
        return {i: self._storage.get_all_trials(i, deepcopy=False, states=wanted) for i in study_ids}

    def counts(self, study_ids: Sequence[int] | None = None) -> dict[int, dict[str, int]]:
        """See ``Rows``."""
        found: dict[int, dict[str, int]] = {}
        for study in self.studies(ids=study_ids):
            for trial in self._storage.get_all_trials(study.study_id, deepcopy=False):
                states = found.setdefault(study.study_id, {})
                states[trial.state.name] = states.get(trial.state.name, 0) + 1
        return found

    def insert(self, trials: Iterable[tuple[int, FrozenTrial]]) -> None:
        """See ``Rows``."""
        for study_id, trial in trials:
            self._storage.create_new_trial(study_id, template_trial=trial)

    def fail_running(self, study_id: int) -> int:
        """See ``Rows``."""
        stuck = self._storage.get_all_trials(study_id, deepcopy=False, states=(TrialState.RUNNING,))
        for trial in stuck:
            self._storage.set_trial_state_values(trial._trial_id, state=TrialState.FAIL)
        return len(stuck)
