"""The live display of a session, cut to the size of the terminal. No line is ever folded."""

import time
from collections.abc import Sequence

from rich.console import Group, RenderableType
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from bo_tune.display.console import duration, speed_up, us
from bo_tune.display.running.watched import Happening, InFlight, View
from bo_tune.errors import printable

LEAST_BAR = 8
"""Columns from which a bar is worth drawing."""

MOST_HAPPENINGS = 5
"""Lines about the latest happenings, at most."""

CLOCK_FROM = 90
"""Columns from which the time of a happening is shown."""

PREFIXES = ("fused_moe_lora_", "lora_")
"""Prefixes of kernel names, left out if there is no room."""

RESULTS = ("tuned", "kept")
"""Kinds of happenings whose last figures are left out if there is no room."""

STYLES = {
    "failed": "red",
    "lost": "red",
    "restart": "yellow",
    "note": "yellow",
    "warning": "red",
    "tuned": "",
    "kept": "dim",
}


STUDIES = ("kernel", "problem", "trials", "best us", "x default", "sure")
"""Columns of the table of studies under way."""

FEWER = (STUDIES, ("kernel", "problem", "best us", "x default", "sure"), ("kernel", "problem", "best us", "x default"))
"""Columns if there is less room, with short kernel names."""

FEWEST = ("problem", "best us")
"""Columns if the terminal has fewer than ``NARROW`` columns, where nothing else fits."""

NARROW = 40


def screen(view: View, width: int, height: int) -> RenderableType:
    """Return what to draw: bar, figures, studies in flight, latest happenings. At most ``height`` lines."""
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
        clock += ", stopping: finishing the trials under way"
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
    """Return the figures in at most two lines. Those that do not fit are left out."""
    lines: list[str] = []
    for figure in view.figures or ("starting",):
        if lines and len(lines[-1]) + 3 + len(figure) <= width:
            lines[-1] += f" · {figure}"
        elif len(lines) < 2 and len(figure) <= width:
            lines.append(figure)
    return [Text(line, no_wrap=True) for line in lines]


def _studies(studies: Sequence[InFlight], width: int, height: int) -> list[RenderableType]:
    """Return the table of studies in flight. If some are left out, a last line counts them."""
    if not studies or height < 2:
        return []
    shown = studies if len(studies) < height else studies[: height - 2]
    table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False, header_style="dim")
    names, rows = _fitting(shown, width)
    for name in names:
        is_text = name in ("kernel", "problem")
        # A problem's name has no place to break. If it is too long, it ends with an ellipsis, and no other column
        # shrinks.
        table.add_column(name, justify="left" if is_text else "right", no_wrap=name != "problem", overflow="ellipsis")
    for row in rows:
        table.add_row(*(row[name] for name in names))
    if len(shown) == len(studies):
        return [table]
    return [table, Text(f"… {len(studies) - len(shown)} more", style="dim", no_wrap=True, overflow="ellipsis")]


def _fitting(studies: Sequence[InFlight], width: int) -> tuple[Sequence[str], list[dict[str, str]]]:
    """Return the columns that fit, and their cells. First kernel names are shortened, then columns are dropped."""
    rows = [
        {
            "kernel": study.problem.kernel,
            "problem": study.problem.shape_label,
            "trials": str(study.trials),
            "best us": us(study.best_us),
            "x default": speed_up(study.default_us, study.best_us),
            "sure": "-" if study.sure is None else f"{study.sure:.2f}",
        }
        for study in studies
    ]
    short = [{**row, "kernel": _short(row["kernel"])} for row in rows]
    for names, cells in ((STUDIES, rows), *((names, short) for names in FEWER)):
        widths = [max(len(name), *(len(row[name]) for row in cells), 0) + 2 for name in names]
        if sum(widths) - 2 <= width:
            return names, cells
    return FEWER[-1] if width >= NARROW else FEWEST, short


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
        told = told.rpartition(", ")[0].replace(" the default's speed", "")
    text = Text.assemble((clock, "dim"), (told, STYLES.get(one.kind, "")))
    text.truncate(width, overflow="ellipsis")
    text.no_wrap = True
    return text
