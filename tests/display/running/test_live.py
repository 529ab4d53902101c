"""The live display at every size: all of it where there is room, never a line too long or one too many."""

import io
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from bo_tune.core.problem import LoraProblem
from bo_tune.display.running.live import screen
from bo_tune.display.running.watched import Happening, InFlight, View

KERNELS = ("lora_shrink", "lora_expand", "fused_moe_lora_w13_shrink")


def in_flight(count: int) -> tuple[InFlight, ...]:
    return tuple(
        InFlight(LoraProblem(KERNELS[i % 3], 4, 1, 2 ** (i % 31), 4096, 16), i, 5.25 + i, 10.5, None if i % 2 else 0.62)
        for i in range(count)
    )


def happenings(count: int) -> tuple[Happening, ...]:
    problem = LoraProblem("lora_shrink", 4, 1, 16, 4096, 16)
    result = "5.25 us, 2.00x the default's speed, 9 configs launched"
    some = (
        Happening("tuned", problem, result, time.time()),
        Happening("failed", problem, "CUDA error: " + "x" * 300, time.time()),
        Happening("restart", None, "the GPU process was restarted (1 times so far)", time.time()),
        Happening("kept", problem, result, time.time()),
        Happening("waiting", problem, "host7, process 123, is working on it", time.time()),
    )
    return tuple(some[i % len(some)] for i in range(count))


def view(studies: int = 3, events: int = 3, **more: object) -> View:
    figures = (
        "1,204 trials",
        "1.42x the default",
        "GPU 71%",
        "compilers 88%",
        "34 compiles waiting",
        "3 given up",
    )
    known = {"studies": 200, "done": 118, "failed": 2, "elapsed_s": 12.0, "left_s": 9.0, "figures": figures, **more}
    return View(in_flight=in_flight(studies), happenings=happenings(events), **known)  # type: ignore[arg-type]


def drawn(shown: View, width: int, height: int = 40) -> list[str]:
    file = io.StringIO()
    console = Console(file=file, width=width, height=height, force_terminal=True, color_system=None)
    console.print(screen(shown, width, height))
    return file.getvalue().splitlines()


def test_everything_where_there_is_room() -> None:
    lines = drawn(view(), 120)
    assert lines[0].startswith("118/200 studies, 2 failed ━")
    assert lines[0].rstrip().endswith("12 s, about 9 s left")
    assert lines[1] == ("1,204 trials · 1.42x the default · GPU 71% · compilers 88% · 34 compiles waiting · 3 given up")
    assert lines[3].split() == ["kernel", "problem", "trials", "best", "us", "x", "default", "sure"]
    assert lines[4].split() == ["lora_shrink", "L4.s1.m1.k4096.n16", "0", "5.25", "2.00x", "0.62"]
    assert lines[5].split() == ["lora_expand", "L4.s1.m2.k4096.n16", "1", "6.25", "1.68x", "-"]
    assert lines[6].split()[0] == "fused_moe_lora_w13_shrink"
    assert "failed  lora_shrink L4.s1.m16.k4096.n16: CUDA error: xx" in lines[9]
    assert "restart the GPU process was restarted" in lines[10]


@pytest.mark.parametrize(
    ("width", "columns"),
    [
        (100, ["kernel", "problem", "trials", "best us", "x default", "sure"]),
        (80, ["kernel", "problem", "trials", "best us", "x default", "sure"]),
        (60, ["kernel", "problem", "best us", "x default", "sure"]),
        (52, ["kernel", "problem", "best us", "x default"]),
        (34, ["problem", "best us"]),
    ],
)
def test_narrow_terminals_have_fewer_columns(width: int, columns: list[str]) -> None:
    lines = drawn(view(), width)
    (head,) = [line for line in lines if "problem" in line]
    assert [name for name in ("kernel", "problem", "trials", "best us", "x default", "sure") if name in head] == columns
    assert any("5.25" in line and "m1.k4096" in line for line in lines)
    assert all(len(line.rstrip()) <= width for line in lines)


def test_low_terminals_have_fewer_rows() -> None:
    lines = drawn(view(studies=20, events=20), 100, 16)
    assert len(lines) == 16
    rows = [line for line in lines if "x  " in line and "m" in line and "L4" in line and "us," not in line]
    (more,) = [line for line in lines if line.startswith("… ")]
    assert int(more.split()[1]) + len(rows) == 20
    assert len(drawn(view(studies=20, events=20), 100, 3)) == 2


def test_all_rows_fit_or_the_last_line_says_how_many_do_not() -> None:
    assert not [line for line in drawn(view(studies=5, events=0), 100, 10) if line.startswith("… ")]
    assert [line for line in drawn(view(studies=7, events=0), 100, 10) if line.startswith("… 2 more")]


def test_what_happened_is_shortened_where_it_is_a_result() -> None:
    (line,) = [line for line in drawn(view(events=4), 90) if "kept" in line]
    assert line.rstrip().endswith("kept    lora_shrink L4.s1.m16.k4096.n16: 5.25 us, 2.00x")
    (line,) = [line for line in drawn(view(events=4), 60) if "kept" in line]
    assert line.rstrip() == "kept    shrink L4.s1.m16.k4096.n16: 5.25 us, 2.00x"
    (line,) = [line for line in drawn(view(events=4), 60) if "failed  " in line]
    assert line.rstrip() == "failed  shrink L4.s1.m16.k4096.n16: CUDA error: xxxxxxxxxxx…"


def test_stopping_is_said() -> None:
    assert "stopping: finishing the trials under way" in drawn(view(stopping=True), 120)[0]


def test_without_a_number_of_studies_there_is_no_bar() -> None:
    assert drawn(view(studies=0, events=0, **{"left_s": None}), 100)[0].startswith("118/200")
    lines = drawn(View(None, 3, 0, 12.0, None, (), (), ()), 100)
    assert lines == ["3 studies done  12 s", "starting"]


@given(
    st.integers(1, 200),
    st.integers(1, 50),
    st.integers(0, 40),
    st.integers(0, 20),
    st.booleans(),
    st.sampled_from([None, 200, 100_000]),
)
def test_no_line_is_too_long_and_none_too_many(
    width: int, height: int, studies: int, events: int, stopping: bool, total: int | None
) -> None:
    shown = view(studies=studies, events=events, stopping=stopping)
    shown = View(total, *(getattr(shown, name) for name in View.__slots__[1:]))
    lines = drawn(shown, width, height)
    assert len(lines) <= max(1, height)
    assert all(len(line.rstrip()) <= width for line in lines)
