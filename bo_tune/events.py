"""What a session tells whoever watches it. Pure data."""

from collections.abc import Callable
from dataclasses import dataclass

from bo_tune.outcome import Outcome
from bo_tune.problem import Problem


@dataclass(frozen=True, slots=True)
class StudyStarted:
    """A study was opened; ``recorded`` trials were there already."""

    name: str
    problem: Problem
    recorded: int
    candidates: int


@dataclass(frozen=True, slots=True)
class TrialRecorded:
    """A trial is in the database: from here on no kill can lose it."""

    name: str
    problem: Problem
    config: dict[str, int]
    outcome: Outcome
    best_us: float | None


@dataclass(frozen=True, slots=True)
class StudyFinished:
    """A study has its result. Times in us; None where nothing could be measured."""

    name: str
    problem: Problem
    time_us: float | None
    default_time_us: float | None
    trials: int
    launched_configs: int
    reused: bool


@dataclass(frozen=True, slots=True)
class StudyFailed:
    """A study could not be measured at all; the others go on."""

    name: str
    problem: Problem
    message: str


@dataclass(frozen=True, slots=True)
class StudyElsewhere:
    """Another worker has a study; the session takes what comes of it, or the study itself once it is free."""

    name: str
    problem: Problem
    host: str
    pid: int


@dataclass(frozen=True, slots=True)
class StudyLost:
    """Another worker took a study over, because this one was not heard of for too long; the others go on."""

    name: str
    problem: Problem
    message: str


Event = StudyStarted | TrialRecorded | StudyFinished | StudyFailed | StudyElsewhere | StudyLost
Listener = Callable[[Event], None]


def ignore(event: Event) -> None:
    """Listen to nothing."""
