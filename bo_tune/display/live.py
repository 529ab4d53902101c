"""The live display of a session: what there is to see, cut to the size of the terminal. No line is ever folded."""

import time
from collections.abc import Sequence
from dataclasses import dataclass

from rich.console import Group, RenderableType
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from bo_tune.display.console import duration, speed_up, us
from bo_tune.display.watched import Happening, InFlight, View
from bo_tune.errors import printable

LEAST_BAR = 8
"""Columns of a bar that is worth drawing."""

MOST_HAPPENINGS = 5
"""Lines of what happened last."""

CLOCK_FROM = 90
"""Columns from which on the time of what happened is shown."""

PREFIXES = ("fused_moe_lora_", "lora_")
"""Of kernel names; left out where there is no room."""

RESULTS = ("tuned", "kept")
"""Kinds of happenings whose last figures are left out where there is no room."""

STYLES = {
    "failed": "red",
    "lost": "red",
    "restart": "yellow",
    "note": "yellow",
    "warning": "red",
    "tuned": "",
    "kept": "dim",
}


@dataclass(frozen=True, slots=True)
class Column:
    """A column of the table of studies, with its cells."""

    name: str
    cells: Sequence[str]
    right: bool = False

    @property
    def width(self) -> int:
        """Columns of the terminal that it takes."""
        return max(len(self.name), *map(len, self.cells))

    def lines(self, width: int) -> list[str]:
        """Return head and cells, all equally wide; too long ones end with an ellipsis."""
        cut = [text if len(text) <= width else f"{text[: width - 1]}…" for text in (self.name, *self.cells)]
        return [text.rjust(width) if self.right else text.ljust(width) for text in cut]


def screen(view: View, width: int, height: int) -> RenderableType:
    """Return what to draw: bar, figures, studies in flight, what happened last; at most ``height`` lines."""
    figures = _figures(view, width)
    room = height - 1 - len(figures)
    happenings = view.happenings[-min(MOST_HAPPENINGS, max(0, room // 3)) :] if room >= 3 else ()
    below = [Text(), *(_happening(one, width) for one in happenings)] if happenings else []
    table = _studies(view.in_flight, width, room - len(below) - 1)
    above = [Text(), *table] if table else []
    return Group(_bar(view, width), *(figures + above + below)[: max(0, height - 1)])


def _bar(view: View, width: int) -> RenderableType:
    state = Text(f"{view.count} studies" + (" done" if view.studies is None else ""), style="bold")
    if view.failed:
        state.append(f", {view.failed} failed", style="bold red")
    clock = duration(view.elapsed_s)
    if view.stopping:
        clock += ", stopping: trials under way end first"
    elif view.left_s is not None:
        clock += f", about {duration(view.left_s)} left"
    room = width - len(state) - len(clock) - 2
    if view.studies is None or room < LEAST_BAR:
        line = Text.assemble(state, "  ", clock)
        line.truncate(width, overflow="ellipsis")
        return line
    grid = Table.grid(padding=(0, 1))
    grid.add_row(state, ProgressBar(view.studies, view.done, width=min(room, 40)), clock)
    return grid


def _figures(view: View, width: int) -> list[Text]:
    """Return the figures in at most two lines; what does not fit is left out."""
    lines: list[str] = []
    for figure in view.figures or ("starting",):
        if lines and len(lines[-1]) + 3 + len(figure) <= width:
            lines[-1] += f" · {figure}"
        elif len(lines) < 2 and len(figure) <= width:
            lines.append(figure)
    return [Text(line, no_wrap=True) for line in lines]


def _studies(studies: Sequence[InFlight], width: int, height: int) -> list[Text]:
    """Return the table of studies in flight, with a last line on those that are left out."""
    if not studies or height < 2:
        return []
    shown = studies if len(studies) < height else studies[: height - 2]
    columns = _fitting(shown, width)
    others = sum(column.width + 2 for column in columns if column.name != "problem")
    widths = [max(1, min(c.width, width - others)) if c.name == "problem" else c.width for c in columns]
    rows = zip(*(column.lines(w) for column, w in zip(columns, widths, strict=True)), strict=True)
    lines = [Text("  ".join(row), style="dim" if number == 0 else "", no_wrap=True) for number, row in enumerate(rows)]
    if len(shown) < len(studies):
        lines.append(Text(f"… {len(studies) - len(shown)} more", style="dim"))
    for line in lines:
        line.truncate(width, overflow="ellipsis")
    return lines


def _fitting(studies: Sequence[InFlight], width: int) -> list[Column]:
    """Return the columns there is room for: kernel names get short first, then columns go."""
    if not studies:
        return []
    trials = Column("trials", [str(s.trials) for s in studies], right=True)
    best = Column("best us", [us(s.best_us) for s in studies], right=True)
    gain = Column("x default", [speed_up(s.default_us, s.best_us) for s in studies], right=True)
    sure = Column("sure", ["-" if s.sure is None else f"{s.sure:.2f}" for s in studies], right=True)
    problem = Column("problem", [s.problem.shape_label for s in studies])
    kernel = Column("kernel", [s.problem.kernel for s in studies])
    short = Column("kernel", [_short(s.problem.kernel) for s in studies])
    choices = [
        [kernel, problem, trials, best, gain, sure],
        [short, problem, trials, best, gain, sure],
        [short, problem, best, gain, sure],
        [short, problem, best, gain],
    ]
    for columns in choices:
        if sum(column.width + 2 for column in columns) - 2 <= width:
            return columns
    return choices[-1] if width >= 40 else [problem, best]


def _short(kernel: str) -> str:
    for prefix in PREFIXES:
        if kernel.startswith(prefix):
            return kernel.removeprefix(prefix)
    return kernel


def _happening(one: Happening, width: int) -> Text:
    place = ""
    if one.problem is not None:
        kernel = one.problem.kernel if width >= CLOCK_FROM else _short(one.problem.kernel)
        place = f"{kernel} {one.problem.shape_label}: "
    clock = time.strftime("%H:%M:%S  ", time.localtime(one.at)) if width >= CLOCK_FROM else ""
    told = printable(f"{one.kind:<8}{place}{one.text}")
    if one.kind in RESULTS and len(clock) + len(told) > width:
        told = told.rpartition(", ")[0].replace(" of the default", "")
    text = Text.assemble((clock, "dim"), (told, STYLES.get(one.kind, "")))
    text.truncate(width, overflow="ellipsis")
    text.no_wrap = True
    return text
