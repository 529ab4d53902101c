"""Studies and their attributes in Optuna's tables, read and written many at a time.

Like ``trial_writer``: the rows are the ones Optuna would have written, for a schema that module knows, and all of what
belongs together comes in the transaction of the caller.
"""

import json
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any, NamedTuple, TypeVar

from optuna.storages._rdb import models
from optuna.study import StudyDirection
from optuna.trial import TrialState
from pydantic_core import from_json
from sqlalchemy import Connection, func, insert, select, update
from sqlalchemy import delete as sql_delete

from bo_tune.store.attributes import ALIKE, GPU_ATTR, NAME_ATTR, RESULT_ATTR

IN_ONE_QUERY = 500
"""Values of one IN list: every database takes as many."""

Value = TypeVar("Value")

_STUDIES: Any = models.StudyModel.__table__
_DIRECTIONS: Any = models.StudyDirectionModel.__table__
_ATTRIBUTES: Any = models.StudyUserAttributeModel.__table__
_SYSTEM_ATTRIBUTES: Any = models.StudySystemAttributeModel.__table__
_TRIALS: Any = models.TrialModel.__table__
_ALL_ATTRIBUTES = select(_ATTRIBUTES.c.study_id, _ATTRIBUTES.c.key, _ATTRIBUTES.c.value_json)

METRIC_NAMES_ATTR = "study:metric_names"
"""Key of what ``Study.set_metric_names`` stores."""

METRIC_NAMES = ["time us"]
"""What a study's values are, for those who look at it with Optuna's tools."""


class StudyRow(NamedTuple):
    """A study: its number in the database, its name, its user attributes."""

    study_id: int
    name: str
    attributes: dict[str, Any]
    damaged: list[str]
    """Keys of attributes that are no JSON."""


def read_studies(
    connection: Connection, names: Sequence[str] | None = None, *, ids: Sequence[int] | None = None
) -> list[StudyRow]:
    """Return studies with their attributes: those of these names or numbers that there are, or all."""
    statement: Any = select(_STUDIES.c.study_id, _STUDIES.c.study_name)
    if ids is not None:
        named = _where_in(connection, statement, _STUDIES.c.study_id, ids)
    else:
        named = _where_in(connection, statement, _STUDIES.c.study_name, names)
    found = {i: StudyRow(i, str(name), {}, []) for i, name in named}
    every = names is None and ids is None
    column = _ATTRIBUTES.c.study_id
    _add_attributes(found, _where_in(connection, _ALL_ATTRIBUTES, column, None if every else list(found)))
    return list(found.values())


def read_finished(connection: Connection, kernel: str) -> list[StudyRow]:
    """Return the studies of a kernel that have a result, with no other attributes than their names and GPUs."""
    named: Any = select(_STUDIES.c.study_id, _STUDIES.c.study_name).join(
        _ATTRIBUTES, (_ATTRIBUTES.c.study_id == _STUDIES.c.study_id) & (_ATTRIBUTES.c.key == RESULT_ATTR)
    )
    named = named.where(_STUDIES.c.study_name.startswith(f"{kernel} |", autoescape=True))
    found = {i: StudyRow(i, str(name), {}, []) for i, name in connection.execute(named)}
    ids = named.with_only_columns(_STUDIES.c.study_id)
    wanted = (_ATTRIBUTES.c.study_id.in_(ids), _ATTRIBUTES.c.key.in_((NAME_ATTR, GPU_ATTR)))
    _add_attributes(found, connection.execute(_ALL_ATTRIBUTES.where(*wanted)))
    return list(found.values())


def read_names(connection: Connection, key: str) -> dict[int, str]:
    """Return the names of the studies that have an attribute, by their numbers."""
    statement: Any = select(_STUDIES.c.study_id, _STUDIES.c.study_name).join(
        _ATTRIBUTES, (_ATTRIBUTES.c.study_id == _STUDIES.c.study_id) & (_ATTRIBUTES.c.key == key)
    )
    return {row.study_id: str(row.study_name) for row in connection.execute(statement)}


