"""What a session tells whoever watches it. Pure data."""

from collections.abc import Callable
from dataclasses import dataclass

from bo_tune.core.conclusion import Ending
from bo_tune.core.outcome import Outcome
from bo_tune.core.problem import Problem


@dataclass(frozen=True, slots=True)
class _OfStudy:
    """Something about a study: its name and its problem."""

    name: str
    problem: Problem


@dataclass(frozen=True, slots=True)
class StudyStarted(_OfStudy):
    """A study was opened; ``recorded`` trials were there already. Times in us; None where there are none yet."""

    recorded: int
    candidates: int
    best_us: float | None = None
    default_us: float | None = None


@dataclass(frozen=True, slots=True)
class TrialRecorded(_OfStudy):
    """A trial is in the database: from here on no kill can lose it.

    Attributes:
        best_us: time of the best config so far, in us.
        default_us: time of the kernel's default config, in us.
        sure: how likely it is that nothing much better is left: the certificate's probability, as last computed; None
            where none was, as in a search without a stop rule.
    """

    config: dict[str, int]
    outcome: Outcome
    best_us: float | None
    default_us: float | None = None
    sure: float | None = None


@dataclass(frozen=True, slots=True)
class StudyFinished(_OfStudy):
    """A study has its result. Times in us; None where nothing could be measured.

    Attributes:
        ending: why its search ended, where that is known.
        expected_loss: of its certificate; None without one.
    """

    time_us: float | None
    default_time_us: float | None
    trials: int
    launched_configs: int
    reused: bool
    ending: Ending | None = None
    expected_loss: float | None = None


@dataclass(frozen=True, slots=True)
class StudyFailed(_OfStudy):
    """A study could not be measured at all; the others go on."""

    message: str


@dataclass(frozen=True, slots=True)
class StudyElsewhere(_OfStudy):
    """Another worker has a study; the session takes what comes of it, or the study itself once it is free."""

    host: str
    pid: int


@dataclass(frozen=True, slots=True)
class StudyLost(_OfStudy):
    """Another worker took a study over, because this one was not heard of for too long; the others go on."""

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
