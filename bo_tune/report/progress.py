"""A session while it runs: a bar and a line of figures in a terminal, plain lines where the output is none."""

import threading
from collections.abc import Callable
from statistics import fmean, geometric_mean

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from bo_tune.activity import SessionActivity
from bo_tune.events import (
    Event,
    StudyElsewhere,
    StudyFailed,
    StudyFinished,
    StudyLost,
    StudyStarted,
    TrialRecorded,
)
from bo_tune.outcome import Invalid, Measurement
from bo_tune.report.console import short_config, speed_up, us

REFRESH_S = 0.5
"""How often figures change in a terminal."""

LINE_EVERY_S = 10.0
"""How often a line of figures is printed where the output is no terminal."""


def progress_bar(console: Console) -> Progress:
    """Return a bar whose tasks have a note behind it; nothing is drawn where the output is no terminal."""
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(20),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("{task.fields[note]}"),
        console=console,
        disable=not console.is_terminal,
        transient=True,
    )


class Progressing:
    """Shows a session while it runs. A listener of its events, and a context manager.

    Args:
        studies: how many there are to do; None where that is not known.
        verbose: whether each recorded trial gets a line.
    """

    def __init__(self, console: Console, studies: int | None, *, verbose: bool = False) -> None:
        self._console = console
        self._verbose = verbose
        self._lock = threading.Lock()
        self._done = 0
        self._studies = studies
        self._progress = progress_bar(console)
        self._task = self._progress.add_task("studies", total=studies, note="")
        self._trials = 0
        self._gains: list[float] = []
        self._trials_each: list[int] = []
        self._activity: Callable[[], SessionActivity | None] = lambda: None
        self._ended = threading.Event()
        self._ticker = threading.Thread(target=self._tick, name="progress", daemon=True)

    def __enter__(self) -> "Progressing":
        self._progress.start()
        self._ticker.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._ticker.join()
        self._progress.stop()

    def watch(self, activity: Callable[[], SessionActivity | None]) -> None:
        """Show the figures of a session from now on."""
        self._activity = activity

    def _tick(self) -> None:
        in_terminal = self._console.is_terminal
        while not self._ended.wait(REFRESH_S if in_terminal else LINE_EVERY_S):
            activity = self._activity()
            if activity is None:
                continue
            with self._lock:
                figures = ", ".join(self.figures(activity))
                if in_terminal:
                    self._progress.update(self._task, note=figures)
                else:
                    self._line(f"progress {self._count} studies, {figures}")

    def figures(self, activity: SessionActivity) -> list[str]:
        """Return what there is to say of a session under way, most important first."""
        found = [f"{activity.trials} trials"]
        if self._gains:
            found.append(f"{geometric_mean(self._gains):.2f}x of the default")
        left_s = self.seconds_left(activity)
        if left_s is not None:
            found.append(f"about {left_s:.0f} s left")
        if activity.gpu_share is not None:
            found.append(f"GPU {activity.gpu_share:.0%}")
        if activity.compiler_share is not None:
            waiting = sum(d.farm.waiting for d in activity.devices.values() if d.farm)
            found.append(f"compilers {activity.compiler_share:.0%} ({waiting} waiting)")
        return found

    def seconds_left(self, activity: SessionActivity) -> float | None:
        """Estimate the time left: the trials that studies took so far, at the pace of trials so far."""
        if not self._trials_each or not activity.trials:
            return None
        expected = fmean(self._trials_each) * activity.studies
        return max(0.0, expected - activity.trials) * activity.wall_s / activity.trials

    def __call__(self, event: Event) -> None:
        """Show one event."""
        with self._lock:
            match event:
                case StudyStarted():
                    if event.recorded:
                        self._line(f"resumed  {event.problem}: {event.recorded} trials were recorded before")
                case TrialRecorded():
                    self._trials += 1
                    if self._verbose:
                        self._line(f"recorded {event.name} {short_config(event.config)}: {_outcome(event)}")
                case StudyFinished():
                    self._done += 1
                    if not event.reused:
                        self._trials_each.append(event.trials)
                    if event.time_us and event.default_time_us:
                        self._gains.append(event.default_time_us / event.time_us)
                    self._progress.advance(self._task)
                    self._line(self._finished(event))
                case StudyElsewhere():
                    self._line(f"waiting  {event.problem}: {event.host}, process {event.pid}, works on it")
                case StudyLost():
                    self._line(f"lost     {event.problem}: {event.message}")
                case StudyFailed():
                    self._done += 1
                    self._progress.advance(self._task)
                    self._line(f"failed   {event.problem}: {event.message}")

    def note(self, text: str) -> None:
        """Print a line."""
        with self._lock:
            self._line(text)

    def interrupted(self) -> None:
        """Say what is kept."""
        with self._lock:
            done = self._done if self._studies is None else f"{self._done} of {self._studies}"
            self._line(
                f"interrupted: {done} studies finished, {self._trials} trials recorded by "
                "this run; the same command goes on from here"
            )

    def summary(self) -> str:
        """Say what was done, for one who does not know what there was to do."""
        return f"nothing left to do: {self._done} studies finished, {self._trials} trials recorded by this run"

    @property
    def _count(self) -> str:
        return str(self._done) if self._studies is None else f"{self._done}/{self._studies}"

    def _finished(self, event: StudyFinished) -> str:
        what = "kept   " if event.reused else "tuned  "
        return (
            f"[{self._count}] {what} {event.problem}: {us(event.time_us)} us, "
            f"{speed_up(event.default_time_us, event.time_us)} of the default, "
            f"{event.launched_configs} configs launched"
        )

    def _line(self, text: str) -> None:
        self._console.print(text, markup=False, highlight=False, soft_wrap=True)


def _outcome(event: TrialRecorded) -> str:
    match event.outcome:
        case Measurement(stopped=stopped) as measurement:
            return f"{us(measurement.time_us)} us{', stopped as slow' if stopped else ''}"
        case Invalid(reason=reason, detail=detail):
            return f"{reason}{f' ({detail})' if detail else ''}"
