"""Reads studies and their attributes from Optuna's tables, many at a time."""

from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from itertools import chain
from typing import Any, NamedTuple

from pydantic_core import from_json

from bo_tune.store.attributes import ALIKE, GPU_ATTR, NAME_ATTR, RESULT_ATTR
from bo_tune.store.rows.query import Query, chunks, marks
from bo_tune.store.rows.trial_reader import read_trials
from bo_tune.store.trials import StoredTrial

_STUDIES = "SELECT s.study_id, s.study_name FROM studies s"
_WITH_ATTRIBUTE = f"{_STUDIES} JOIN study_user_attributes a ON a.study_id = s.study_id AND a.key = ?"
_FROM_ATTRIBUTES = "FROM study_user_attributes a"
_ATTRIBUTES = f"SELECT a.study_id, a.key, a.value_json {_FROM_ATTRIBUTES}"
_OF_KERNEL = "s.study_name LIKE ? ESCAPE '/'"


class StudyRow(NamedTuple):
    """A study: its number in the database, its name, its user attributes."""

    study_id: int
    name: str
    attributes: dict[str, Any]
    damaged: list[str]
    """Keys of attributes that are not JSON."""


class StudyRows:
    """The studies of a database whose tables are known, and their trials, for reading."""

    def __init__(self, query: Query) -> None:
        self._query = query

    def studies(self, names: Sequence[str] | None = None, *, ids: Sequence[int] | None = None) -> list[StudyRow]:
        """Return studies with their attributes: all, or the existing ones with these names or numbers."""
        named = self._where_in(_STUDIES, *(("s.study_name", names) if ids is None else ("s.study_id", ids)))
        found = {i: StudyRow(i, str(name), {}, []) for i, name in named}
        every = names is None and ids is None
        _add_attributes(found, self._where_in(_ATTRIBUTES, "a.study_id", None if every else list(found)))
        return list(found.values())

    def finished(self, kernel: str) -> list[StudyRow]:
        """Return the studies of a kernel that have a result. Their only attributes are names and GPUs."""
        start = "".join(f"/{letter}" if letter in "/%_" else letter for letter in f"{kernel} |") + "%"
        found = {
            i: StudyRow(i, str(name), {}, [])
            for i, name in self._query(f"{_WITH_ATTRIBUTE} WHERE {_OF_KERNEL}", (RESULT_ATTR, start))
        }
        statement = (
            f"{_ATTRIBUTES} JOIN study_user_attributes r ON r.study_id = a.study_id AND r.key = ? "
            f"JOIN studies s ON s.study_id = a.study_id WHERE {_OF_KERNEL} AND a.key IN (?, ?)"
        )
        _add_attributes(found, self._query(statement, (RESULT_ATTR, start, NAME_ATTR, GPU_ATTR)))
        return list(found.values())

    def names(self, key: str) -> dict[int, str]:
        """Return the names of the studies that have an attribute, by their numbers."""
        statement = f"{_STUDIES} WHERE EXISTS (SELECT 1 {_FROM_ATTRIBUTES} WHERE a.study_id = s.study_id AND a.key = ?)"
        return {study_id: str(name) for study_id, name in self._query(statement, (key,))}

    def attributes(self, study_id: int) -> Mapping[str, Any]:
        """Return a study's attributes. One that is not JSON is None here; listing the studies reports it."""
        return {key: _value(key, text) for _, key, text in self._where_in(_ATTRIBUTES, "a.study_id", [study_id])}

    def attribute_of(self, key: str, study_ids: Sequence[int] | None = None) -> dict[int, Any]:
        """Return an attribute of the studies that have it, by number. By default, of all studies."""
        rows = self._where_in(f"{_ATTRIBUTES} WHERE a.key = ?", "a.study_id", study_ids, [key])
        return {study_id: _value(key, text) for study_id, _, text in rows}

    def values_of(self, key: str) -> list[Any]:
        """Return the distinct values of an attribute."""
        through_index = "a.study_id IN (SELECT s.study_id FROM studies s)"  # otherwise all attributes are read
        statement = f"SELECT DISTINCT a.value_json {_FROM_ATTRIBUTES} WHERE {through_index} AND a.key = ?"
        return [_value(key, text) for (text,) in self._query(statement, (key,))]

    def trials(self, study_ids: Sequence[int], states: Sequence[str]) -> dict[int, list[StoredTrial]]:
        """Return the trials of studies that are in one of these states, see ``read_trials``."""
        return read_trials(self._query, study_ids, states)

    def counts(self, study_ids: Sequence[int] | None = None) -> dict[int, dict[str, int]]:
        """Return the number of trials of studies (by default all) by state. Those without trials are left out."""
        found: dict[int, dict[str, int]] = {}
        statement = "SELECT t.study_id, t.state, COUNT(*) FROM trials t"
        grouped = "GROUP BY t.study_id, t.state"
        for study_id, state, count in self._where_in(statement, "t.study_id", study_ids, then=grouped):
            found.setdefault(study_id, {})[state] = count
        return found

    def _where_in(
        self, statement: str, column: str, wanted: Sequence[Any] | None, values: Sequence[Any] = (), then: str = ""
    ) -> Iterable[Any]:
        """Return the rows with one of these values in a column, or all rows if ``wanted`` is None.

        Args:
            values: values of the statement itself.
            then: what follows the condition.
        """
        if wanted is None:
            return self._query(f"{statement} {then}", values)
        word = "AND" if "WHERE" in statement else "WHERE"
        return chain.from_iterable(
            self._query(f"{statement} {word} {column} IN {marks(some)} {then}", [*values, *some])
            for some in chunks(wanted)
        )


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
    """Return the value of a JSON text. Equal texts share one object, because thousands of studies may have the same."""
    return from_json(text)


def _value(key: str, text: str) -> Any:
    """Return the value of an attribute, or None if it is not JSON."""
    try:
        return _shared(text) if key in ALIKE else from_json(text)
    except (TypeError, ValueError):
        return None
