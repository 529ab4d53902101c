"""Collects what is known of a running session, from its events and figures. Safe to use from several threads."""

import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from statistics import fmean, geometric_mean
from typing import TYPE_CHECKING

from bo_tune.core.activity import SessionActivity
from bo_tune.core.events import (
    Event,
    GpuNoticed,
    StudyElsewhere,
    StudyFailed,
    StudyFinished,
    StudyLost,
    StudyStarted,
    TrialRecorded,
)
from bo_tune.core.problem import Problem
from bo_tune.display.console import counted, duration, speed_up, us

if TYPE_CHECKING:
    from bo_tune.session.session import Session

MOST_KEPT = 20
"""Happenings that are remembered."""

WARNING = "warning"
"""Kind of happenings that spoil times."""

URGENT = ("failed", "lost", "restart", "note", WARNING)
"""Kinds of happenings that a person should find in the terminal afterwards."""


@dataclass(frozen=True, slots=True)
class InFlight:
    """A study under way. Times in us."""

    problem: Problem
    trials: int
    best_us: float | None
    default_us: float | None
    sure: float | None = None


@dataclass(frozen=True, slots=True)
class Happening:
    """Something worth a line.

    Attributes:
        kind: a word: ``tuned``, ``kept``, ``failed``, ``lost``, ``resumed``, ``waiting``, ``restart``, ``warning`` or
            ``note``, which needs attention, or ``info``, which does not.
        at: when, as ``time.time`` returns it.
        count: if a study has just ended, how many are done by then, out of how many.
    """

    kind: str
    problem: Problem | None
    text: str
    at: float = field(default_factory=time.time)
    count: str | None = None

    @property
    def line(self) -> str:
        """The whole line, for a log."""
        count = f"[{self.count}] " if self.count else ""
        return f"{count}{self.kind:<8} {f'{self.problem}: ' if self.problem else ''}{self.text}"


@dataclass(frozen=True, slots=True)
class View:
    """A session at one moment.

    Attributes:
        studies: how many there are to do; None if not known.
        done: studies that have ended, including failed ones.
        figures: further figures, most important first.
        in_flight: studies under way, the oldest first.
        happenings: the last ones, the latest last.
        stopping: whether it was asked to stop.
    """

    studies: int | None
    done: int
    failed: int
    elapsed_s: float
    left_s: float | None
    figures: tuple[str, ...]
    in_flight: tuple[InFlight, ...]
    happenings: tuple[Happening, ...]
    stopping: bool = False

    @property
    def count(self) -> str:
        """Studies done, out of how many."""
        return _count(self.done, self.studies)


def _count(done: int, studies: int | None) -> str:
    return str(done) if studies is None else f"{done}/{max(done, studies)}"


