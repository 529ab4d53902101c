"""The result of one check. Pure data."""

from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import Any


class Status(StrEnum):
    """The outcome of a check."""

    OK = "ok"
    WARNING = "warning"
    """Tuning works, but may not do what is expected."""
    FAILED = "failed"
    """Tuning does not work, or its times would be distorted."""
    SKIPPED = "skipped"
    """The check was not made, because another one failed."""


@dataclass(frozen=True, slots=True)
class Finding:
    """One check.

    Attributes:
        check: its name.
        said: what was found, in one line.
        remedy: what to do about it; None if there is nothing to do.
    """

    check: str
    status: Status
    said: str
    remedy: str | None = None

    def to_json(self) -> dict[str, Any]:
        """Return it as ``--json`` has it."""
        return asdict(self)


def ok(check: str, said: str) -> Finding:
    """Return a check that found nothing to fix."""
    return Finding(check, Status.OK, said)


def warning(check: str, said: str, remedy: str) -> Finding:
    """Return a check that found something worth knowing."""
    return Finding(check, Status.WARNING, said, remedy)


def failed(check: str, said: str, remedy: str) -> Finding:
    """Return a check that found something to fix."""
    return Finding(check, Status.FAILED, said, remedy)


def skipped(check: str, said: str) -> Finding:
    """Return a check that was not made."""
    return Finding(check, Status.SKIPPED, said)
