"""Shows a running session: as a live display in a terminal, otherwise as plain lines."""

import threading
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from rich.console import Console, RenderableType
from rich.live import Live
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from bo_tune.core.events import Event, TrialRecorded
from bo_tune.core.outcome import Invalid, Measurement
from bo_tune.display.console import is_live, print_line, short_config, us
from bo_tune.display.running.live import screen
from bo_tune.display.running.watched import URGENT, WARNING, Happening, Watched, summed_up

if TYPE_CHECKING:
    from bo_tune.session.session import Session

REFRESHES_PER_S = 2
"""Refreshes of a terminal's display in a second."""

LINE_EVERY_S = 10.0
"""Seconds between two lines of figures, if the output is not a terminal."""


def progress_bar(console: Console) -> Progress:
    """Return a bar whose tasks have a note behind them. Nothing is drawn if the output is not a terminal."""
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(20),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("{task.fields[note]}"),
        console=console,
        disable=not is_live(console),
        transient=True,
    )


class Progressing:
    """Shows a running session. A listener of its events, and a context manager.

    A terminal gets a live display, which disappears at the end. What a person should find there afterwards (failures,
    an interruption) is printed then. Otherwise, everything gets a line of its own when it happens.

    Args:
        studies: how many there are to do; None if not known.
        verbose: whether each recorded trial gets a line.
        urgent: where failures and interruptions are printed; the same console by default.
    """

    def __init__(
        self, console: Console, studies: int | None, *, verbose: bool = False, urgent: Console | None = None
    ) -> None:
        self._console = console
        self._urgent = urgent or console
        self._verbose = verbose
        self._studies = studies
        self._watched = Watched(studies, self._say)
        self._afterwards: list[Happening] = []
        self._lock = threading.Lock()
        self._live = None
        if is_live(console):
            self._live = Live(
                get_renderable=self._screen,
                console=console,
                refresh_per_second=REFRESHES_PER_S,
                transient=True,
                vertical_overflow="crop",
            )
        self._ended = threading.Event()
        self._ticker = threading.Thread(target=self._tick, name="progress", daemon=True)

    def __enter__(self) -> "Progressing":
        if self._live is not None:
            self._live.start()
        else:
            self._ticker.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._end()

    def _end(self) -> None:
        """End the display, and print what should remain visible."""
        if self._live is not None:
            self._live.stop()
        elif self._ticker.is_alive():
            self._ended.set()
            self._ticker.join()
        with self._lock:
            afterwards, self._afterwards = self._afterwards, []
        for happening in afterwards:
            self._line(happening.line, self._urgent)

    def watch(self, session: "Callable[[], Session | None]") -> None:
        """Show the figures of a session from now on."""
        self._watched.watch(session)

    def _screen(self) -> RenderableType:
        size = self._console.size
        return screen(self._watched.view(), size.width, size.height - 1)

    def _tick(self) -> None:
        while not self._ended.wait(LINE_EVERY_S):
            view = self._watched.view()
            if view.figures:  # there is a session
                self._line(f"progress {summed_up(view)}")

    def __call__(self, event: Event) -> None:
        """Show one event."""
        happening = self._watched.take(event)
        if self._verbose and isinstance(event, TrialRecorded):
            self._line(f"recorded {event.name} {short_config(event.config)}: {_outcome(event)}")
        if happening is not None:
            self._say(happening)

    def _say(self, happening: Happening) -> None:
        is_urgent = happening.kind in URGENT and not (happening.kind == WARNING and self._console.quiet)
        if self._live is not None or (is_urgent and self._urgent is not self._console):
            if is_urgent:
                with self._lock:
                    self._afterwards.append(happening)
            return
        self._line(happening.line)

    def note(self, text: str) -> None:
        """Print a line."""
        self._watched.note(text)

    def interrupted(self, then: Sequence[str] = ()) -> None:
        """Report an interruption, and what is kept.

        Args:
            then: more lines: where it is kept, and how to go on. Indented lines are to be copied, so they are never
                folded.
        """
        self._end()
        done = self._watched.view().done
        of = done if self._studies is None else f"{done} of {self._studies}"
        self._line(
            f"interrupted: {of} studies finished, {self._watched.trials} trials recorded by this run", self._urgent
        )
        for line in then:
            print_line(self._urgent, line, whole=line.startswith(" "))

    @property
    def done(self) -> int:
        """Studies that this run has finished, or found finished."""
        return self._watched.view().done

    @property
    def trials(self) -> int:
        """Trials recorded by this run."""
        return self._watched.trials

    def summary(self) -> str:
        """Say what was done, if nobody knew beforehand how much there was to do."""
        done = self._watched.view().done
        return f"nothing is left to do: {done} studies finished, {self._watched.trials} trials recorded by this run"

    def _line(self, text: str, console: Console | None = None) -> None:
        print_line(console or self._console, text)


def _outcome(event: TrialRecorded) -> str:
    match event.outcome:
        case Measurement(stopped=stopped) as measurement:
            return f"{us(measurement.time_us)} us{', stopped as slow' if stopped else ''}"
        case Invalid(reason=reason, detail=detail):
            return f"{reason}{f' ({detail})' if detail else ''}"
