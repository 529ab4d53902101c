"""Reads the trials of many studies from Optuna's tables in a handful of statements, without Optuna.

``Study.get_trials`` builds an object for every row of every table. That takes 30 ms for a study of 40 trials, and a
session that learns from a thousand studies reads them all. The trials read here are equal, which a test compares.
"""

import json
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime
from functools import cache
from math import inf, nan
from typing import Any

from bo_tune.store.rows.query import Query, chunks, marks
from bo_tune.store.trials import State, StoredTrial

_SPECIAL = {"INF_POS": inf, "INF_NEG": -inf, "NAN": nan}
"""Values that are stored by the names of their kinds."""

_NUMBERS: dict[str, Callable[[Any], Any]] = {
    **dict.fromkeys(("IntDistribution", "IntUniformDistribution", "IntLogUniformDistribution"), int),
    **dict.fromkeys(("FloatDistribution", "UniformDistribution", "LogUniformDistribution"), float),
    "DiscreteUniformDistribution": float,
}
"""Types of parameters, by the names of Optuna's distributions."""


def read_trials(query: Query, study_ids: Sequence[int], states: Sequence[str]) -> dict[int, list[StoredTrial]]:
    """Return the trials of each study that are in one of these states, oldest first, without system attributes.

    Raises:
        ArithmeticError, AttributeError, LookupError, TypeError, ValueError: a stored trial is not valid.
    """
    found: dict[int, list[StoredTrial]] = {study_id: [] for study_id in study_ids}
    for some in chunks(study_ids):
        for study_id, trial in _read(query, some, states):
            found[study_id].append(trial)
    return found


def _read(query: Query, study_ids: Sequence[int], states: Sequence[str]) -> Iterator[tuple[int, StoredTrial]]:
    wanted = f"WHERE t.study_id IN {marks(study_ids)} AND t.state IN {marks(states)}"
    values = [*study_ids, *states]
    columns = "t.study_id, t.trial_id, t.number, t.state, t.datetime_start, t.datetime_complete"
    trials = list(query(f"SELECT {columns} FROM trials t {wanted} ORDER BY t.trial_id", values))
    if not trials:
        return

    def rows(table: str, *columns: str) -> Iterator[Any]:
        names = ", ".join(f"x.{column}" for column in ("trial_id", *columns))
        yield from query(f"SELECT {names} FROM {table} x JOIN trials t ON t.trial_id = x.trial_id {wanted}", values)

    params: defaultdict[int, dict[str, Any]] = defaultdict(dict)
    kinds: defaultdict[int, dict[str, str]] = defaultdict(dict)
    for trial_id, name, stored, kind in rows("trial_params", "param_name", "param_value", "distribution_json"):
        kinds[trial_id][name] = kind
        params[trial_id][name] = _parameter(kind)(stored)
    attributes: defaultdict[int, dict[str, Any]] = defaultdict(dict)
    for trial_id, key, content in rows("trial_user_attributes", "key", "value_json"):
        attributes[trial_id][key] = json.loads(content)
    found = rows("trial_values", "value", "value_type")
    value_of = {trial_id: _number(value, kind) for trial_id, value, kind in found}
    between: defaultdict[int, dict[int, float]] = defaultdict(dict)
    found = rows("trial_intermediate_values", "step", "intermediate_value", "intermediate_value_type")
    for trial_id, step, value, kind in found:
        between[trial_id][step] = _number(value, kind)
    for study_id, trial_id, number, state, start, complete in trials:
        yield (
            study_id,
            StoredTrial(
                trial_id=trial_id,
                number=number,
                state=State[state],
                value=value_of.get(trial_id),
                datetime_start=_local(start),
                datetime_complete=_local(complete),
                params=params[trial_id],
                kinds=kinds[trial_id],
                user_attrs=attributes[trial_id],
                intermediate_values=between[trial_id],
            ),
        )


def _number(value: Any, kind: str) -> Any:
    return value if kind == "FINITE" else _SPECIAL[kind]


def _local(moment: datetime | str | None) -> datetime | None:
    """Return a moment as trials hold it, in local time. Optuna stores UTC without saying so, SQLite as text."""
    if moment is None:
        return None
    if not isinstance(moment, datetime):
        moment = datetime.fromisoformat(moment)
    return moment.replace(tzinfo=UTC).astimezone().replace(tzinfo=None)


@cache
def _parameter(kind: str) -> Callable[[Any], Any]:
    """Return a function that converts a stored number to a parameter's value. This package's are all whole numbers."""
    distribution = json.loads(kind)
    name = distribution["name"]
    if name == "CategoricalDistribution":
        choices = distribution["attributes"]["choices"]
        return lambda stored: choices[int(stored)]
    return _NUMBERS[name]
