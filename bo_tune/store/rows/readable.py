"""What can be read of the rows of a database of studies."""

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from bo_tune.store.rows.study_reader import StudyRow
from bo_tune.store.trials import Found


class ReadableRows(Protocol[Found]):
    """The studies of a database and their trials, to be read."""

    def studies(self, names: Sequence[str] | None = None, *, ids: Sequence[int] | None = None) -> list[StudyRow]:
        """Return studies with their attributes: those of these names or numbers that there are, or all."""

    def finished(self, kernel: str) -> list[StudyRow]:
        """Return the studies of a kernel that have a result, with their names and GPUs for attributes."""

    def names(self, key: str) -> dict[int, str]:
        """Return the names of the studies that have an attribute, by their numbers."""

    def attributes(self, study_id: int) -> Mapping[str, Any]:
        """Return a study's attributes."""

    def attribute_of(self, key: str, study_ids: Sequence[int] | None = None) -> dict[int, Any]:
        """Return an attribute of studies that have it, of all by default, by their numbers."""

    def values_of(self, key: str) -> list[Any]:
        """Return the different values of an attribute of studies."""

    def trials(self, study_ids: Sequence[int], states: Sequence[str]) -> dict[int, list[Found]]:
        """Return the trials of studies that are in one of these states, oldest first."""

    def counts(self, study_ids: Sequence[int] | None = None) -> dict[int, dict[str, int]]:
        """Return how many trials studies have, all of them by default, by state; of one without trials nothing."""
