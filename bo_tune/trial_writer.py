"""Adding a finished trial to Optuna's tables in a handful of statements.

``Study.add_trial`` looks each parameter and attribute up before it writes it: 10 to 20 ms of Python for one trial, most
of what a trial costs besides its compile. The rows themselves take one or two. The tables are Optuna's own and the
rows are the ones it would have written, which a test compares; for a schema this module does not know, ``add_trial``
serves.
"""

import json
from datetime import UTC, datetime
from functools import cache

from optuna.distributions import BaseDistribution, distribution_to_json
from optuna.exceptions import StorageInternalError
from optuna.storages import RDBStorage
from optuna.storages._rdb import models
from optuna.trial import FrozenTrial
from sqlalchemy import Connection, func, insert, select

KNOWN_SCHEMA = 12
"""Version of Optuna's tables (``models.SCHEMA_VERSION``) whose rows this module writes."""


def is_known_schema() -> bool:
    """Say whether the installed Optuna has the tables this module knows."""
    return bool(models.SCHEMA_VERSION == KNOWN_SCHEMA)


def insert_trial(storage: RDBStorage, study_id: int, trial: FrozenTrial) -> None:
    """Add a finished trial with finite values to a study, in one transaction.

    Raises:
        SQLAlchemyError: the database cannot take it; nothing was written.
    """
    with storage.engine.begin() as connection:
        trial_id = _insert_row(connection, study_id, trial)
        parameters = [
            {
                "trial_id": trial_id,
                "param_name": name,
                "param_value": float(trial.distributions[name].to_internal_repr(value)),
                "distribution_json": _distribution_json(trial.distributions[name]),
            }
            for name, value in trial.params.items()
        ]
        connection.execute(insert(models.TrialParamModel), parameters)
        attributes = [
            {"trial_id": trial_id, "key": key, "value_json": json.dumps(value)}
            for key, value in trial.user_attrs.items()
        ]
        connection.execute(insert(models.TrialUserAttributeModel), attributes)
        _insert_values(connection, trial_id, trial)


def _insert_row(connection: Connection, study_id: int, trial: FrozenTrial) -> int:
    # A first statement that writes takes SQLite's write lock at once; one that reads could lose it to another writer.
    number = select(func.count()).where(models.TrialModel.study_id == study_id).scalar_subquery()
    table = models.TrialModel.__table__
    row = {
        table.c.study_id: study_id,
        table.c.number: number,
        table.c.state: trial.state,
        table.c.datetime_start: _utc(trial.datetime_start),
        table.c.datetime_complete: _utc(trial.datetime_complete),
    }
    key = connection.execute(insert(table).values(row)).inserted_primary_key
    if key is None:
        raise StorageInternalError("the database did not say under which id it stored the trial")
    return int(key[0])


def _insert_values(connection: Connection, trial_id: int, trial: FrozenTrial) -> None:
    if trial.value is not None:
        value, kind = models.TrialValueModel.value_to_stored_repr(trial.value)
        connection.execute(
            insert(models.TrialValueModel).values(trial_id=trial_id, objective=0, value=value, value_type=kind)
        )
    for step, intermediate in trial.intermediate_values.items():
        between, between_kind = models.TrialIntermediateValueModel.intermediate_value_to_stored_repr(intermediate)
        connection.execute(
            insert(models.TrialIntermediateValueModel).values(
                trial_id=trial_id, step=step, intermediate_value=between, intermediate_value_type=between_kind
            )
        )


def _utc(moment: datetime | None) -> datetime | None:
    """Optuna stores moments as UTC without saying so, and trials hold them as local time."""
    return None if moment is None else moment.astimezone(UTC).replace(tzinfo=None)


@cache
def _distribution_json(distribution: BaseDistribution) -> str:
    return distribution_to_json(distribution)
