"""What is printed: every fact at every width, whole figures, and plain lines where the output is no terminal."""

import io
import re
from collections.abc import Iterable
from dataclasses import replace

import pytest
from helpers import EXPAND, SHRINK, SHRINK_BIG, sliced
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console, RenderableType

from bo_tune.analysis.compare import Comparisons, compare
from bo_tune.analysis.listing import StudyListing, list_studies
from bo_tune.analysis.simulate import document, simulate
from bo_tune.core.choices import MEMORY
from bo_tune.core.study_name import natural
from bo_tune.display.comparison import comparison_lines, comparison_tables, simulation_table
from bo_tune.display.console import (
    WIDTH_OF_FILES,
    counted,
    duration,
    is_live,
    percent,
    plain_table,
    print_line,
    short_config,
    speed_up,
    terminal,
    us,
)
from bo_tune.display.results import results_tables, session_lines
from bo_tune.display.studies import studies_tables
from bo_tune.engines.folder import write_tables
from bo_tune.measure.devices import replay_job
from bo_tune.session.session import Session, SessionSettings, Tuned
from bo_tune.store.storage import StudyStore

WIDTHS = (30, 40, 60, 80, 100, 200)
RECORDINGS = [sliced(SHRINK), sliced(SHRINK_BIG), sliced(EXPAND)]
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
    text = rendered(results_tables(done.tuned), width)
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
    text = rendered(comparison_tables(done.comparisons), width)
    entries = done.comparisons.entries
    times = [us(t) for e in entries for t in (e.tuned_us, e.grid_us, e.default_us)]
    figures_are_whole(text, times + [percent(e.regret_percent) for e in entries])


def test_the_lines_below_a_comparison(done: Done) -> None:
    lines = "\n".join(comparison_lines(done.comparisons))
    for side in (done.comparisons.tuned.totals, done.comparisons.grid.totals):
        figures_are_whole(lines, [f"{side[name]:,.0f}" for name in ("launched_configs", "launches", "compiles")])
        assert f"{side['wall_s']:.1f} s" in lines
    for name, ratio in done.comparisons.ratios.items():
        assert name == "compile_s" or f"{ratio:.1f}x {name.replace('_', ' ')}" in lines
    assert "of 3 entries" in lines
    assert "regret: mean" in lines
    assert "grid, exhaustive search: " in lines
    assert "3 entries are in both" in lines


def test_another_search_is_not_called_exhaustive(done: Done) -> None:
    tuned = done.comparisons.tuned
    unsettled = [replace(entry, best_us=None) for entry in done.comparisons.entries]
    comparisons = replace(done.comparisons, entries=unsettled, grid=tuned)
    text = rendered(comparison_tables(comparisons), 200) + "\n".join(comparison_lines(comparisons))
    assert "exhaustive" not in text
    assert "regret" not in text
    assert f"{tuned} against {tuned}" in text
    assert "tuned time over the other's: mean" in text


@pytest.mark.parametrize("width", WIDTHS)
def test_the_studies_of_a_database(done: Done, width: int) -> None:
    text = rendered(studies_tables(done.listings), width)
    counts = [str(study.states["COMPLETE"]) for study in done.listings]
    times = [us(time_us) for study in done.listings for time_us in (study.best_us, study.default_us)]
    figures_are_whole(text, counts + times)
    joined = words(text)
    for study in done.listings:
        if width == 200:  # narrow tables leave out why; what below them adds up all has it
            assert all(words(f"{reason} {count}") in joined for reason, count in study.reasons.items())
            assert words(study.name.problem.shape_label) in joined


@pytest.mark.parametrize("width", WIDTHS)
def test_a_simulation(width: int) -> None:
    runs = list(simulate(RECORDINGS[:2], SessionSettings("random", 20), seeds=[0, 1]))
    summary = document(runs)["summary"]
    text = rendered([simulation_table(summary)], width)
    rows = [summary[checkpoint] for checkpoint in ("10", "20", "final")]
    names = ("mean_regret_percent", "median_regret_percent", "p90_regret_percent")
    figures_are_whole(text, [percent(row[name]) for row in rows for name in names])


def test_a_problem_of_which_nothing_runs_is_listed(done: Done) -> None:
    tuned = done.tuned[0]
    nothing = replace(tuned, result=None)
    text = rendered(results_tables([nothing]), 200)
    assert "nothing could be measured" in text
    assert "0 studies" in session_lines([nothing])[0]


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


@pytest.mark.parametrize(
    ("seconds", "expected"),
    [(0, "0 s"), (59.4, "59 s"), (59.6, "1 min 00 s"), (185, "3 min 05 s"), (3600, "1 h 00 min"), (7805, "2 h 10 min")],
)
def test_durations(seconds: float, expected: str) -> None:
    assert duration(seconds) == expected


def test_colours_may_be_had_in_a_pipe_but_nothing_that_moves_the_cursor(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    console = terminal()
    assert not is_live(console)
    assert console.width == WIDTH_OF_FILES
    console.print("x", style="red")
    assert capsys.readouterr().out == "\x1b[31mx\x1b[0m\n"


def test_a_quiet_console_prints_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    terminal(quiet=True).print("x")
    assert capsys.readouterr() == ("", "")
    terminal(stderr=True).print("x")
    assert capsys.readouterr() == ("", "x\n")


def test_names_out_of_files_are_shown_as_they_are_and_in_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    table = plain_table("[bold]title[/]", ["name"], [])
    table.add_row("[/red] a\nb :smile: \x1b[31m \ud800")
    console = terminal()
    console.print(table)
    print_line(console, "[/red] a\nb :smile: \x1b[31m \ud800")
    text = capsys.readouterr().out
    assert "[bold]title[/]" in text
    assert text.count("[/red] a\\nb :smile: \\x1b[31m \\ud800") == 2


@pytest.mark.parametrize("width", range(30, 201, 5))
def test_no_line_is_wider_than_the_terminal_and_no_figure_is_cut(width: int) -> None:
    """Of whatever a table has: columns that can be spared go first, and rows become blocks in the end."""
    text, figures = ("problem", "layers", "config"), ("default us", "us", "ended")
    table = plain_table("lora_expand on NVIDIA H100 80GB HBM3", text, figures, spare=("ended",))
    long = "qkv_proj, o_proj, gate_up_proj, down_proj, embed_tokens"
    table.add_row("L4.s1.m16.k16.n4096", long, "m16 n64 k32 g8 w4 s2", "1161.32", "125.36", "taught, 20 configs")
    table.add_row("L4.s1.m8192.k16.n14336", "-", "m128 n32 k32 w4 s2", "7.26", "6.69", "budget, 1 config")
    shown = rendered([table], width)
    assert max(map(len, shown.splitlines())) <= width
    figures_are_whole(shown, ["1161.32", "125.36", "7.26", "6.69"])
    assert "L4.s1.m8192.k16.n14336" in shown
    assert "embed_tokens" in shown
    assert ("taught" in shown) == (width < 76 or width >= 97), shown


def test_texts_are_sorted_by_their_numbers() -> None:
    assert sorted(["m256", "m16", "L4.m2", "m1024", "m"], key=natural) == ["L4.m2", "m", "m16", "m256", "m1024"]


def test_one_of_something_is_one() -> None:
    assert [counted(count, "study", "studies") for count in (0, 1, 2000)] == ["0 studies", "1 study", "2,000 studies"]
