"""Tells the studies that can be read from those that cannot, and keeps in mind what is wrong with the latter."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from bo_tune.core.problem import GpuInfo
from bo_tune.core.study_name import StudyName
from bo_tune.errors import UnreadableStudyError, printable
from bo_tune.store.attributes import GPU_ATTR, NAME_ATTR, READABLE, RESULT_ATTR, SCHEMA_ATTR
from bo_tune.store.checked import AttributesCheck, NotOursError, check_trials
from bo_tune.store.result import StudyResult
from bo_tune.store.rows.study_reader import StudyRow
from bo_tune.store.trials import COST, Found

MEND = "bo-tune delete removes it, --fresh sets it aside"
"""What to do with a study that cannot be read."""


@dataclass(frozen=True, slots=True)
class StudySummary:
    """A study as listed: its name, result and user attributes, without its trials."""

    study_id: int
    name: StudyName
    attributes: Mapping[str, Any]
    result: StudyResult | None = None

    @property
    def gpu(self) -> GpuInfo:
        """The GPU it is about."""
        return GpuInfo.from_json(self.attributes[GPU_ATTR])


def about_of(row: StudyRow) -> tuple[StudyName, GpuInfo] | None:
    """Return what a study is about; None where that cannot be read. Nothing else is looked at."""
    try:
        return StudyName.from_json(row.attributes[NAME_ATTR]), GpuInfo.from_json(row.attributes[GPU_ATTR])
    except (ArithmeticError, AttributeError, KeyError, TypeError, ValueError):
        return None


class Sieve:
    """Checks what is read of studies.

    Attributes:
        unreadable: the studies that were left out so far, by name: the place of what is wrong, and what is.
    """

    def __init__(self) -> None:
        self.unreadable: dict[str, str] = {}
        self._check = AttributesCheck()

    def leave_out(self, name: str, why: str) -> None:
        """Keep in mind why a study cannot be read."""
        self.unreadable[printable(name)] = printable(why)

    def refusal(self, name: str) -> UnreadableStudyError:
        """Return what to raise where a study is needed that cannot be read."""
        name = printable(name)
        return UnreadableStudyError(f"{name} cannot be read: {self.unreadable.get(name)}; {MEND}")

    def summary(self, row: StudyRow) -> StudySummary | None:
        """Return a study of this package as listed; None for one that cannot be read."""
        try:
            if row.damaged:
                raise NotOursError(f"{row.damaged[0]}: not JSON")
            schema = row.attributes[SCHEMA_ATTR]
            if schema not in READABLE:
                raise NotOursError(f"{SCHEMA_ATTR}: expected {' or '.join(map(str, READABLE))}, got {schema!r}")
            name, result = self._check(row.attributes)
            if str(name) != row.name:
                raise NotOursError(f"{NAME_ATTR}: is that of another study, {name}")
        except NotOursError as error:
            self.leave_out(row.name, str(error))
            return None
        return StudySummary(row.study_id, name, row.attributes, result)

    def trials(self, name: StudyName, trials: Iterable[Found]) -> list[Found] | None:
        """Return the trials of a study that this package recorded; None where one of them cannot be that."""
        ours = [trial for trial in trials if COST in trial.user_attrs]
        try:
            check_trials(name.problem, ours)
        except NotOursError as error:
            self.leave_out(str(name), str(error))
            return None
        return ours

    def result(self, name: str, stored: Mapping[str, Any] | None) -> StudyResult | None:
        """Return the result that a study has, if it has one. Raises UnreadableStudyError."""
        try:
            return None if stored is None else StudyResult.from_json(stored)
        except ValueError as error:
            self.leave_out(name, f"{RESULT_ATTR}: {error}")
            raise self.refusal(name) from None
