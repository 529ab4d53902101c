"""The output of ``--m auto``: the worst loss between keys, before and after keys were added."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

from rich.table import Table

from bo_tune.core.problem import LoraProblem, Problem, lora
from bo_tune.display.console import plain_table
from bo_tune.session.m_ladder import Gap, Ladder


def ladder_table(ladder: Ladder, layers: Mapping[Problem, Sequence[str]]) -> Table:
    """Return the worst loss between keys, with a row for each problem over m.

    Args:
        layers: names of the layers by problem, with any m.
    """
    names = {replace(lora(problem), m=1): served for problem, served in layers.items()}
    figures = ("before", "at m", "now", "at m")
    table = plain_table("Loss between keys m", ("problem", "layers", "keys added"), figures)
    for problem in dict.fromkeys(_line(gap) for gap in ladder.coarse):
        coarse, now = (_worst(gaps, problem) for gaps in (ladder.coarse, ladder.gaps))
        added = sorted({m for line, m in ladder.added if line == problem})
        table.add_row(
            f"{problem.kernel} L{problem.max_loras}.s{problem.num_slices}.k{problem.k}.n{problem.n}",
            ", ".join(names.get(problem, ())) or "-",
            ", ".join(map(str, added)) or "-",
            *_cells(coarse),
            *_cells(now),
        )
    return table


def ladder_lines(ladder: Ladder) -> list[str]:
    """Return the lines below the table: what was added, and what is still lost."""
    over = sum(gap.badness > ladder.tolerance for gap in ladder.gaps)
    unmeasured = f", {ladder.unmeasured} gaps could not be measured" if ladder.unmeasured else ""
    return [
        f"added {len(ladder.added)} problems; {over} of {len(ladder.gaps)} gaps between keys lose more than "
        f"{100 * ladder.tolerance:.3g} %{unmeasured}; this took {ladder.launches:,} launches"
    ]


def _line(gap: Gap) -> LoraProblem:
    return replace(gap.problem, m=1)


def _worst(gaps: Iterable[Gap], problem: LoraProblem) -> Gap:
    return max((gap for gap in gaps if _line(gap) == problem), key=lambda gap: gap.badness)


def _cells(gap: Gap) -> tuple[str, str]:
    return "cannot run" if gap.loss is None else f"{100 * gap.loss:.2f} %", str(gap.m)
