"""What is printed: every fact at every width, whole figures, and plain lines where the output is no terminal."""

import io
import re
from collections.abc import Callable, Iterable
from pathlib import Path

import pytest
from helpers import EXPAND, SHRINK, SHRINK_BIG, sliced
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console, RenderableType

from bo_tune.compare import Comparisons, compare
from bo_tune.devices import replay_job
from bo_tune.events import StudyFailed, StudyFinished, StudyStarted, TrialRecorded
from bo_tune.listing import StudyListing, list_studies
from bo_tune.outcome import Invalid, InvalidReason, Measurement
from bo_tune.problem import Problem
from bo_tune.report import console as report
from bo_tune.report.console import percent, short_config, speed_up, us
from bo_tune.report.progress import Progressing
from bo_tune.session import Session, SessionSettings, Tuned
from bo_tune.simulate import document, simulate
from bo_tune.store.storage import MEMORY, StudyStore
from bo_tune.tables import write_tables

WIDTHS = (60, 80, 200)
RECORDINGS = [sliced(SHRINK), sliced(SHRINK_BIG), sliced(EXPAND)]
PROBLEM = Problem("lora_shrink", 4, 1, 16, 4096, 16)
CONFIG = {"block_m": 16, "block_n": 32, "block_k": 64, "num_warps": 4, "num_stages": 2, "split_k": 8, "num_ctas": 1}


def rendered(renderables: Iterable[RenderableType], width: int, *, terminal: bool = True) -> str:
    file = io.StringIO()
    console = Console(file=file, width=width, force_terminal=terminal, no_color=True, color_system=None)
    for renderable in renderables:
        console.print(renderable)
    text = re.sub(r"\x1b\[[0-9;]*m", "", file.getvalue())
    assert max(map(len, text.splitlines()), default=0) <= width
    return text


def words(text: str) -> str:
    """Text without borders and line breaks, so that what was folded can be found: the letters alone."""
    return re.sub(r"[\s│┃|]+", "", text)


class Done:
    """A search and a grid of the same problems."""

    tuned: list[Tuned]
    listings: list[StudyListing]
    comparisons: Comparisons


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> Done:
    found, folder = Done(), tmp_path_factory.mktemp("tables")
    store = StudyStore(MEMORY)
    for name, settings in (
        ("tuned", SessionSettings(sampler="random", budget=20)),
        ("grid", SessionSettings(sampler="grid", budget=None)),
    ):
        session = Session(store, settings)
        tuned = session.run([replay_job(recording) for recording in RECORDINGS])
        write_tables(folder / name, session.entries(tuned))
        if name == "tuned":
            found.tuned = tuned
    found.listings = list_studies(store)
    found.comparisons = compare(folder / "tuned", folder / "grid", RECORDINGS)
    return found


def figures_are_whole(text: str, figures: Iterable[str]) -> None:
    assert not re.search(r"[\d.]…", text), text
    missing = [figure for figure in figures if not re.search(rf"(?<![\d.]){re.escape(figure)}(?![\d.])", text)]
    assert not missing, text


@pytest.mark.parametrize("width", WIDTHS)
def test_what_was_tuned(done: Done, width: int) -> None:
    text = rendered(report.results_tables(done.tuned), width)
    results = [t.result for t in done.tuned if t.result]
    figures = [us(r.time_us) for r in results] + [us(r.default_time_us) for r in results]
    figures_are_whole(text, figures + [speed_up(r.default_time_us, r.time_us) for r in results])
    for tuned in done.tuned:
        assert tuned.result is not None
        assert tuned.job.problem.kernel in text
        if width > 60:
            assert words(tuned.job.problem.shape_label) in words(text)
            assert words(short_config(tuned.result.config)) in words(text) or width < 200
    assert "NVIDIA H100 80GB HBM3" in " ".join(text.split())


@pytest.mark.parametrize("width", WIDTHS)
def test_a_comparison(done: Done, width: int) -> None:
    text = rendered(report.comparison_tables(done.comparisons), width)
    entries = done.comparisons.entries
    times = [us(t) for e in entries for t in (e.tuned_us, e.grid_us, e.default_us)]
    figures_are_whole(text, times + [percent(e.regret_percent) for e in entries])


def test_the_lines_below_a_comparison(done: Done) -> None:
    lines = "\n".join(report.comparison_lines(done.comparisons))
    for side in (done.comparisons.tuned, done.comparisons.grid):
        figures_are_whole(lines, [f"{side[name]:,.0f}" for name in ("launched_configs", "launches", "compiles")])
        assert f"{side['wall_s']:.1f} s" in lines
    for name, ratio in done.comparisons.ratios.items():
        assert name == "compile_s" or f"{ratio:.1f}x {name.replace('_', ' ')}" in lines
    assert "of 3 entries" in lines


@pytest.mark.parametrize("width", WIDTHS)
def test_the_studies_of_a_database(done: Done, width: int) -> None:
    text = rendered(report.studies_tables(done.listings), width)
    counts = [str(study.states["COMPLETE"]) for study in done.listings]
    times = [us(time_us) for study in done.listings for time_us in (study.best_us, study.default_us)]
    figures_are_whole(text, counts + times)
    joined = words(text)
    for study in done.listings:
        assert all(str(count) in text for count in study.reasons.values())
        if width == 200:
            assert all(words(f"{reason} {count}") in joined for reason, count in study.reasons.items())
            assert words(study.name.problem.shape_label) in joined


