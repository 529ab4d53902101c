"""What is read of a database of studies, whichever way it is reached."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, Generic, Self, TypeVar

from bo_tune.core.problem import GpuInfo
from bo_tune.core.study_name import StudyName
from bo_tune.errors import StorageError, one_line
from bo_tune.processes.garbage import garbage_sought_seldom
from bo_tune.store.attributes import RESULT_ATTR, SCHEMA_ATTR, SCHEMA_VERSION
from bo_tune.store.leases.holders import Holder
from bo_tune.store.result import StudyResult
from bo_tune.store.rows.readable import ReadableRows
from bo_tune.store.rows.study_reader import StudyRow
from bo_tune.store.sieve import Sieve, StudySummary, about_of
from bo_tune.store.trials import FINISHED, Found

Result = TypeVar("Result")


class StudyReader(ABC, Generic[Found]):
    """A database of studies, to be looked at.

    Attributes:
        url: its URL as it may be shown.
    """

    def __init__(self, url: str) -> None:
        self.url = url
        self._sieve = Sieve()

    @abstractmethod
    def _read(self, work: Callable[[ReadableRows[Found]], Result]) -> Result:
        """Read, all at one moment. Raises StorageError."""

    @abstractmethod
    def holders(self) -> dict[int, Holder]:
        """Return who works on which study, by the study's number. Raises StorageError."""

    @abstractmethod
    def close(self) -> None:
        """Give connections back."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _check_schema(self) -> None:
        """Refuse a database that a later version of this package has written to. Raises StorageError."""
        versions = self._read(lambda rows: rows.values_of(SCHEMA_ATTR))
        later = [version for version in versions if isinstance(version, int) and version > SCHEMA_VERSION]
        if later:
            raise StorageError(
                f"{self.url}: written by a later version of bo_tune: it is of schema {max(later)}, this version reads "
                f"up to {SCHEMA_VERSION}"
            )

    @property
    def unreadable(self) -> Mapping[str, str]:
        """Studies that were left out so far, by name, and what they hold that this package cannot have stored."""
        return self._sieve.unreadable

    def leave_out(self, name: StudyName, why: str) -> None:
        """Note that a study cannot be used, and why."""
        self._sieve.leave_out(str(name), why)

    def names(self) -> dict[int, str]:
        """Return the names of all studies of this package by their numbers, of unreadable ones too."""
        return self._read(lambda rows: rows.names(SCHEMA_ATTR))

    def row(self, name: StudyName) -> StudyRow:
        """Return a study by its name, unchecked. Raises StorageError where there is none."""
        found = self._read(lambda rows: rows.studies([str(name)]))
        if not found:
            raise StorageError(f"{self.url}: no study {name}")
        return found[0]

    def summaries(self, *, set_aside: bool = False, ids: Sequence[int] | None = None) -> list[StudySummary]:
        """List the studies of this package, in order of name, without loading trials; unreadable ones are left out.

        Args:
            set_aside: whether to list those too that were set aside for others begun anew.
            ids: the numbers of those to list; all by default.
        """
        with garbage_sought_seldom():  # there is none, and a third of the time would go into looking for it
            rows = self._read(lambda rows: rows.studies(ids=ids))
            found = [summary for row in rows if SCHEMA_ATTR in row.attributes and (summary := self._sieve.summary(row))]
        return sorted((s for s in found if set_aside or not s.name.set_aside), key=lambda s: str(s.name))

    def finished(self, kernel: str, known: Collection[int]) -> dict[int, tuple[StudyName, GpuInfo]]:
        """Return which studies of a kernel have a result, by their numbers, but for known ones and those set aside.

        What they are about is read, and nothing else: whether they can be read, ``summaries`` tells.
        """
        rows = [row for row in self._read(lambda rows: rows.finished(kernel)) if row.study_id not in known]
        found = {row.study_id: about_of(row) for row in rows}
        strange = [i for i, about in found.items() if about is None]
        if strange:
            self.summaries(ids=strange)  # keeps in mind what is wrong with them
        return {i: about for i, about in found.items() if about is not None and not about[0].set_aside}

    def attribute_of(self, key: str, study_ids: Sequence[int] | None = None) -> dict[int, Any]:
        """Return a user attribute of studies that have it, of all by default, by their numbers."""
        return self._read(lambda rows: rows.attribute_of(key, study_ids))

    def counts(self, study_ids: Sequence[int] | None = None) -> dict[int, dict[str, int]]:
        """Return how many trials studies have, all of them by default, by state, whoever recorded them; of one without
        trials nothing."""
        return self._read(lambda rows: rows.counts(study_ids))

    def trials_of(self, summaries: Collection[StudySummary]) -> dict[StudyName, list[Found]]:
        """Return the finished trials of studies that this package recorded, oldest first, reading them together; those
        of unreadable ones are left out."""
        return self._trials({summary.study_id: summary.name for summary in summaries})

    def trials_in(self, study_id: int, name: StudyName) -> list[Found]:
        """Return the finished trials of a study that this package recorded, oldest first.

        Raises:
            UnreadableStudyError: one of them cannot be what this package stored.
        """
        found = self._trials({study_id: name})
        if not found:
            raise self._sieve.refusal(str(name))
        return found[name]

    def _trials(self, names: Mapping[int, StudyName]) -> dict[StudyName, list[Found]]:
        """Return the trials of studies; of unreadable ones nothing."""
        try:
            found = self._read(lambda rows: rows.trials(list(names), FINISHED))
        except (ArithmeticError, AssertionError, AttributeError, LookupError, TypeError, ValueError) as error:
            if len(names) > 1:
                return {k: v for i, name in names.items() for k, v in self._trials({i: name}).items()}
            found = {}
            self._sieve.leave_out(str(next(iter(names.values()))), f"trials: {type(error).__name__}: {one_line(error)}")
        return {
            names[i]: ours for i, trials in found.items() if (ours := self._sieve.trials(names[i], trials)) is not None
        }

    def result_in(self, attributes: Mapping[str, Any], name: StudyName) -> StudyResult | None:
        """Return the result that a study's attributes hold, if there is one. Raises UnreadableStudyError."""
        return self._sieve.result(str(name), attributes.get(RESULT_ATTR))
