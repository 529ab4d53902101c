"""A session while it runs: every event is told, and what a person needs is there afterwards."""

import io
from collections.abc import Callable
from dataclasses import replace

import pytest
from rich.console import Console

from bo_tune.core.activity import DeviceActivity, FarmActivity, GpuActivity, SessionActivity
from bo_tune.core.events import (
    GpuNoticed,
    StudyElsewhere,
    StudyFailed,
    StudyFinished,
    StudyLost,
    StudyStarted,
    TrialRecorded,
)
from bo_tune.core.outcome import Invalid, InvalidReason, Measurement
from bo_tune.core.problem import LoraProblem
from bo_tune.display.console import PlainConsole
from bo_tune.display.running import progress as module
from bo_tune.display.running.progress import Progressing
from bo_tune.display.running.watched import Happening, Watched, summed_up

PROBLEM = LoraProblem("lora_shrink", 4, 1, 16, 4096, 16)
CONFIG = {"block_m": 16, "block_n": 32, "block_k": 64, "num_warps": 4, "num_stages": 2, "split_k": 8, "num_ctas": 1}

Events = Callable[[Progressing], None]


class FakeSession:
    """A session that has done something, and is asked for it."""

    stopping = False

    def __init__(self, activity: SessionActivity) -> None:
        self.activity = activity


ACTIVITY = SessionActivity(
    wall_s=10.0,
    studies=4,
    studies_done=1,
    studies_begun=2,
    trials=20,
    launches={"check": 20},
    tuner_s=1.0,
    store_s=0.5,
    cpu_s=4.0,
    devices={
        "H100": DeviceActivity(
            FarmActivity(workers=4, busy_s=30.0, waiting=7, timeouts=1, crashes=1), GpuActivity(0, {"measure": 5.0})
        )
    },
)


def played(
    play: Events, *, terminal: bool, verbose: bool = False, studies: int | None = 2, urgent: Console | None = None
) -> str:
    file = io.StringIO()
    console = PlainConsole(file=file, width=200, force_terminal=terminal, force_interactive=terminal, color_system=None)
    with Progressing(console, studies, verbose=verbose, urgent=urgent) as progress:
        play(progress)
    return file.getvalue()


def a_session(progress: Progressing) -> None:
    progress(StudyStarted("study one", PROBLEM, 7, 40))
    progress(TrialRecorded("study one", PROBLEM, CONFIG, Measurement((5.25, 5.25)), 5.25))
    progress(TrialRecorded("study one", PROBLEM, CONFIG, Measurement((50.0,), stopped=True), 5.25))
    progress(TrialRecorded("study one", PROBLEM, CONFIG, Invalid(InvalidReason.COMPILE_TIMEOUT, "took 8 s"), 5.25))
    progress(StudyFinished("study one", PROBLEM, 5.25, 10.5, 10, 9, reused=False))
    progress(StudyFailed("study two", PROBLEM, "no memory"))


LINES = [
    "resumed  lora_shrink L4.s1.m16.k4096.n16.bfloat16: 7 trials were already recorded",
    "[1/2] tuned    lora_shrink L4.s1.m16.k4096.n16.bfloat16: 5.25 us, 2.00x the default's speed, 9 configs launched",
    "failed   lora_shrink L4.s1.m16.k4096.n16.bfloat16: no memory",
]


def test_without_a_terminal_there_are_plain_lines() -> None:
    text = played(a_session, terminal=False)
    assert "\x1b" not in text
    assert "\r" not in text
    assert text.splitlines() == LINES


def test_verbose_prints_each_recorded_trial() -> None:
    lines = [line for line in played(a_session, terminal=False, verbose=True).splitlines() if "recorded study" in line]
    assert lines == [
        "recorded study one m16 n32 k64 w4 s2 sk8: 5.25 us",
        "recorded study one m16 n32 k64 w4 s2 sk8: 50.00 us, stopped as slow",
        "recorded study one m16 n32 k64 w4 s2 sk8: compile timeout (took 8 s)",
    ]


def test_after_a_terminal_s_display_the_failures_are_left() -> None:
    text = played(a_session, terminal=True)
    assert "\x1b[" in text
    assert text.splitlines()[-1].endswith(LINES[2])


def test_failures_of_a_quiet_session_are_told_elsewhere() -> None:
    urgent = io.StringIO()
    quiet = Console(file=io.StringIO(), quiet=True)
    with Progressing(quiet, 2, urgent=Console(file=urgent, width=200)) as progress:
        a_session(progress)
    assert urgent.getvalue().splitlines() == LINES[2:]


def noticed(progress: Progressing) -> None:
    for _ in range(2):  # workers may tell of the same
        progress(GpuNoticed("GPU 0 is busy: 87 % utilisation", spoils=True))
        progress(GpuNoticed("what others do is not noticed", spoils=False))


def test_what_spoils_times_is_a_warning_told_once_and_found_afterwards() -> None:
    warning = "warning  GPU 0 is busy: 87 % utilisation"
    assert played(noticed, terminal=False).splitlines() == [warning, "info     what others do is not noticed"]
    left = played(noticed, terminal=True).rpartition("\x1b[")[2]
    assert warning in left
    assert "not noticed" not in left