@pytest.mark.parametrize("width", WIDTHS)
def test_a_simulation(width: int) -> None:
    runs = list(simulate(RECORDINGS[:2], SessionSettings("random", 20), seeds=[0, 1]))
    summary = document(runs)["summary"]
    text = rendered([report.simulation_table(summary)], width)
    rows = [summary[checkpoint] for checkpoint in ("10", "20", "final")]
    names = ("mean_regret_percent", "median_regret_percent", "p90_regret_percent")
    figures_are_whole(text, [percent(row[name]) for row in rows for name in names])


def test_a_problem_of_which_nothing_runs_is_listed(done: Done) -> None:
    tuned = done.tuned[0]
    nothing = Tuned(tuned.job, tuned.name, None, tuned.tuner)
    text = rendered(report.results_tables([nothing]), 200)
    assert "nothing could be measured" in text
    assert "0 studies" in report.session_lines([nothing])[0]


# Progress


Events = Callable[[Progressing], None]


def played(play: Events, *, terminal: bool, verbose: bool = False, width: int = 60) -> str:
    file = io.StringIO()
    console = Console(file=file, width=width, force_terminal=terminal, color_system=None)
    with Progressing(console, 2, verbose=verbose) as progress:
        play(progress)
    return file.getvalue()


def a_session(progress: Progressing) -> None:
    progress(StudyStarted("study one", PROBLEM, 7, 40))
    progress(TrialRecorded("study one", PROBLEM, CONFIG, Measurement((5.25, 5.25)), 5.25))
    progress(TrialRecorded("study one", PROBLEM, CONFIG, Measurement((50.0,), stopped=True), 5.25))
    progress(TrialRecorded("study one", PROBLEM, CONFIG, Invalid(InvalidReason.COMPILE_TIMEOUT, "took 8 s"), 5.25))
    progress(StudyFinished("study one", PROBLEM, 5.25, 10.5, 10, 9, reused=False))
    progress(StudyFailed("study two", PROBLEM, "no memory"))


def test_without_a_terminal_there_are_plain_lines() -> None:
    text = played(a_session, terminal=False)
    assert "\x1b" not in text
    assert "\r" not in text
    assert text.splitlines() == [
        "resumed  lora_shrink L4.s1.m16.k4096.n16.bfloat16: 7 trials were recorded before",
        "[1/2] tuned   lora_shrink L4.s1.m16.k4096.n16.bfloat16: 5.25 us, 2.00x of the default, 9 configs launched",
        "failed   lora_shrink L4.s1.m16.k4096.n16.bfloat16: no memory",
    ]


def test_verbose_prints_each_recorded_trial() -> None:
    lines = [line for line in played(a_session, terminal=False, verbose=True).splitlines() if "recorded study" in line]
    assert lines == [
        "recorded study one m16 n32 k64 w4 s2 sk8: 5.25 us",
        "recorded study one m16 n32 k64 w4 s2 sk8: 50.00 us, stopped as slow",
        "recorded study one m16 n32 k64 w4 s2 sk8: compile timeout (took 8 s)",
    ]


def test_a_terminal_has_a_bar_and_the_same_lines() -> None:
    text = played(a_session, terminal=True, width=200)
    assert "\x1b[" in text
    assert "2.00x of the default, 9 configs launched" in text


def test_an_interruption_says_what_is_kept() -> None:
    def interrupted(progress: Progressing) -> None:
        a_session(progress)
        progress.interrupted()

    last = played(interrupted, terminal=False).splitlines()[-1]
    assert last.startswith("interrupted: ")
    assert "of 2 studies finished, 3 trials recorded by this run; the same command goes on from here" in last


def test_a_kept_study_says_so() -> None:
    text = played(lambda p: p(StudyFinished("s", PROBLEM, None, None, 0, 0, reused=True)), terminal=False)
    assert (
        text == "[1/2] kept    lora_shrink L4.s1.m16.k4096.n16.bfloat16: - us, - of the default, 0 configs launched\n"
    )


# Words


@given(st.floats(0.01, 1e6))
def test_a_time_is_shown_to_the_hundredth(time_us: float) -> None:
    assert float(us(time_us)) == pytest.approx(time_us, abs=0.00501)


@pytest.mark.parametrize(
    ("shown", "expected"),
    [
        (us(None), "-"),
        (percent(None), "-"),
        (percent(1.0), "1.00 %"),
        (speed_up(None, 5.0), "-"),
        (speed_up(10.0, None), "-"),
        (speed_up(10.0, 5.0), "2.00x"),
        (short_config(None), "-"),
        (short_config(CONFIG), "m16 n32 k64 w4 s2 sk8"),
        (short_config({"block_m": 16, "num_ctas": 1}), "m16"),
    ],
)
def test_words(shown: str, expected: str) -> None:
    assert shown == expected


def test_markup_in_names_is_not_interpreted(tmp_path: Path) -> None:
    text = played(lambda p: p(StudyFailed("s", PROBLEM, "[bold]x[/bold] [/oops]")), terminal=False)
    assert "[bold]x[/bold] [/oops]" in text
