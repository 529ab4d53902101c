"""Describes what a session did not measure itself: earlier results, and trials from which it went on."""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from bo_tune.store.reader import MEND
from bo_tune.store.results import StudyResult

if TYPE_CHECKING:  # looking at a database does not load what tunes
    from bo_tune.session.finished import Tuned

UNITS = (("day", 86400), ("hour", 3600), ("minute", 60))


def age(seconds: float) -> str:
    """Show how long ago something was: ``3 days``, ``1 hour``; ``less than a minute``."""
    for name, length in UNITS:
        count = int(seconds // length)
        if count:
            return f"{count} {name}{'s' if count > 1 else ''}"
    return "less than a minute"


def reuse_lines(tuned: "Sequence[Tuned]", now: datetime | None = None) -> list[str]:
    """Say which studies were reused: how many, how old, by which search, with what toolchain. New ones are left out."""
    now = now or datetime.now(UTC)
    groups: dict[tuple[str, str], list[float]] = {}
    for one in tuned:
        if one.kept and one.result is not None:
            seconds = (now - datetime.fromisoformat(one.result.date)).total_seconds()
            groups.setdefault((one.name.toolchain, _search(one.result)), []).append(seconds)
    lines = [
        f"kept {_studies(len(ages))}, measured {_span(ages)} ago with {toolchain}, by {search}; use --fresh to "
        "measure again"
        for (toolchain, search), ages in groups.items()
    ]
    resumed = [one for one in tuned if not one.kept and one.resumed]
    if resumed:
        begun = [start for one in resumed for start, _ in one.under_way[: one.resumed]]
        ages = [(now - start.astimezone(UTC)).total_seconds() for start in begun]
        lines.append(f"continued {_studies(len(resumed))}, which had {len(ages)} trials from {_span(ages)} ago")
    return lines


def unreadable_lines(unreadable: Mapping[str, str]) -> list[str]:
    """Name the studies of a database that were left out because they cannot be read."""
    return [f"warning: skipped {name}, which cannot be read: {why}; {MEND}" for name, why in sorted(unreadable.items())]


def _studies(count: int) -> str:
    return "1 study" if count == 1 else f"{count:,} studies"


def _span(seconds: Sequence[float]) -> str:
    ages = [age(max(0.0, some)) for some in (min(seconds, default=0.0), max(seconds, default=0.0))]
    return ages[0] if ages[0] == ages[1] else f"{ages[0]} to {ages[1]}"


def _search(result: StudyResult) -> str:
    """Say which search found a result."""
    asked: Mapping[str, Any] = result.asked or {}
    budget = asked.get("budget")
    return f"{result.sampler}, seed {asked.get('seed', 0)}" + (f", budget {budget}" if budget else "")
