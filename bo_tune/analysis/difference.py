"""Compares two folders of tuned files, entry by entry, with times if their sidecars have them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

from bo_tune.engines.base import Keys, TunedEntry, WrittenConfig, by_number
from bo_tune.engines.folder import read_entries, table_paths


class Status(StrEnum):
    """The kinds of difference of an entry."""

    SAME = "same"
    """Both folders have it, with the same config."""
    CHANGED = "changed"
    """Both have it, with different configs."""
    REMOVED = "only in A"
    ADDED = "only in B"


@dataclass(frozen=True, slots=True)
class Found:
    """An entry of one folder. Times in us; None if its sidecar does not say, as for a config that was put in later.

    Attributes:
        date: when it was measured, ISO 8601.
        kernel_source: which code was measured.
    """

    config: WrittenConfig
    time_us: float | None = None
    default_us: float | None = None
    date: str | None = None
    kernel_source: str | None = None

    @classmethod
    def of(cls, entry: TunedEntry) -> "Found":
        """Return what is known of an entry."""
        told = entry.provenance
        if told is None:
            return cls(entry.config)
        return cls(entry.config, told.time_us, told.default_time_us, told.date, told.kernel_source)

    def to_json(self) -> dict[str, Any]:
        """Return it as JSON."""
        return {
            "config": dict(self.config),
            "time_us": self.time_us,
            "default_us": self.default_us,
            "date": self.date,
            "kernel_source": self.kernel_source,
        }


@dataclass(frozen=True, slots=True)
class Difference:
    """An entry of either folder; None for a folder that does not have it."""

    file: str
    keys: Keys
    a: Found | None
    b: Found | None

    @property
    def status(self) -> Status:
        """The kind of difference."""
        if self.a is None or self.b is None:
            return Status.ADDED if self.a is None else Status.REMOVED
        return Status.SAME if dict(self.a.config) == dict(self.b.config) else Status.CHANGED

    @property
    def change_percent(self) -> float | None:
        """Time in B over that in A, minus one, in percent; None if one of them is not known."""
        if self.a is None or self.b is None or not self.a.time_us or not self.b.time_us:
            return None
        return 100.0 * (self.b.time_us / self.a.time_us - 1.0)

    def to_json(self) -> dict[str, Any]:
        """Return it as JSON."""
        return {
            "file": self.file,
            "keys": list(self.keys),
            "status": self.status.value,
            "a": self.a.to_json() if self.a else None,
            "b": self.b.to_json() if self.b else None,
            "change_percent": self.change_percent,
        }


def differences(a: Path, b: Path) -> Sequence[Difference]:
    """Return every entry of either folder, sorted by file and keys.

    Raises:
        TableError: a folder holds no tuned file, or a malformed one.
    """
    first, second = _entries(a), _entries(b)
    places = sorted({*first, *second}, key=lambda place: (place[0], by_number(place[1])))
    return [Difference(*place, first.get(place), second.get(place)) for place in places]


def _entries(folder: Path) -> Mapping[tuple[str, Keys], Found]:
    return {
        (entry.file_name, entry.keys): Found.of(entry) for path in table_paths(folder) for entry in read_entries(path)
    }
