"""Shows a running session to programs, with a line of JSON for every event. The counterpart of ``Progressing``."""

import json
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

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
from bo_tune.core.outcome import Measurement

if TYPE_CHECKING:
    from bo_tune.session.session import Session

SCHEMA = 1
"""Version of the lines. New events and keys keep the number; a change of meaning raises it."""

FIGURES_EVERY_S = 10.0

OF_STUDY = ("study", "kernel", "problem")

EVENTS: Mapping[str, Mapping[str, str]] = {
    "session_started": {
        "schema": f"{SCHEMA}",
        "command": "",
        "version": "of the program",
        "studies": "how many the session has to do",
        "storage": "the database, without its password",
    },
    "study_started": {
        "recorded": "trials recorded before",
        "candidates": "configs that may be tried",
        "best_us": "",
        "default_us": "",
    },
    "trial_recorded": {
        "config": "",
        "time_us": "null for a config that could not be measured",
        "stopped": "whether it was stopped early as slow",
        "reason": "why it could not be measured, or null",
        "detail": "the message about it, or null",
        "best_us": "the best of the study so far",
        "default_us": "",
        "sure": "the certificate's probability so far, or null",
    },
    "study_finished": {
        "time_us": "",
        "default_us": "",
        "trials": "",
        "launched_configs": "",
        "reused": "whether the result existed before",
        "ended": "why: sure, taught, budget, exhausted, most, nothing left; or null",
        "probability": "of its certificate, or null",
        "expected_loss_percent": "or null",
    },
    "study_failed": {"message": ""},
    "study_lost": {"message": ""},
    "study_elsewhere": {"host": "", "pid": "of the worker that holds it"},
    "gpu_noticed": {"text": "", "spoils": "whether it distorts times"},
    "note": {"text": ""},
    "figures": {
        "studies_done": "",
        "studies": "",
        "trials": "recorded by this session",
        "wall_s": "",
        "gpu_share": "share of the time that GPUs were busy, or null",
        "compiler_share": "likewise",
    },
    "session_ended": {
        "interrupted": "whether the session was interrupted",
        "studies_done": "those that have a result, whether new or reused",
        "studies_failed": "",
        "trials": "recorded by this session",
        "elapsed_s": "",
    },
    "written": {"files": "paths of tuned JSON and recordings"},
}
"""The keys of each event, besides ``event`` and ``at`` (seconds since 1970). Events of a study also have
``OF_STUDY``."""

STUDY_EVENTS = tuple(name for name in EVENTS if name.startswith(("study_", "trial_")))


class JsonLines:
    """Writes each event of a session as a line of JSON to stdout. A listener of its events, and a context manager.

    Safe to use from several threads, since lines are written whole. Nobody waits for a reader that has gone away.

    Args:
        about: what the first line says about the session.
    """

    def __init__(self, about: Mapping[str, Any]) -> None:
        self._about = about
        self._session: Callable[[], Session | None] = lambda: None
        self._lock = threading.Lock()
        self._began = time.monotonic()
        self.done, self._failed, self.trials = 0, 0, 0
        self._over = False
        self._ended = threading.Event()
        self._ticker = threading.Thread(target=self._tick, name="progress", daemon=True)

    def __enter__(self) -> "JsonLines":
        self.tell("session_started", schema=SCHEMA, **self._about)
        self._ticker.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._end(interrupted=False)

    def _end(self, *, interrupted: bool) -> None:
        if self._over:
            return
        self._over = True
        self._ended.set()
        self._ticker.join()
        counts = {"studies_done": self.done, "studies_failed": self._failed, "trials": self.trials}
        self.tell("session_ended", interrupted=interrupted, **counts, elapsed_s=self._elapsed_s())

    def _elapsed_s(self) -> float:
        return round(time.monotonic() - self._began, 3)

    def watch(self, session: "Callable[[], Session | None]") -> None:
        """Report the figures of a session from now on."""
        self._session = session

    def _tick(self) -> None:
        while not self._ended.wait(FIGURES_EVERY_S):
            session = self._session()
            if session is not None:
                activity = session.activity
                names = ("studies_done", "studies", "trials", "wall_s", "gpu_share", "compiler_share")
                self.tell("figures", **{name: getattr(activity, name) for name in names})

    def __call__(self, event: Event) -> None:
        """Report one event."""
        if isinstance(event, GpuNoticed):
            self.tell("gpu_noticed", text=event.text, spoils=event.spoils)
            return
        self.trials += isinstance(event, TrialRecorded)
        self.done += isinstance(event, StudyFinished)
        self._failed += isinstance(event, StudyFailed)
        of_study = (event.name, event.problem.kernel, event.problem.label)
        name, said = _said(event)
        self.tell(name, **dict(zip(OF_STUDY, of_study, strict=True)), **said)

    def note(self, text: str) -> None:
        """Report something else that happened."""
        self.tell("note", text=text)

    def interrupted(self, then: Sequence[str] = ()) -> None:
        """Report that the session was interrupted, with what a person would be told."""
        for line in then:
            self.note(line.strip())
        self._end(interrupted=True)

    def tell(self, event: str, **said: Any) -> None:
        """Write a line."""
        line = json.dumps({"event": event, "at": round(time.time(), 3), **said}) + "\n"
        with self._lock:
            sys.stdout.write(line)
            sys.stdout.flush()


def _said(event: Event) -> tuple[str, dict[str, Any]]:
    """Return the name of a study's event, and what it says besides the study."""
    match event:
        case StudyStarted():
            names = ("recorded", "candidates", "best_us", "default_us")
            return "study_started", {name: getattr(event, name) for name in names}
        case TrialRecorded():
            return "trial_recorded", _of_trial(event)
        case StudyFinished(ending=ending, expected_loss=loss):
            names = ("time_us", "trials", "launched_configs", "reused")
            return "study_finished", {
                **{name: getattr(event, name) for name in names},
                "default_us": event.default_time_us,
                "ended": ending.reason.value if ending else None,
                "probability": ending.probability if ending else None,
                "expected_loss_percent": None if loss is None else 100.0 * loss,
            }
        case StudyElsewhere():
            return "study_elsewhere", {"host": event.host, "pid": event.pid}
        case StudyFailed():
            return "study_failed", {"message": event.message}
        case StudyLost():
            return "study_lost", {"message": event.message}
        case GpuNoticed():
            return "gpu_noticed", {"text": event.text, "spoils": event.spoils}


def _of_trial(event: TrialRecorded) -> dict[str, Any]:
    outcome = event.outcome
    measured = outcome if isinstance(outcome, Measurement) else None
    return {
        "config": event.config,
        "time_us": measured.time_us if measured else None,
        "stopped": bool(measured and measured.stopped),
        "reason": None if isinstance(outcome, Measurement) else outcome.reason.value,
        "detail": None if isinstance(outcome, Measurement) else (outcome.detail or None),
        "best_us": event.best_us,
        "default_us": event.default_us,
        "sure": event.sure,
    }
