"""Tables and lines in the terminal, and plain lines if the output is not a terminal."""

import sys
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.cells import cell_len
from rich.console import Console, ConsoleOptions, RenderableType, RenderResult
from rich.padding import Padding
from rich.segment import Segment
from rich.table import Column, Table
from rich.text import Text

from bo_tune.core.conclusion import Certificate, EndedBy, Ending
from bo_tune.core.space import Config
from bo_tune.errors import printable

WIDTH_OF_FILES = 160
"""Width in columns of tables that go to a file or a pipe."""

MOST_ROWS = 1000
"""Most rows of a table that is laid out for the terminal. Each takes a millisecond."""

LEAST_TEXT = 12
"""The narrowest that a column of text may be folded, in terminal columns."""

DISTURBED = " !"
"""Mark of studies that were disturbed while they were measured."""

TIMES = ("default us", "us", "speed-up")

ENDED = ("exp. loss", "ended")
"""Columns about how searches ended."""

SHORT_NAMES = {
    "block_m": "m", "block_n": "n", "block_k": "k",
    "BLOCK_SIZE_M": "m", "BLOCK_SIZE_N": "n", "BLOCK_SIZE_K": "k", "GROUP_SIZE_M": "g",
    "group_size_m": "g", "BLOCK_N": "n", "BLOCK_K": "k",
    "num_warps": "w", "num_stages": "s", "split_k": "sk", "maxnreg": "r",
}  # fmt: skip
"""Short names of parameters, to show a config in one line. num_ctas, which is always 1, is left out."""


def counted(count: int, one: str, many: str) -> str:
    """Show a count with its noun: ``1 study``, ``2,000 studies``."""
    return f"{count:,} {one if count == 1 else many}"


def us(time_us: float | None) -> str:
    """Show a time in us."""
    return "-" if time_us is None else f"{time_us:.2f}"


def percent(value: float | None) -> str:
    """Show a percentage."""
    return "-" if value is None else f"{value:.2f} %"


def speed_up(default_us: float | None, time_us: float | None) -> str:
    """Show how much faster a config is than the default."""
    return f"{default_us / time_us:.2f}x" if default_us and time_us else "-"


def expected_loss(certificate: Certificate | None) -> str:
    """Show by how much one more config is expected to be faster: ``0.16 %``."""
    if certificate is None:
        return "-"
    return percent(0.0 if certificate.exhausted else _percents(certificate.expected_loss))


def _percents(share: float | None) -> float | None:
    return None if share is None else 100.0 * share


def ending_lines(found: Sequence[tuple[Ending | None, Certificate | None]]) -> list[str]:
    """Say why searches ended, and the expected loss. Studies that do not say are left out."""
    why = Counter(_why(ending) for ending, _ in found if ending is not None)
    lines = [f"ended: {', '.join(f'{count} {words}' for words, count in why.most_common())}"] if why else []
    losses = [
        0.0 if one.exhausted else one.expected_loss
        for _, one in found
        if one is not None and (one.exhausted or one.expected_loss is not None)
    ]
    known = [100.0 * loss for loss in losses if loss is not None]
    if known:
        lines.append(
            f"expected loss: {percent(sum(known) / len(known))} on average, {percent(max(known))} at worst: this "
            "is how much faster one more config is expected to be, at most"
        )
    return lines


def _why(ending: Ending) -> str:
    return {
        EndedBy.SURE: "sure enough",
        EndedBy.TAUGHT: "taught by other studies, after as many configs as pay off",
        EndedBy.BUDGET: "at the end of their budget",
        EndedBy.EXHAUSTED: "with all configs tried",
        EndedBy.MOST: "at the stop rule's limit",
        EndedBy.NOTHING_LEFT: "because nothing was left that could win",
    }[ending.reason]


def sure(certificate: Certificate | None) -> str:
    """Show a certificate in short. ``1 % 0.93`` means within 1 % of the grid's best with probability 0.93."""
    return f"{100 * certificate.tolerance:.3g} % {certificate.probability:.2f}" if certificate else "-"


def short_config(config: Config | None) -> str:
    """Show a config as short words: ``m16 n32 k64 w4 s2 sk8``."""
    if config is None:
        return "-"
    return " ".join(f"{short}{config[name]}" for name, short in SHORT_NAMES.items() if name in config)


def marked(disturbed: Sequence[str] | None) -> str:
    """Return the mark of a study that was disturbed while it was measured, or ""."""
    return DISTURBED if disturbed else ""


def disturbed_lines(studies: Iterable[Sequence[str] | None]) -> list[str]:
    """Return a line about the studies that were disturbed, given what disturbed each; none if none was."""
    found = [disturbances for disturbances in studies if disturbances]
    if not found:
        return []
    what = ", ".join(sorted({one for disturbances in found for one in disturbances}))
    return [
        f"{len(found)} marked{DISTURBED}: their times are distorted ({what}); measure these studies again on an idle "
        "GPU"
    ]