def test_a_quiet_session_warns_of_nothing() -> None:
    told = io.StringIO()
    with Progressing(Console(file=io.StringIO(), quiet=True), 2, urgent=Console(file=told)) as progress:
        noticed(progress)
    assert told.getvalue() == ""


def test_an_interruption_says_what_is_kept_and_how_to_go_on() -> None:
    def interrupted(progress: Progressing) -> None:
        a_session(progress)
        progress.interrupted(["kept in x.db", "  bo-tune tune"])

    assert played(interrupted, terminal=False).splitlines()[-3:] == [
        "interrupted: 2 of 2 studies finished, 3 trials recorded by this run",
        "kept in x.db",
        "  bo-tune tune",
    ]
    assert "interrupted: 2 studies finished" in played(interrupted, terminal=False, studies=None)


def test_a_kept_study_says_so() -> None:
    text = played(lambda p: p(StudyFinished("s", PROBLEM, None, None, 0, 0, reused=True)), terminal=False)
    name = "lora_shrink L4.s1.m16.k4096.n16.bfloat16"
    assert text == f"[1/2] kept     {name}: - us, 0 configs launched\n"


def test_what_other_workers_do_is_told() -> None:
    def others(progress: Progressing) -> None:
        progress(StudyElsewhere("s", PROBLEM, "host7", 123))
        progress(StudyLost("s", PROBLEM, "another worker has taken the study over"))

    waiting, lost = played(others, terminal=False).splitlines()
    assert waiting.startswith("waiting  ")
    assert waiting.endswith("host7, process 123, is working on it")
    assert lost.startswith("lost     ")


def test_markup_in_names_is_not_interpreted() -> None:
    text = played(lambda p: p(StudyFailed("s", PROBLEM, "[bold]x[/bold] [/oops]")), terminal=False)
    assert "[bold]x[/bold] [/oops]" in text


def test_a_pipe_gets_a_line_of_figures_now_and_then(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "LINE_EVERY_S", 0.01)
    file = io.StringIO()
    console = Console(file=file, width=200, force_interactive=False)
    with Progressing(console, 4) as progress:
        progress(StudyFinished("s", PROBLEM, 5.0, 10.0, 20, 9, reused=False))
        progress.watch(lambda: FakeSession(ACTIVITY))
        while "progress" not in file.getvalue():
            pass
    line = next(line for line in file.getvalue().splitlines() if line.startswith("progress"))
    assert line == (
        "progress 1/4 studies, 20 trials, 2.00x the default, about 30 s left, GPU 50%, compilers 75%, "
        "7 compiles waiting, 2 given up"
    )


# What is gathered


def watched(studies: int | None = 4) -> tuple[Watched, list[Happening]]:
    notes: list[Happening] = []
    return Watched(studies, notes.append), notes


def test_a_study_in_flight_grows_with_its_trials() -> None:
    gathered, _ = watched()
    gathered.take(StudyStarted("a", PROBLEM, 3, 40, 6.0, 10.0))
    gathered.take(StudyStarted("b", replace(PROBLEM, m=32), 0, 40))
    gathered.take(TrialRecorded("a", PROBLEM, CONFIG, Measurement((5.0,)), 5.0, 10.0, 0.25))
    first, second = gathered.view().in_flight
    assert (first.trials, first.best_us, first.default_us, first.sure) == (4, 5.0, 10.0, 0.25)
    assert (second.problem.m, second.trials, second.best_us, second.sure) == (32, 0, None, None)
    gathered.take(StudyFinished("a", PROBLEM, 5.0, 10.0, 4, 4, reused=False))
    gathered.take(StudyLost("b", PROBLEM, "lost"))
    assert gathered.view().in_flight == ()
    gathered.take(TrialRecorded("a", PROBLEM, CONFIG, Measurement((5.0,)), 5.0))  # told late: no row comes back
    assert gathered.view().in_flight == ()
    assert gathered.trials == 2


def test_a_restart_of_the_gpu_process_is_told_once() -> None:
    gathered, notes = watched()
    session = FakeSession(ACTIVITY)
    gathered.watch(lambda: session)
    gathered.view()
    assert not notes
    device = ACTIVITY.devices["H100"]
    session.activity = replace(ACTIVITY, devices={"H100": replace(device, gpu=GpuActivity(2, {}))})
    gathered.view()
    view = gathered.view()
    assert [note.text for note in notes] == ["the GPU process was restarted (2 times so far)"]
    assert view.happenings == tuple(notes)


def test_the_line_of_figures_without_a_session() -> None:
    gathered, _ = watched(None)
    assert summed_up(gathered.view()) == "0 studies"
    assert not gathered.view().figures


def test_more_studies_than_were_announced_are_counted() -> None:
    gathered, _ = watched(1)
    for name in "ab":
        gathered.take(StudyFailed(name, PROBLEM, "no memory"))
    view = gathered.view()
    assert (view.count, view.failed, view.studies) == ("2/2", 2, 2)
