"""The live console in a real terminal: what it shows, at several sizes, and what Ctrl-C leaves behind."""

import json
import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest
from helpers import (
    EXPAND,
    EXPAND_TABLE,
    SHRINK,
    SHRINK_BIG,
    bundled,
    command,
    run_command,
    sliced,
    sqlite_url,
    stored_trials,
    write_all,
)
from terminal import Terminal, terminal

from bo_tune.formats.recording import Recording

pytestmark = pytest.mark.slow

PROBLEMS = 40
CTRL_C = "\x03"
QUICK = ("--kernel", "lora_expand", "--budget", 10, "--sampler", "random")
"""Of a session whose end is looked at: half of the problems."""


@pytest.fixture(scope="module")
def recordings(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Enough problems for a session of some seconds, of grids so large that each can be seen at work."""
    folder = tmp_path_factory.mktemp("recordings")
    shrinks = [sliced(SHRINK_BIG), *(larger(SHRINK, m) for m in range(1, PROBLEMS // 2))]
    return write_all(folder, *shrinks, *(larger(EXPAND, m) for m in range(1, PROBLEMS // 2 + 1)))


def larger(name: str, m: int) -> Recording:
    """A larger part of a bundled recording."""
    ranges = bundled(name).space.ranges
    return sliced(name, m=m, **{parameter: ranges[parameter] for parameter in ("block_m", "block_n", "block_k")})


class Session:
    """A ``bo-tune tune`` on recordings, to be run in terminals of several sizes."""

    def __init__(self, folder: Path, recordings: Path) -> None:
        self.folder, self.database = folder, folder / "x y.db"
        where = ("--device", f"replay:{recordings}", "--storage", sqlite_url(self.database), "--out", folder / "out")
        self.arguments: list[object] = ["tune", *where, "--seed", 3, "--budget", 24]

    def run(self, *more: object, **how: object) -> "Iterator[Terminal]":
        return terminal(command(*self.arguments, *more), cwd=self.folder, **how)  # type: ignore[arg-type, return-value]


@pytest.fixture
def session(tmp_path: Path, recordings: Path) -> Session:
    return Session(tmp_path, recordings)


def is_drawn(lines: list[str]) -> bool:
    """Say whether all the parts are there: the bar, figures, the table, and what happened last.

    A study has a certificate (``sure``) for some tenths of a second only, between two screens.
    """
    text = "\n".join(lines)
    table = re.search(r"^kernel +problem .*best us +x default( +sure)?$", text, re.MULTILINE)
    row = re.search(r"L\d\.s\d\.m\d+\.\S+ .* \d+\.\d\d +\d\.\d\dx( +(\d\.\d\d|-))?$", text, re.MULTILINE)
    return bool(table and row and re.search("^(..:..:..  )?tuned   ", text, re.MULTILINE))


@pytest.mark.parametrize("columns", [100, 44])
def test_all_parts_are_drawn_and_no_line_is_broken(session: Session, columns: int) -> None:
    with session.run(columns=columns, rows=24) as shown:
        lines = shown.wait_for(is_drawn)
        (at,) = [i for i, line in enumerate(lines) if re.match(rf"\d+/{PROBLEMS} studies", line)]
        assert re.search(r" \d+ s(, about (\d+ min )?\d+ s left)?$", lines[at])
        assert "━" in lines[at] or (columns == 44 and " min " in lines[at]), "there is a bar where there is room"
        assert re.match(r"[\d,]+ trials · \d\.\d\dx the default$", lines[at + 1])
        assert lines[at + 2] == ""
        assert lines[at + 3].startswith("kernel")
        assert ("trials" in lines[at + 3]) == (columns == 100)
        assert lines[at + 4].startswith("lora_") == (columns == 100)
        assert lines[at + 5] == ""
        happened = [line for line in lines[at + 6 :] if line]
        assert 1 <= len(happened) <= 5
        assert all(re.match(r"(..:..:..  )?tuned   (lora_)?(shrink|expand) L\d", line) for line in happened)


def test_a_low_terminal_shows_what_fits(session: Session) -> None:
    with session.run(columns=80, rows=4) as shown:
        lines = shown.wait_for(lambda lines: any(f"/{PROBLEMS} studies" in line for line in lines))
        assert len([line for line in lines if f"/{PROBLEMS} studies" in line]) == 1
        assert not any(line.startswith(("tuned", "kernel")) for line in lines)


def test_at_the_end_the_display_is_gone_and_the_results_are_there(session: Session) -> None:
    with session.run(*QUICK, columns=100, rows=24) as shown:
        shown.wait_for(lambda lines: any("━" in line for line in lines))
        assert shown.finish() == 0
        assert "━" not in shown.text
        assert f"wrote{session.folder / 'out'}" in "".join(shown.text.split())
        assert re.search(rb"\x1b\[[\d;]*3[\d;]+m", shown.output), "colours where there may be"
        assert len(re.findall(r"^ L4\.s2\.m\d+\.k32\.n14336 +m", shown.text, re.MULTILINE)) == PROBLEMS // 2


@pytest.mark.parametrize(("environment", "live"), [({"TERM": "dumb"}, False), ({"NO_COLOR": "1"}, True)])
def test_dumb_terminals_and_no_color(session: Session, environment: dict[str, str], live: bool) -> None:
    with session.run(*QUICK, columns=100, rows=24, environment=environment) as shown:
        assert shown.finish() == 0
        assert (b"\x1b[?25l" in shown.output) == live  # a display hides the cursor
        assert not re.search(rb"\x1b\[[\d;]*3\dm", shown.output)  # no colour
        assert (f"[{PROBLEMS // 2}/{PROBLEMS // 2}] tuned" in shown.text) == (not live)


def test_a_pipe_gets_plain_lines(session: Session) -> None:
    ran = run_command(*session.arguments, *QUICK, cwd=session.folder)
    assert ran.code == 0
    assert "\x1b" not in ran.out
    assert len(re.findall(r"^\[\d+/20\] tuned    lora_expand ", ran.out, re.MULTILINE)) == 20


def test_verbose_lines_are_above_the_display(session: Session) -> None:
    with session.run("--verbose", columns=160, rows=24) as shown:
        lines = shown.wait_for(lambda lines: any("recorded" in line for line in lines) and is_drawn(lines))
        at = next(i for i, line in enumerate(lines) if f"/{PROBLEMS} studies" in line)
        assert not any("recorded" in line for line in lines[at:])


def test_ctrl_c_says_what_is_kept_and_its_command_really_resumes(session: Session) -> None:
    problems = PROBLEMS // 2
    session.arguments += ["--kernel", "lora_expand"]
    with session.run(columns=400, rows=24) as shown:
        shown.wait_for(is_drawn)
        shown.type(CTRL_C)
        assert shown.finish() == 130
        text = shown.text
    told = re.search(rf"interrupted: (\d+) of {problems} studies finished, (\d+) trials recorded", text)
    assert told, text
    stored = stored_trials(session.database)
    assert sum(map(len, stored.values())) == int(told[2]) > 0
    assert f"kept in {sqlite_url(session.database)}".replace(" ", "") in "".join(text.split())
    assert "Traceback" not in text
    (again_line,) = [line for line in text.splitlines() if line.startswith("  bo-tune tune")]
    again = shlex.split(again_line)
    assert again == ["bo-tune", *map(str, session.arguments)]
    done = run_command(*again[1:], cwd=session.folder)
    assert done.code == 0, done.err
    kept = re.findall(rf"^\[\d+/{problems}\] kept ", done.out, re.MULTILINE)
    assert len(kept) == int(told[1])
    resumed = stored_trials(session.database)
    for name, trials in stored.items():
        assert [t.params for t in resumed[name]][: len(trials)] == [t.params for t in trials]
    assert (session.folder / "out" / EXPAND_TABLE).exists()


def test_quiet_prints_nothing_but_what_went_wrong(session: Session) -> None:
    with session.run("--quiet", *QUICK, columns=100, rows=24) as shown:
        assert shown.finish() == 0
        assert shown.output == b""
    assert (session.folder / "out" / EXPAND_TABLE).exists()
    before = sum(map(len, stored_trials(session.database).values()))
    with session.run("-q", columns=100, rows=24) as shown:
        while sum(map(len, stored_trials(session.database).values())) <= before:
            assert shown.read()
        shown.type(CTRL_C)
        assert shown.finish() == 130
        assert shown.text.lstrip("^C").startswith("interrupted: ")


def test_json_on_stdout_leaves_the_display_on_stderr(session: Session) -> None:
    """Standard output is a file here, as in ``bo-tune tune --json - > figures.json`` at a terminal."""
    words = shlex.join(command(*session.arguments, *QUICK, "--json", "-"))
    with terminal(["sh", "-c", f"{words} > figures.json"], columns=100, rows=24, cwd=session.folder) as shown:
        shown.wait_for(lambda lines: any("━" in line for line in lines))
        assert shown.finish() == 0
    document = json.loads((session.folder / "figures.json").read_text())
    assert len(document["studies"]) == PROBLEMS // 2


def test_a_worker_has_the_same_console(session: Session) -> None:
    with session.run(columns=100, rows=24) as shown:
        shown.wait_for(is_drawn)
        shown.type(CTRL_C)
        assert shown.finish() == 130
    device = session.arguments[2]
    words = command("worker", "--storage", sqlite_url(session.database), "--device", device)
    with terminal(words, columns=100, rows=24, cwd=session.folder) as shown:
        lines = shown.wait_for(is_drawn)
        assert any(re.match(r"\d+ studies done  \d+ s", line) for line in lines)
