"""What a session tells whoever watches it. Pure data."""

from collections.abc import Callable
from dataclasses import dataclass

from bo_tune.core.outcome import Outcome
from bo_tune.core.problem import Problem


@dataclass(frozen=True, slots=True)
class StudyStarted:
    """A study was opened; ``recorded`` trials were there already. Times in us; None where there are none yet."""

    name: str
    problem: Problem
    recorded: int
    candidates: int
    best_us: float | None = None
    default_us: float | None = None


@dataclass(frozen=True, slots=True)
class TrialRecorded:
    """A trial is in the database: from here on no kill can lose it.

    Attributes:
        best_us: time of the best config so far, in us.
        default_us: time of the kernel's default config, in us.
        sure: how likely it is that nothing much better is left: the certificate's probability, as last computed; None
            where none was, as in a search without a stop rule.
    """

    name: str
    problem: Problem
    config: dict[str, int]
    outcome: Outcome
    best_us: float | None
    default_us: float | None = None
    sure: float | None = None


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


@dataclass(frozen=True, slots=True)
class GpuNoticed:
    """Something about a GPU that whoever trusts its times should know.

    Attributes:
        spoils: whether times are spoilt by it; else that would not be noticed.
    """

    text: str
    spoils: bool


Event = StudyStarted | TrialRecorded | StudyFinished | StudyFailed | StudyElsewhere | StudyLost | GpuNoticed
Listener = Callable[[Event], None]


def ignore(event: Event) -> None:
    """Listen to nothing."""
