"""What ``bo-tune check`` shows: the lookups of a model, and what is wrong with them."""

from collections.abc import Iterator, Sequence
from itertools import groupby

from rich.table import Table

from bo_tune.display.console import plain_table
from bo_tune.engines.check import Lookup, Report

MOST_SHOWN = 6
"""Values of m in a cell; the others are counted."""


def check_tables(report: Report) -> Iterator[Table]:
    """Return the lookups, a table for each file with a shape a row, and the faults."""

    def keys(item: Lookup) -> tuple[int, ...]:
        return tuple(number for level, number in item.asked.items() if level != "m")

    for file, items in groupby(report.lookups, lambda item: item.file):
        table = plain_table(f"{file}: lookups", ("keys", "layers", "farthest m"), ("exact", "near m", "faults"))
        for asked, group in groupby(sorted(items, key=keys), keys):
            found = list(group)
            counts = [sum(item.status == status for item in found) for status in ("exact", "nearest m", "fault")]
            layers = dict.fromkeys(layer for item in found for layer in item.layers)
            place = "/".join(map(str, (*asked[:2], "*", *asked[2:])))
            table.add_row(place, ", ".join(layers), _farthest(found), *map(str, counts))
        yield table
    if report.faults:
        table = plain_table("Faults", ("file", "keys", "fault", "m"), ())
        for fault, met in report.faults.items():
            table.add_row(
                fault.file or "-", fault.place or "-", fault.reason, _some(sorted({i.problem.m for i in met}))
            )
        yield table


def fault_lines(report: Report) -> list[str]:
    """Return the faults in a line each, for who wants nothing else."""
    return [": ".join(filter(None, (fault.file, fault.place, fault.reason))) for fault in report.faults]


def check_lines(report: Report) -> list[str]:
    """Return the lines below the tables: totals, and what was not looked at."""
    faults = len(report.faults)
    lines = [
        f"{len(report.lookups)} lookups: {report.count('exact')} find their entry, {report.count('nearest m')} that of "
        f"the nearest m, {report.count('fault')} fail or take what is not theirs; {faults} fault{'s' * (faults != 1)}"
    ]
    if report.gpu is None:
        lines.append(f"shared memory was not checked: nothing is known here of {report.gpu_file_name}")
    if report.note:
        lines.append(f"note: {report.note}")
    return lines


def _farthest(items: Sequence[Lookup]) -> str:
    """Show the m whose neighbour is relatively farthest: ``6144 takes 8192``."""
    pairs = [(item.problem.m, item.nearest_m) for item in items if item.nearest_m is not None]
    if not pairs:
        return "-"
    m, key = max(pairs, key=lambda pair: max(pair) / min(pair))
    return f"{m} takes {key}"


def _some(values: Sequence[int]) -> str:
    if not values:
        return "-"
    more = f" … ({len(values)})" if len(values) > MOST_SHOWN else ""
    return ", ".join(map(str, values[:MOST_SHOWN])) + more