def duration(seconds: float) -> str:
    """Show a time in one or two units: ``12 s``, ``3 min 05 s``, ``2 h 10 min``."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes:02d} min"
    return f"{minutes} min {rest:02d} s" if minutes else f"{rest} s"


class PlainConsole(Console):
    """A console that shows every string as it is, including names from files: without markup, on one line each.

    Args:
        options: the same as for any console.
    """

    def __init__(self, **options: Any) -> None:
        super().__init__(markup=False, emoji=False, **options)

    def render_str(self, text: str, **options: Any) -> Text:
        """Convert a string before it is printed, measured or put into a table."""
        return super().render_str(printable(text), **options)


def terminal(*, stderr: bool = False, quiet: bool = False) -> Console:
    """Return the console to print on. It is wide if the output is not a terminal, so that a log is never folded.

    Users may ask for colours in a pipe (``FORCE_COLOR``). A display that moves the cursor is for terminals only.

    Args:
        stderr: whether it prints to stderr.
        quiet: whether it prints nothing.
    """
    is_terminal = (sys.stderr if stderr else sys.stdout).isatty()
    if is_terminal:
        return PlainConsole(stderr=stderr, quiet=quiet)
    return PlainConsole(stderr=stderr, quiet=quiet, width=WIDTH_OF_FILES, force_interactive=False)


def print_line(console: Console, line: str, *, whole: bool = False) -> None:
    """Print a line as it is. It is folded between words in a terminal, and nowhere else.

    Args:
        whole: whether users will copy it, so that it must not be folded in a terminal either.
    """
    console.print(line, highlight=False, soft_wrap=whole or not console.is_terminal)


def is_live(console: Console) -> bool:
    """Say whether a console can have a display that moves the cursor. A dumb terminal (``TERM=dumb``) cannot."""
    return console.is_interactive and not console.quiet


class FittingTable(Table):
    """A table that fits a narrow terminal.

    Columns that can be spared are left out if there is no room for them. If there is no room for the others, each row
    becomes a block of lines.

    Attributes:
        spare: names of the columns that can be left out, in this order.
    """

    spare: Sequence[str] = ()

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        every = self.columns
        try:
            for name in ("", *self.spare):
                self.columns = [column for column in self.columns if column.header != name]
                widths = _widths(self.columns, options.max_width)
                if widths is not None:
                    # Rich uses a column's index to recognise those at the edges.
                    self.columns = [
                        replace(column, width=width, _index=place)
                        for place, (column, width) in enumerate(zip(self.columns, widths, strict=True))
                    ]
                    yield from super().__rich_console__(console, options)
                    return
        finally:
            self.columns = every
        yield from self._blocks()

    def _blocks(self) -> Iterator[RenderableType]:
        """Yield each row as lines: its first cell, and below it the others with their columns' names."""
        yield Text(printable(str(self.title)), style="bold")
        names = [str(column.header).replace("\n", " ") for column in self.columns]
        for cells in zip(*([printable(str(cell)) for cell in column.cells] for column in self.columns), strict=True):
            yield Text(cells[0], overflow="fold")
            told = (f"{name} {cell}" for name, cell in zip(names[1:], cells[1:], strict=True) if cell != "-")
            yield Padding(Text(", ".join(told), overflow="fold"), (0, 0, 0, 2))
        yield Text()


def _widths(columns: Sequence[Column], room: int) -> list[int] | None:
    """Return the widths of a table's columns, with text folded as far as necessary.

    Returns None if there is no room for a readable table. A row's first text is never folded.
    """
    cells = [[*str(column.header).split("\n"), *(printable(str(cell)) for cell in column.cells)] for column in columns]
    whole = [max(map(cell_len, lines)) for lines in cells]
    least = [
        width if column.no_wrap or not place else min(width, max(LEAST_TEXT, cell_len(str(column.header))))
        for place, (column, width) in enumerate(zip(columns, whole, strict=True))
    ]
    left = room - sum(least) - 3 * (len(columns) - 1) - 2
    if left < 0:
        return None
    folded = [most - fewest for most, fewest in zip(whole, least, strict=True)]
    share = min(1.0, left / sum(folded)) if sum(folded) else 0.0
    return [fewest + int(share * more) for fewest, more in zip(least, folded, strict=True)]


def plain_table(title: str, text: Sequence[str], figures: Sequence[str], spare: Sequence[str] = ()) -> Table:
    """Return an empty table with columns of text, which may be folded, and of figures, which may not.

    Args:
        spare: names of columns that a narrow terminal can do without, in the order in which they are left out.
    """
    table = FittingTable(title=title, title_justify="left", title_style="bold", box=SIMPLE_HEAD, pad_edge=False)
    table.spare = spare
    for name in text:
        table.add_column(name, overflow="fold")
    for name in figures:
        table.add_column(name, justify="right", no_wrap=True)
    return table


@dataclass(frozen=True, slots=True)
class LongTable:
    """A table with so many rows that nobody reads it as one. It is printed as lines that are never folded.

    Args:
        text: names of the first columns.
        figures: names of the columns that are aligned to the right.
    """

    title: str
    text: Sequence[str]
    figures: Sequence[str]
    rows: Sequence[Sequence[str]]

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        every = [(*self.text, *self.figures), *self.rows]
        widths = [max(map(len, column)) for column in zip(*every, strict=True)]
        aligned = [str.ljust] * len(self.text) + [str.rjust] * len(self.figures)
        lines = (
            "  ".join(align(cell, width) for align, cell, width in zip(aligned, row, widths, strict=True))
            for row in every
        )
        yield Segment("\n".join([self.title, *(line.rstrip() for line in lines), ""]))
