"""``bo-tune report``: the page and the document, and what stops it."""

import json
import sys
from pathlib import Path

import pytest
from helpers import BUNDLED, EXPAND, ROOT, SHRINK, Cli, script, sliced, sqlite_url, write_all

from bo_tune.display.page import drawing

pytestmark = pytest.mark.slow

GROWTH = script(ROOT / "benchmarks" / "growth.py")


@pytest.fixture
def undrawn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A renderer that dies at once, as a JavaScript engine does that gets too little memory."""
    (tmp_path / "dying.py").write_text("import os\ndef main(): os.abort()\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(drawing, "MODULE", "dying")


@pytest.fixture
def storage(cli: Cli, tmp_path: Path) -> str:
    """A database of two searches, and beside it what ``tune --json`` wrote."""
    folder = write_all(tmp_path / "recorded", sliced(SHRINK), sliced(EXPAND))
    url = sqlite_url(tmp_path / "x.db")
    figures = tmp_path / "session.json"
    ran = cli("tune", "--device", f"replay:{folder}", "--storage", url, "--out", tmp_path / "o", "--json", figures)
    assert ran.code == 0, ran.err
    return url


def test_a_page_and_a_document_are_written(cli: Cli, storage: str, tmp_path: Path) -> None:
    page, document = tmp_path / "new" / "report.html", tmp_path / "report.json"
    recorded, session = tmp_path / "recorded", tmp_path / "session.json"
    ran = cli(
        "report", "--storage", storage, "--out", page, "--title", "Two <grids>", "--recordings", recorded,
        "--session", session, "--json", document,
    )  # fmt: skip
    assert ran.code == 0, ran.err
    assert ran.out.startswith(f"wrote {page}: 2 studies, ")
    html = page.read_text()
    assert html.startswith("<!doctype html>")
    assert "<title>Two &lt;grids&gt;</title>" in html
    content = json.loads(document.read_text())
    assert content["command"] == "report"
    assert [case["grid_from"] for case in content["cases"]] == [sliced(name).path.name for name in (EXPAND, SHRINK)]
    assert all(case["regret_percent"] >= 0 for case in content["cases"])
    assert f"{content['geomean_speed_up_over_default']:.2f}×" in html


@pytest.mark.usefixtures("charts_are_empty")
def test_recordings_of_other_problems_tell_nothing(cli: Cli, storage: str, tmp_path: Path) -> None:
    document = tmp_path / "report.json"
    ran = cli("report", "--storage", storage, "--recordings", BUNDLED / "h200", "--json", document, "--quiet")
    assert (ran.code, ran.out) == (0, "")
    assert Path("report.html").exists()
    assert [case["grid_from"] for case in json.loads(document.read_text())["cases"]] == [None, None]


@pytest.mark.usefixtures("charts_are_empty")
def test_what_adapters_add_to_a_step_is_a_section(cli: Cli, storage: str) -> None:
    timed = ROOT / "benchmarks" / "results" / "step.h200.json"
    ran = cli("report", "--storage", storage, "--step", timed)
    assert (ran.code, ran.err) == (0, "")
    html = Path("report.html").read_text()
    assert '<a href="#step">' in html
    section = html[html.index('<section aria-labelledby="step">') :]
    for way in ("one stream", "two streams"):
        assert f"<caption>On {way}</caption>" in section
    (first, *_) = json.loads(timed.read_text())["steps"]
    assert f"{first['untuned_us']:.2f}</td>" in section
    assert "VLLM_LORA_ENABLE_DUAL_STREAM=1 is faster at every measured m" in section
    assert cli("report", "--storage", storage).code == 0
    assert "#step" not in Path("report.html").read_text()


def test_a_file_of_something_else_is_no_step(cli: Cli, storage: str, tmp_path: Path) -> None:
    error = cli("report", "--storage", storage, "--step", tmp_path / "session.json").error
    assert "session.json: expected a file that step --json wrote: " in error


def test_what_cannot_be_reported_is_bad_input(cli: Cli, storage: str, tmp_path: Path) -> None:
    assert "no such database" in cli("report", "--storage", sqlite_url(tmp_path / "none.db")).error
    unreadable, wrong = tmp_path / "broken.json", tmp_path / "wrong.json"
    unreadable.write_text("{")
    wrong.write_text('{"devices": 3}')
    for path, what in (
        (tmp_path / "missing.json", ""),
        (unreadable, "not JSON"),
        (wrong, "a file that tune --json wrote"),
    ):
        error = cli("report", "--storage", storage, "--session", path).error
        assert str(path) in error
        assert what in error
    (tmp_path / "file").write_text("")
    assert "cannot be written" in cli("report", "--storage", storage, "--out", tmp_path / "file" / "x.html").error
    assert "no recordings" in cli("report", "--storage", storage, "--recordings", tmp_path / "o").error


def test_a_database_of_grids_alone_has_no_searches(cli: Cli, tmp_path: Path) -> None:
    folder = write_all(tmp_path / "recorded", sliced(EXPAND))
    url = sqlite_url(tmp_path / "x.db")
    ran = cli("grid", "--device", f"replay:{folder}", "--storage", url, "--out", tmp_path / "o")
    assert ran.code == 0, ran.err
    assert "this database has no searches" in cli("report", "--storage", url).error


@pytest.mark.usefixtures("undrawn")
def test_a_report_tells_of_the_newest_and_what_it_left_out(
    cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    url, page, document = sqlite_url(tmp_path / "x.db"), tmp_path / "r.html", tmp_path / "r.json"
    GROWTH.fill(url, 12)
    limits = sys.modules["bo_tune.analysis.review.review"]  # the package has a function of its name
    monkeypatch.setattr(limits, "MOST_STUDIES", 5)
    ran = cli("report", "--storage", url, "--out", page, "--json", document)
    assert "5 studies" in ran.out
    assert "7 older ones left out" in ran.out
    assert "leaves out 7 studies, the oldest of 12" in page.read_text()
    content = json.loads(document.read_text())
    assert (len(content["cases"]), content["left_out"]) == (5, 7)
    assert "m12.k512" in document.read_text()
    monkeypatch.setattr(limits, "MOST_TRIALS", 3 * GROWTH.TRIALS)
    assert "3 studies" in cli("report", "--storage", url, "--out", page).out
    ran = cli("report", "m1.", "--storage", url, "--out", page)
    assert (ran.code, "left out" in ran.out) == (0, False)
    assert "no searches of that name" in cli("report", "nothing like it", "--storage", url).error


@pytest.mark.usefixtures("undrawn")
def test_a_report_outlives_the_renderer_of_its_charts(cli: Cli, tmp_path: Path) -> None:
    url, page = sqlite_url(tmp_path / "x.db"), tmp_path / "r.html"
    GROWTH.fill(url, 2)
    ran = cli("report", "--storage", url, "--out", page)
    assert ran.code == 0
    assert ran.err.count("\n") == 1
    assert "was written without its charts: the renderer of charts died by SIGABRT" in ran.err
    text = page.read_text()
    assert "This page has no charts" in text
    assert "<svg" not in text
    assert len(text) < 200_000