class Watched:
    """Gathers what can be shown of a session.

    Args:
        studies: how many there are to do; None if not known.
        on_note: called with happenings that no event reported.

    Attributes:
        trials: trials recorded by this run.
    """

    def __init__(self, studies: int | None, on_note: Callable[[Happening], None]) -> None:
        self._studies = studies
        self._on_note = on_note
        self._lock = threading.Lock()
        self._began = time.monotonic()
        self._done, self._failed = 0, 0
        self.trials = 0
        self._gains: list[float] = []
        self._trials_each: list[int] = []
        self._in_flight: dict[str, InFlight] = {}
        self._happenings: deque[Happening] = deque(maxlen=MOST_KEPT)
        self._restarts = 0
        self._noticed: set[str] = set()
        self._session: Callable[[], Session | None] = lambda: None

    def watch(self, session: "Callable[[], Session | None]") -> None:
        """Take the figures of a session from now on."""
        self._session = session

    def take(self, event: Event) -> Happening | None:
        """Process an event. Returns a happening if the event is worth a line."""
        with self._lock:
            happening = self._take(event)
            if happening is not None:
                self._happenings.append(happening)
            return happening

    def note(self, text: str, kind: str = "note") -> None:
        """Record something else that happened."""
        happening = Happening(kind, None, text)
        with self._lock:
            self._happenings.append(happening)
        self._on_note(happening)

    def _take(self, event: Event) -> Happening | None:
        match event:
            case StudyStarted():
                self._in_flight[event.name] = InFlight(event.problem, event.recorded, event.best_us, event.default_us)
                if event.recorded:
                    return Happening("resumed", event.problem, f"{event.recorded} trials were already recorded")
            case TrialRecorded():
                self.trials += 1
                self._count_trial(event)
            case StudyFinished():
                return self._finish(event)
            case StudyElsewhere():
                return Happening("waiting", event.problem, f"{event.host}, process {event.pid}, is working on it")
            case StudyLost():
                self._in_flight.pop(event.name, None)
                return Happening("lost", event.problem, event.message)
            case GpuNoticed():
                if event.text not in self._noticed:  # several workers may report the same
                    self._noticed.add(event.text)
                    return Happening(WARNING if event.spoils else "info", None, event.text)
            case StudyFailed():
                self._in_flight.pop(event.name, None)
                self._done, self._failed = self._done + 1, self._failed + 1
                return Happening("failed", event.problem, event.message)
        return None

    def _count_trial(self, event: TrialRecorded) -> None:
        study = self._in_flight.get(event.name)
        if study is not None:
            self._in_flight[event.name] = replace(
                study, trials=study.trials + 1, best_us=event.best_us, default_us=event.default_us, sure=event.sure
            )

    def _finish(self, event: StudyFinished) -> Happening:
        self._in_flight.pop(event.name, None)
        self._done += 1
        if not event.reused:
            self._trials_each.append(event.trials)
        if event.time_us and event.default_time_us:
            self._gains.append(event.default_time_us / event.time_us)
        speed = speed_up(event.default_time_us, event.time_us)
        gain = f", {speed} the default's speed" if event.default_time_us else ""
        text = (f"{us(event.time_us)} us{gain}, {counted(event.launched_configs, 'config', 'configs')} launched") + (
            f": {event.ending.words}" if event.ending else ""
        )
        kind, count = ("kept" if event.reused else "tuned"), _count(self._done, self._studies)
        return Happening(kind, event.problem, text, count=count)

    def _look_for_restarts(self, activity: SessionActivity) -> None:
        restarts = sum(device.gpu.restarts for device in activity.devices.values() if device.gpu)
        fresh, self._restarts = restarts - self._restarts, restarts
        if fresh > 0:
            self.note(f"the GPU process was restarted ({restarts} times so far)", "restart")

    def view(self) -> View:
        """Return the current state."""
        session = self._session()
        activity = session.activity if session is not None else None
        if activity is not None:
            self._look_for_restarts(activity)
        with self._lock:
            return View(
                studies=self._studies if self._studies is None else max(self._studies, self._done),
                done=self._done,
                failed=self._failed,
                elapsed_s=time.monotonic() - self._began,
                left_s=self._left_s(activity) if activity else None,
                figures=tuple(self._figures(activity)) if activity else (),
                in_flight=tuple(self._in_flight.values()),
                happenings=tuple(self._happenings),
                stopping=session is not None and session.stopping,
            )

    def _figures(self, activity: SessionActivity) -> list[str]:
        found = [f"{activity.trials:,} trials"]
        if self._gains:
            found.append(f"{geometric_mean(self._gains):.2f}x the default")
        if activity.gpu_share is not None:
            found.append(f"GPU {activity.gpu_share:.0%}")
        if activity.compiler_share is not None:
            farms = [device.farm for device in activity.devices.values() if device.farm]
            found.append(f"compilers {activity.compiler_share:.0%}")
            found.append(f"{sum(farm.waiting for farm in farms):,} compiles waiting")
            ended = sum(farm.timeouts + farm.crashes for farm in farms)
            found += [f"{ended:,} given up"] * (ended > 0)
        return found

    def _left_s(self, activity: SessionActivity) -> float | None:
        """Estimate the time left, from the mean number of trials of finished studies and the pace of trials so far."""
        if not self._trials_each or not activity.trials:
            return None
        expected = fmean(self._trials_each) * activity.studies
        return max(0.0, expected - activity.trials) * activity.wall_s / activity.trials


def summed_up(view: View) -> str:
    """Summarise in one line how far a session has come."""
    left = [f"about {duration(view.left_s)} left"] if view.left_s is not None else []
    return ", ".join([f"{view.count} studies", *view.figures[:2], *left, *view.figures[2:]])
