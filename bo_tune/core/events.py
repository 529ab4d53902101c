"""Events that a session reports to its listeners. Pure data."""

from collections.abc import Callable
from dataclasses import dataclass

from bo_tune.core.conclusion import Ending
from bo_tune.core.outcome import Outcome
from bo_tune.core.problem import Problem


@dataclass(frozen=True, slots=True)
class _OfStudy:
    """An event of a study, with the study's name and problem."""

    name: str
    problem: Problem


@dataclass(frozen=True, slots=True)
class StudyStarted(_OfStudy):
    """A study was opened with ``recorded`` existing trials. Times in us; None if there are none yet."""

    recorded: int
    candidates: int
    best_us: float | None = None
    default_us: float | None = None


@dataclass(frozen=True, slots=True)
class TrialRecorded(_OfStudy):
    """A trial is in the database. From here on no kill can lose it.

    Attributes:
        best_us: time of the best config so far, in us.
        default_us: time of the kernel's default config, in us.
        sure: probability that nothing much better is left, from the last certificate; None without one, as in a search
            without a stop rule.
    """

    config: dict[str, int]
    outcome: Outcome
    best_us: float | None
    default_us: float | None = None
    sure: float | None = None


@dataclass(frozen=True, slots=True)
class StudyFinished(_OfStudy):
    """A study has its result. Times in us; None if nothing could be measured.

    Attributes:
        ending: why its search ended, if known.
        expected_loss: expected loss of its certificate; None without one.
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
    """A study could not be measured at all. The others go on."""

    message: str


@dataclass(frozen=True, slots=True)
class StudyElsewhere(_OfStudy):
    """Another worker has a study. The session takes its result, or the study itself once it is free."""

    host: str
    pid: int


@dataclass(frozen=True, slots=True)
class StudyLost(_OfStudy):
    """Another worker took over a study, because this one was not heard of for too long. The others go on."""

    message: str


@dataclass(frozen=True, slots=True)
class GpuNoticed:
    """A fact about a GPU that anyone who trusts its times should know.

    Attributes:
        spoils: whether it distorts times. If not, it keeps distorted times from being noticed.
    """

    text: str
    spoils: bool


Event = StudyStarted | TrialRecorded | StudyFinished | StudyFailed | StudyElsewhere | StudyLost | GpuNoticed
Listener = Callable[[Event], None]


def ignore(event: Event) -> None:
    """Listen to nothing."""
