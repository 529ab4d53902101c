"""Adds finished trials to Optuna's tables in a handful of statements.

``Study.add_trial`` looks each parameter and attribute up before it writes it. That takes 10 to 20 ms of Python for one
trial, which is most of what a trial costs besides its compile. The rows themselves take one or two. The tables are
Optuna's own, and the rows are those that it would have written, which a test compares.
"""

import json
from collections.abc import Iterable, Iterator, Sequence
from datetime import UTC, datetime
from functools import cache
from typing import Any

from optuna.distributions import BaseDistribution, distribution_to_json
from optuna.storages._rdb import models
from optuna.trial import FrozenTrial
from sqlalchemy import Connection, func, insert, select

DIGITS = 10
"""Digits of a stored time. An import checks that a value matches its repetitions within 1e-9."""


def insert_trials(connection: Connection, trials: Iterable[tuple[int, FrozenTrial]]) -> None:
    """Add finished trials with finite values, in the transaction of the caller, which has the write lock.

    Args:
        trials: each with the number of its study in the database, in the order in which they are numbered.

    Raises:
        SQLAlchemyError: the database cannot take them.
    """
    new = list(trials)
    if not new:
        return
    rows: dict[Any, list[dict[str, Any]]] = {model: [] for model in _MODELS}
    for trial_id, (_, trial) in zip(_insert_trial_rows(connection, new), new, strict=True):
        for model, row in _rows(trial_id, trial):
            rows[model].append(row)
    for model, found in rows.items():
        if found:
            _insert_rows(connection, model.__table__, found)


_MODELS = (
    models.TrialParamModel,
    models.TrialUserAttributeModel,
    models.TrialValueModel,
    models.TrialIntermediateValueModel,
)


def _rows(trial_id: int, trial: FrozenTrial) -> Iterator[tuple[Any, dict[str, Any]]]:
    """Yield what is stored of a trial besides its own row, with its table."""
    parameter, attribute, value, between = _MODELS
    for name, setting in trial.params.items():
        stored = float(trial.distributions[name].to_internal_repr(setting))
        kind = _distribution_json(trial.distributions[name])
        yield parameter, {
            "trial_id": trial_id, "param_name": name, "param_value": stored, "distribution_json": kind
        }  # fmt: skip
    for key, content in trial.user_attrs.items():
        yield attribute, {"trial_id": trial_id, "key": key, "value_json": json.dumps(content)}
    if trial.value is not None:
        number, number_kind = models.TrialValueModel.value_to_stored_repr(_rounded(trial.value))
        yield value, {"trial_id": trial_id, "objective": 0, "value": number, "value_type": number_kind}
    for step, intermediate in trial.intermediate_values.items():
        seen, seen_kind = models.TrialIntermediateValueModel.intermediate_value_to_stored_repr(_rounded(intermediate))
        yield between, {
            "trial_id": trial_id, "step": step, "intermediate_value": seen, "intermediate_value_type": seen_kind
        }  # fmt: skip


def _insert_trial_rows(connection: Connection, trials: Sequence[tuple[int, FrozenTrial]]) -> list[int]:
    """Add the trials' own rows, numbered on in each study, and return their ids."""
    table = models.TrialModel.__table__
    studies = {study_id for study_id, _ in trials}
    counted = select(table.c.study_id, func.count()).where(table.c.study_id.in_(studies)).group_by(table.c.study_id)
    next_number = dict.fromkeys(studies, 0) | {row[0]: row[1] for row in connection.execute(counted)}
    rows, places = [], []
    for study_id, trial in trials:
        places.append((study_id, next_number[study_id]))
        rows.append(
            {
                "study_id": study_id,
                "number": next_number[study_id],
                "state": trial.state,
                "datetime_start": _utc(trial.datetime_start),
                "datetime_complete": _utc(trial.datetime_complete),
            }
        )
        next_number[study_id] += 1
    _insert_rows(connection, table, rows)
    fresh = select(table.c.study_id, table.c.number, table.c.trial_id).where(
        table.c.study_id.in_(next_number), table.c.number >= min(number for _, number in places)
    )
    ids = {(study_id, number): trial_id for study_id, number, trial_id in connection.execute(fresh)}
    return [ids[place] for place in places]


def _insert_rows(connection: Connection, table: Any, rows: Sequence[dict[str, Any]]) -> None:
    """Insert rows, many in each statement if the database can return what it inserted.

    This takes a third less of this process than a statement for each row, and releases the interpreter lock less often.
    """
    statement = insert(table)
    if connection.dialect.insert_executemany_returning:
        statement = statement.returning(*table.primary_key)
    connection.execute(statement, rows)


def _rounded(time_us: float) -> float:
    """Return a time as it is stored. Digits after the tenth come from averaging, mean nothing, and would be shown."""
    return float(f"{time_us:.{DIGITS}g}")


def _utc(moment: datetime | None) -> datetime | None:
    """Return a trial's local time as UTC without a time zone, as Optuna stores it."""
    return None if moment is None else moment.astimezone(UTC).replace(tzinfo=None)


@cache
def _distribution_json(distribution: BaseDistribution) -> str:
    return distribution_to_json(distribution)
