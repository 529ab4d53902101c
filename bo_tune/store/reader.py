"""Reads a database of studies, however it is reached.

Everything read is checked. A study that cannot come from this package is left out, and the reason is remembered.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Generic, Self, TypeVar

from bo_tune.core.problem import GpuInfo
from bo_tune.core.study_name import StudyName
from bo_tune.errors import StorageError, UnreadableStudyError, one_line, printable
from bo_tune.processes.garbage import less_frequent_gc
from bo_tune.store.attributes import GPU_ATTR, NAME_ATTR, READABLE, RESULT_ATTR, SCHEMA_ATTR, SCHEMA_VERSION
from bo_tune.store.checked import AttributesCheck, NotOursError, check_trials
from bo_tune.store.leases.holders import Holder
from bo_tune.store.result import StudyResult
from bo_tune.store.rows.study_reader import StudyRow, StudyRows
from bo_tune.store.trials import COST, FINISHED, StoredTrial, Trial

MEND = "bo-tune delete removes it, and --fresh sets it aside"
"""Advice about a study that cannot be read."""

Result = TypeVar("Result")
Found = TypeVar("Found", bound=Trial)
"""The type of trials that a reader returns."""


@dataclass(frozen=True, slots=True)
class StudySummary:
    """A study as listed: its name, result and user attributes, without its trials."""

    study_id: int
    name: StudyName
    attributes: Mapping[str, Any]
    result: StudyResult | None = None

    @property
    def gpu(self) -> GpuInfo:
        """The GPU of the study."""
        return GpuInfo.from_json(self.attributes[GPU_ATTR])


class StudyReader(ABC, Generic[Found]):
    """A database of studies, for reading.

    Args:
        made: converts a stored trial to the type that the reader returns. Raises ValueError if it cannot.

    Attributes:
        url: its URL as it may be shown.
        unreadable: the studies that have been left out, by name: what is wrong, and where.
    """

    def __init__(self, url: str, made: Callable[[StoredTrial], Found]) -> None:
        self.url = url
        self.unreadable: dict[str, str] = {}
        self._made = made
        self._check = AttributesCheck()

    @abstractmethod
    def _read(self, work: Callable[[StudyRows], Result]) -> Result:
        """Read a consistent state. Raises StorageError."""

    @abstractmethod
    def holders(self) -> dict[int, Holder]:
        """Return who works on which study, by the study's number. Raises StorageError."""

    @abstractmethod
    def close(self) -> None:
        """Close the connections."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _check_schema(self) -> None:
        """Refuse a database to which a later version of this package has written. Raises StorageError."""
        versions = self._read(lambda rows: rows.values_of(SCHEMA_ATTR))
        later = [version for version in versions if isinstance(version, int) and version > SCHEMA_VERSION]
        if later:
            raise StorageError(
                f"{self.url}: a later version of bo_tune wrote this database: it has schema {max(later)}, but "
                f"this version reads only up to {SCHEMA_VERSION}"
            )

    def leave_out(self, name: object, why: str) -> None:
        """Note that a study cannot be used, and why."""
        self.unreadable[printable(str(name))] = printable(why)

    def _refusal(self, name: StudyName) -> UnreadableStudyError:
        text = printable(str(name))
        return UnreadableStudyError(f"{text} cannot be read: {self.unreadable.get(text)}; {MEND}")

    def names(self) -> dict[int, str]:
        """Return the names of all studies of this package by their numbers, including unreadable ones."""
        return self._read(lambda rows: rows.names(SCHEMA_ATTR))

    def row(self, name: StudyName) -> StudyRow:
        """Return a study by its name, unchecked. Raises StorageError if there is none."""
        found = self._read(lambda rows: rows.studies([str(name)]))
        if not found:
            raise StorageError(f"{self.url}: there is no study {name}")
        return found[0]

    def summaries(self, *, set_aside: bool = False, ids: Sequence[int] | None = None) -> list[StudySummary]:
        """List the studies of this package by name, without loading trials. Unreadable ones are left out.

        Args:
            set_aside: whether to include those that were set aside when others were begun anew.
            ids: the numbers of those to list; all by default.
        """
        with less_frequent_gc():  # it would find none, but take a third of the time
            rows = self._read(lambda rows: rows.studies(ids=ids))
            found = [summary for row in rows if SCHEMA_ATTR in row.attributes and (summary := self._summary(row))]
        return sorted((s for s in found if set_aside or not s.name.set_aside), key=lambda s: str(s.name))

    def _summary(self, row: StudyRow) -> StudySummary | None:
        try:
            if row.damaged:
                raise NotOursError(f"{row.damaged[0]}: not JSON")
            schema = row.attributes[SCHEMA_ATTR]
            if schema not in READABLE:
                raise NotOursError(f"{SCHEMA_ATTR}: expected {' or '.join(map(str, READABLE))}, got {schema!r}")
            name, result = self._check(row.attributes)
            if str(name) != row.name:
                raise NotOursError(f"{NAME_ATTR}: expected this study's name, got that of {name}")
        except NotOursError as error:
            self.leave_out(row.name, str(error))
            return None
        return StudySummary(row.study_id, name, row.attributes, result)

    def finished(self, kernel: str, known: Collection[int]) -> dict[int, tuple[StudyName, GpuInfo]]:
        """Return the studies of a kernel that have a result, by number, without known ones and those set aside.

        Only their names and GPUs are read. ``summaries`` tells whether the rest can be read.
        """
        found, strange = {}, []
        for row in self._read(lambda rows: rows.finished(kernel)):
            if row.study_id not in known:
                try:
                    about = StudyName.from_json(row.attributes[NAME_ATTR]), GpuInfo.from_json(row.attributes[GPU_ATTR])
                except (ArithmeticError, AttributeError, KeyError, TypeError, ValueError):
                    strange.append(row.study_id)
                else:
                    found[row.study_id] = about
        if strange:
            self.summaries(ids=strange)  # remembers what is wrong with them
        return {i: about for i, about in found.items() if not about[0].set_aside}

    def attribute_of(self, key: str, study_ids: Sequence[int] | None = None) -> dict[int, Any]:
        """Return a user attribute of the studies that have it, by number. By default, of all studies."""
        return self._read(lambda rows: rows.attribute_of(key, study_ids))

    def counts(self, study_ids: Sequence[int] | None = None) -> dict[int, dict[str, int]]:
        """Return the number of trials of studies by state, whoever recorded them. By default, of all studies.

        Studies without trials are left out.
        """
        return self._read(lambda rows: rows.counts(study_ids))

    def trials_of(self, summaries: Collection[StudySummary]) -> dict[StudyName, list[Found]]:
        """Return the finished trials that this package recorded in studies, oldest first.

        The trials of all studies are read together. Unreadable studies are left out.
        """
        return self._trials({summary.study_id: summary.name for summary in summaries})

    def trials_in(self, study_id: int, name: StudyName) -> list[Found]:
        """Return the finished trials that this package recorded in a study, oldest first.

        Raises:
            UnreadableStudyError: one of them cannot come from this package.
        """
        found = self._trials({study_id: name})
        if not found:
            raise self._refusal(name)
        return found[name]

    def _trials(self, names: Mapping[int, StudyName]) -> dict[StudyName, list[Found]]:
        """Return the trials of studies, without those of unreadable ones."""
        found = {}
        try:
            stored = self._read(lambda rows: rows.trials(list(names), FINISHED))
            made = {names[i]: [self._made(trial) for trial in trials] for i, trials in stored.items()}
        except (ArithmeticError, AssertionError, AttributeError, LookupError, TypeError, ValueError) as error:
            if len(names) > 1:
                return {k: v for i, name in names.items() for k, v in self._trials({i: name}).items()}
            for name in names.values():
                self.leave_out(name, f"trials: {type(error).__name__}: {one_line(error)}")
            return {}
        for name, trials in made.items():
            ours = [trial for trial in trials if COST in trial.user_attrs]
            try:
                check_trials(name.problem, ours)
            except NotOursError as error:
                self.leave_out(name, str(error))
            else:
                found[name] = ours
        return found

    def result_in(self, attributes: Mapping[str, Any], name: StudyName) -> StudyResult | None:
        """Return the result that a study's attributes hold, if any. Raises UnreadableStudyError."""
        stored = attributes.get(RESULT_ATTR)
        try:
            return None if stored is None else StudyResult.from_json(stored)
        except ValueError as error:
            self.leave_out(name, f"{RESULT_ATTR}: {error}")
            raise self._refusal(name) from None