def _add_attributes(found: Mapping[int, StudyRow], rows: Iterable[Any]) -> None:
    for study_id, key, text in rows:
        if study_id in found:
            try:
                found[study_id].attributes[key] = _shared(text) if key in ALIKE else from_json(text)
            except (TypeError, ValueError):
                found[study_id].attributes[key] = None
                found[study_id].damaged.append(key)


@lru_cache(256)
def _shared(text: str) -> Any:
    """Return what JSON says, the same object each time: thousands of studies may say the same."""
    return from_json(text)


def chunks(values: Sequence[Value]) -> Iterator[Sequence[Value]]:
    """Split values into lists that every database takes in one IN."""
    for start in range(0, len(values), IN_ONE_QUERY):
        yield values[start : start + IN_ONE_QUERY]


def _where_in(connection: Connection, statement: Any, column: Any, values: Sequence[Any] | None) -> Iterator[Any]:
    """Return the rows with one of these values in a column; all rows where none are named."""
    if values is None:
        yield from connection.execute(statement)
        return
    for some in chunks(values):
        yield from connection.execute(statement.where(column.in_(some)))


def add_studies(connection: Connection, studies: Mapping[str, Mapping[str, Any]]) -> None:
    """Add studies by name, with their attributes.

    Raises:
        IntegrityError: one of them is there already; nothing was written.
    """
    if not studies:
        return
    connection.execute(insert(_STUDIES), [{"study_name": name} for name in studies])
    ids = {row.name: row.study_id for row in read_studies(connection, list(studies))}
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


def attributes_of(connection: Connection, study_id: int) -> dict[str, Any]:
    """Return a study's attributes."""
    statement = select(_ATTRIBUTES.c.key, _ATTRIBUTES.c.value_json).where(_ATTRIBUTES.c.study_id == study_id)
    return {key: _value(value) for key, value in connection.execute(statement)}


@lru_cache(256)
def _shared_value(text: str) -> Any:
    return _value(text)


def _value(text: str) -> Any:
    """Return what JSON says; None for what is none, which whoever lists the studies tells."""
    try:
        return json.loads(text)
    except ValueError:
        return None


def values_of(connection: Connection, key: str) -> list[Any]:
    """Return the different values of an attribute."""
    return [
        _value(text)
        for text in connection.scalars(select(_ATTRIBUTES.c.value_json).where(_ATTRIBUTES.c.key == key).distinct())
    ]


def attribute_of(connection: Connection, key: str, study_ids: Sequence[int] | None = None) -> dict[int, Any]:
    """Return an attribute of studies that have it, of all by default, by their numbers."""
    statement = select(_ATTRIBUTES.c.study_id, _ATTRIBUTES.c.value_json).where(_ATTRIBUTES.c.key == key)
    rows = _where_in(connection, statement, _ATTRIBUTES.c.study_id, study_ids)
    read = _shared_value if key in ALIKE else _value
    return {study_id: read(text) for study_id, text in rows}


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


def trial_counts(connection: Connection, study_ids: Sequence[int] | None = None) -> dict[int, dict[TrialState, int]]:
    """Return how many trials studies have, all of them by default, by state."""
    found: defaultdict[int, dict[TrialState, int]] = defaultdict(dict)
    statement = select(_TRIALS.c.study_id, _TRIALS.c.state, func.count()).group_by(_TRIALS.c.study_id, _TRIALS.c.state)
    for study_id, state, count in _where_in(connection, statement, _TRIALS.c.study_id, study_ids):
        found[study_id][state] = count
    return dict(found)


def fail_running(connection: Connection, study_id: int) -> int:
    """End the trials of a study that are RUNNING, and return how many there were."""
    running = (_TRIALS.c.study_id == study_id, _TRIALS.c.state == TrialState.RUNNING)
    now = datetime.now(UTC).replace(tzinfo=None)
    values = {_TRIALS.c.state: TrialState.FAIL, _TRIALS.c.datetime_complete: now}
    return int(connection.execute(update(_TRIALS).where(*running).values(values)).rowcount)


def _attribute(study_id: int, key: str, value: Any) -> dict[str, Any]:
    return {"study_id": study_id, "key": key, "value_json": json.dumps(value)}
