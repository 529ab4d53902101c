"""Studies and their attributes in Optuna's tables, written many at a time.

Like ``trial_writer``: the rows are the ones Optuna would have written, for a schema that module knows, and all of what
belongs together comes in the transaction of the caller.
"""

import json
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from optuna.storages._rdb import models
from optuna.study import StudyDirection
from optuna.trial import TrialState
from sqlalchemy import Connection, insert, select, update
from sqlalchemy import delete as sql_delete

from bo_tune.store.rows.query import through
from bo_tune.store.rows.study_reader import StudyRows

_STUDIES: Any = models.StudyModel.__table__
_DIRECTIONS: Any = models.StudyDirectionModel.__table__
_ATTRIBUTES: Any = models.StudyUserAttributeModel.__table__
_SYSTEM_ATTRIBUTES: Any = models.StudySystemAttributeModel.__table__
_TRIALS: Any = models.TrialModel.__table__

METRIC_NAMES_ATTR = "study:metric_names"
"""Key of what ``Study.set_metric_names`` stores."""

METRIC_NAMES = ["time us"]
"""What a study's values are, for those who look at it with Optuna's tools."""


def add_studies(connection: Connection, studies: Mapping[str, Mapping[str, Any]]) -> None:
    """Add studies by name, with their attributes.

    Raises:
        IntegrityError: one of them is there already; nothing was written.
    """
    if not studies:
        return
    connection.execute(insert(_STUDIES), [{"study_name": name} for name in studies])
    ids = {row.name: row.study_id for row in StudyRows(through(connection)).studies(list(studies))}
    connection.execute(
        insert(_DIRECTIONS),
        [{"study_id": ids[name], "direction": StudyDirection.MINIMIZE, "objective": 0} for name in studies],
    )
    connection.execute(
        insert(_SYSTEM_ATTRIBUTES), [_attribute(ids[name], METRIC_NAMES_ATTR, METRIC_NAMES) for name in studies]
    )
    rows = [_attribute(ids[name], key, value) for name, some in studies.items() for key, value in some.items()]
    if rows:
        connection.execute(insert(_ATTRIBUTES), rows)


def set_attributes(connection: Connection, study_id: int, attributes: Mapping[str, Any]) -> None:
    """Set attributes of a study. The caller keeps others from setting the same ones for the first time."""
    mine = _ATTRIBUTES.c.study_id == study_id
    there = set(connection.scalars(select(_ATTRIBUTES.c.key).where(mine, _ATTRIBUTES.c.key.in_(list(attributes)))))
    new = [_attribute(study_id, key, value) for key, value in attributes.items() if key not in there]
    for key in there:
        value = _attribute(study_id, key, attributes[key])["value_json"]
        connection.execute(update(_ATTRIBUTES).where(mine, _ATTRIBUTES.c.key == key).values(value_json=value))
    if new:
        connection.execute(insert(_ATTRIBUTES), new)


def name_of(connection: Connection, study_id: int) -> str | None:
    """Return a study's name; None where there is no such study."""
    name: str | None = connection.scalar(select(_STUDIES.c.study_name).where(_STUDIES.c.study_id == study_id))
    return name


def rename(connection: Connection, study_id: int, name: str) -> None:
    """Give a study another name. Raises IntegrityError where another study has it."""
    connection.execute(update(_STUDIES).where(_STUDIES.c.study_id == study_id).values(study_name=name))


def delete(connection: Connection, study_id: int) -> None:
    """Delete a study with its trials. Its lease stays: whoever held it finds that it has been taken."""
    mine = select(_TRIALS.c.trial_id).where(_TRIALS.c.study_id == study_id)
    tables = [table for table in models.BaseModel.metadata.sorted_tables if table is not _STUDIES]
    for table in reversed(tables):
        if "trial_id" in table.c and table is not _TRIALS:
            connection.execute(sql_delete(table).where(table.c.trial_id.in_(mine)))
    for table in (_TRIALS, *(table for table in tables if "trial_id" not in table.c), _STUDIES):
        if "study_id" in table.c:
            connection.execute(sql_delete(table).where(table.c.study_id == study_id))


def fail_running(connection: Connection, study_id: int) -> int:
    """End the trials of a study that are RUNNING, and return how many there were."""
    running = (_TRIALS.c.study_id == study_id, _TRIALS.c.state == TrialState.RUNNING)
    now = datetime.now(UTC).replace(tzinfo=None)
    values = {_TRIALS.c.state: TrialState.FAIL, _TRIALS.c.datetime_complete: now}
    return int(connection.execute(update(_TRIALS).where(*running).values(values)).rowcount)


def _attribute(study_id: int, key: str, value: Any) -> dict[str, Any]:
    return {"study_id": study_id, "key": key, "value_json": json.dumps(value)}
