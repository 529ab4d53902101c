"""Reading the trials of many studies from Optuna's tables in a handful of statements.

``Study.get_trials`` builds an object for every row of every table: 30 ms for a study of 40 trials, and a session that
learns from a thousand studies reads them all. What comes out is equal, which a test compares; for a schema that
``trial_writer`` does not know, ``get_trials`` serves.
"""

import json
from collections import defaultdict
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from functools import cache
from typing import Any

from optuna.distributions import BaseDistribution, json_to_distribution
from optuna.storages._rdb import models
from optuna.trial import FrozenTrial, TrialState
from sqlalchemy import Connection, select

from bo_tune.store.rows.study_rows import chunks

_TRIALS: Any = models.TrialModel.__table__


def read_trials(
    connection: Connection, study_ids: Sequence[int], states: Sequence[TrialState]
) -> dict[int, list[FrozenTrial]]:
    """Return the trials of each study that are in one of these states, oldest first, without system attributes."""
    found: dict[int, list[FrozenTrial]] = {study_id: [] for study_id in study_ids}
    for some in chunks(study_ids):
        for study_id, trial in _read(connection, some, states):
            found[study_id].append(trial)
    return found


def _read(
    connection: Connection, study_ids: Sequence[int], states: Sequence[TrialState]
) -> Iterator[tuple[int, FrozenTrial]]:
    wanted = (_TRIALS.c.study_id.in_(study_ids), _TRIALS.c.state.in_(states))
    trials = connection.execute(select(_TRIALS).where(*wanted).order_by(_TRIALS.c.trial_id)).all()
    if not trials:
        return
    params: defaultdict[int, dict[str, Any]] = defaultdict(dict)
    kinds: defaultdict[int, dict[str, BaseDistribution]] = defaultdict(dict)
    columns = models.TrialParamModel.__table__.c
    for trial_id, name, stored, kind in _rows(
        connection, wanted, columns.param_name, columns.param_value, columns.distribution_json
    ):
        distribution = _distribution(kind)
        kinds[trial_id][name] = distribution
        params[trial_id][name] = distribution.to_external_repr(stored)
    columns = models.TrialUserAttributeModel.__table__.c
    attributes: defaultdict[int, dict[str, Any]] = defaultdict(dict)
    for trial_id, key, content in _rows(connection, wanted, columns.key, columns.value_json):
        attributes[trial_id][key] = json.loads(content)
    columns = models.TrialValueModel.__table__.c
    value_of = models.TrialValueModel.stored_repr_to_value
    values = {
        i: value_of(value, kind) for i, value, kind in _rows(connection, wanted, columns.value, columns.value_type)
    }
    between: defaultdict[int, dict[int, float]] = defaultdict(dict)
    columns = models.TrialIntermediateValueModel.__table__.c
    between_of = models.TrialIntermediateValueModel.stored_repr_to_intermediate_value
    for trial_id, step, value, kind in _rows(
        connection, wanted, columns.step, columns.intermediate_value, columns.intermediate_value_type
    ):
        between[trial_id][step] = between_of(value, kind)
    for row in trials:
        yield (
            row.study_id,
            FrozenTrial(
                number=row.number,
                trial_id=row.trial_id,
                state=row.state,
                value=values.get(row.trial_id),
                datetime_start=_local(row.datetime_start),
                datetime_complete=_local(row.datetime_complete),
                params=params[row.trial_id],
                distributions=kinds[row.trial_id],
                user_attrs=attributes[row.trial_id],
                system_attrs={},
                intermediate_values=between[row.trial_id],
            ),
        )


def _rows(connection: Connection, wanted: tuple[Any, ...], *columns: Any) -> Iterator[Any]:
    """Return the trial's number and some columns of every row of a table that belongs to a wanted trial."""
    table = columns[0].table
    joined = table.join(_TRIALS, table.c.trial_id == _TRIALS.c.trial_id)
    yield from connection.execute(select(table.c.trial_id, *columns).select_from(joined).where(*wanted))


def _local(moment: datetime | None) -> datetime | None:
    """Optuna stores moments as UTC without saying so, and trials hold them as local time."""
    return None if moment is None else moment.replace(tzinfo=UTC).astimezone().replace(tzinfo=None)


@cache
def _distribution(text: str) -> BaseDistribution:
    return json_to_distribution(text)
