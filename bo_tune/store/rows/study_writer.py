"""Writes rows of Optuna's tables, many at a time.

They are the rows that Optuna would have written, for the schema that this package knows. Everything that belongs
together is written in the caller's transaction.
"""

import json
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from typing import Any

from optuna.storages._rdb import models
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState
from sqlalchemy import Connection, delete, insert, select, update

from bo_tune.store.rows.query import through
from bo_tune.store.rows.study_reader import StudyRows
from bo_tune.store.rows.trial_writer import insert_trials

_STUDIES: Any = models.StudyModel.__table__
_DIRECTIONS: Any = models.StudyDirectionModel.__table__
_ATTRIBUTES: Any = models.StudyUserAttributeModel.__table__
_SYSTEM_ATTRIBUTES: Any = models.StudySystemAttributeModel.__table__
_TRIALS: Any = models.TrialModel.__table__

METRIC_NAMES_ATTR = "study:metric_names"
"""Key under which ``Study.set_metric_names`` stores the names."""

NOTE_VERSION, NOTE_TEXT = "dashboard:note_ver", "dashboard:note_str:0"
"""Keys of the note that optuna-dashboard shows for a study, as ``optuna_dashboard.save_note`` stores it."""

OUR_NOTE = 1
"""Version of the note as this package writes it."""

LONGEST_NOTE = 2000
"""Characters. Longer notes would be stored in several parts."""

METRIC_NAMES = ["time us"]
"""Meaning of a study's values, for those who look at it with Optuna's tools."""


class WritableRows(StudyRows):
    """The studies of a database and their trials, to be read and written in a connection's transaction."""

    def __init__(self, connection: Connection) -> None:
        super().__init__(through(connection))
        self._connection = connection

    def add_studies(self, studies: Mapping[str, Mapping[str, Any]]) -> None:
        """Add studies by name, with their attributes. Raises IntegrityError if one exists already."""
        if not studies:
            return
        self._connection.execute(insert(_STUDIES), [{"study_name": name} for name in studies])
        ids = {row.name: row.study_id for row in self.studies(list(studies))}
        directions = [{"study_id": i, "direction": StudyDirection.MINIMIZE, "objective": 0} for i in ids.values()]
        self._connection.execute(insert(_DIRECTIONS), directions)
        named = [_attribute(i, METRIC_NAMES_ATTR, METRIC_NAMES) for i in ids.values()]
        self._connection.execute(insert(_SYSTEM_ATTRIBUTES), named)
        rows = [_attribute(ids[name], key, value) for name, some in studies.items() for key, value in some.items()]
        if rows:
            self._connection.execute(insert(_ATTRIBUTES), rows)

    def set_attributes(self, study_id: int, attributes: Mapping[str, Any]) -> None:
        """Set attributes of a study. The caller keeps others from setting the same ones for the first time."""
        mine, key = _ATTRIBUTES.c.study_id == study_id, _ATTRIBUTES.c.key
        there = set(self._connection.scalars(select(key).where(mine, key.in_(list(attributes)))))
        rows = [_attribute(study_id, name, value) for name, value in attributes.items()]
        for row in rows:
            if row["key"] in there:
                changed = update(_ATTRIBUTES).where(mine, key == row["key"])
                self._connection.execute(changed.values(value_json=row["value_json"]))
        if new := [row for row in rows if row["key"] not in there]:
            self._connection.execute(insert(_ATTRIBUTES), new)

    def set_note(self, study_id: int, text: str) -> None:
        """Set the note that optuna-dashboard shows for a study, unless somebody has written one there."""
        mine, key = _SYSTEM_ATTRIBUTES.c.study_id == study_id, _SYSTEM_ATTRIBUTES.c.key
        kept = select(key, _SYSTEM_ATTRIBUTES.c.value_json).where(mine, key.in_([NOTE_VERSION, NOTE_TEXT]))
        there = {name: json.loads(value) for name, value in self._connection.execute(kept)}
        if there.get(NOTE_VERSION, OUR_NOTE) != OUR_NOTE:  # the dashboard increments the version with every change
            return
        for name, value in {NOTE_VERSION: OUR_NOTE, NOTE_TEXT: text[:LONGEST_NOTE]}.items():
            row = _attribute(study_id, name, value)
            if name in there:
                changed = update(_SYSTEM_ATTRIBUTES).where(mine, key == name).values(value_json=row["value_json"])
                self._connection.execute(changed)
            else:
                self._connection.execute(insert(_SYSTEM_ATTRIBUTES).values(**row))

    def rename(self, study_id: int, name: str) -> None:
        """Rename a study. Raises IntegrityError if another study has the name."""
        self._connection.execute(update(_STUDIES).where(_STUDIES.c.study_id == study_id).values(study_name=name))

    def delete(self, study_id: int) -> None:
        """Delete a study with its trials. Its lease stays, so that whoever held it finds that it has been taken."""
        trials = select(_TRIALS.c.trial_id).where(_TRIALS.c.study_id == study_id)
        for table in reversed(models.BaseModel.metadata.sorted_tables):  # tables that refer to others come first
            if "study_id" in table.c:
                self._connection.execute(delete(table).where(table.c.study_id == study_id))
            elif "trial_id" in table.c:
                self._connection.execute(delete(table).where(table.c.trial_id.in_(trials)))

    def insert(self, trials: Iterable[tuple[int, FrozenTrial]]) -> None:
        """Add finished trials, each given with the number of its study."""
        insert_trials(self._connection, trials)

    def fail_running(self, study_id: int) -> int:
        """End the RUNNING trials of a study, and return how many there were."""
        running = (_TRIALS.c.study_id == study_id, _TRIALS.c.state == TrialState.RUNNING)
        now = datetime.now(UTC).replace(tzinfo=None)
        values = {_TRIALS.c.state: TrialState.FAIL, _TRIALS.c.datetime_complete: now}
        return int(self._connection.execute(update(_TRIALS).where(*running).values(values)).rowcount)


def name_of(connection: Connection, study_id: int) -> str | None:
    """Return a study's name, or None if there is no such study."""
    name: str | None = connection.scalar(select(_STUDIES.c.study_name).where(_STUDIES.c.study_id == study_id))
    return name


def _attribute(study_id: int, key: str, value: Any) -> dict[str, Any]:
    return {"study_id": study_id, "key": key, "value_json": json.dumps(value)}
