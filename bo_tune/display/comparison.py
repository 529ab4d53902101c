"""Tables and lines that compare two searches or two folders, or show recordings tuned as if they were GPUs."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from itertools import groupby
from statistics import fmean
from typing import Any

from rich.table import Table

from bo_tune.analysis.compare import Comparison, Comparisons
from bo_tune.analysis.difference import Difference, Status
from bo_tune.core.space import Config
from bo_tune.display.console import percent, plain_table, short_config, us
from bo_tune.engines.base import WrittenConfig


def comparison_tables(comparisons: Comparisons) -> Iterator[Table]:
    """Return a comparison: a table for each file, a row for each entry."""
    searches, second = f"{comparisons.tuned} against {comparisons.grid}", _second(comparisons)
    for file, entries in groupby(comparisons.entries, key=lambda entry: entry.file):
        figures = ("default us", "tuned us", f"{second} us", "regret" if comparisons.is_regret else "slower")
        table = plain_table(f"{file}: {searches}", ("keys", "tuned config", f"{second} config"), figures)
        for entry in entries:
            table.add_row(*_comparison_row(entry))
        yield table


def _second(comparisons: Comparisons) -> str:
    """Return the name of the second folder: ``grid`` if its search was exhaustive."""
    return "grid" if comparisons.is_regret else "other"


def _comparison_row(entry: Comparison) -> list[str]:
    return [
        "/".join(entry.keys),
        short_config(entry.tuned),
        "same" if entry.tuned == entry.grid else short_config(entry.grid),
        us(entry.default_us),
        us(entry.tuned_us),
        us(entry.grid_us),
        percent(entry.regret_percent),
    ]


def comparison_lines(comparisons: Comparisons) -> list[str]:
    """Return the lines below the table: both searches' costs for the common entries, ratios, regret."""
    common = "1 entry is" if comparisons.common == 1 else f"{comparisons.common} entries are"
    lines = [f"{common} in both; costs are counted only for these"]
    for name, side in (("tuned", comparisons.tuned), (_second(comparisons), comparisons.grid)):
        totals = side.totals
        if totals:
            wall = f", trials under way for {totals['wall_s']:.1f} s" if "wall_s" in totals else ""
            lines.append(
                f"{name}, {side}: {totals['launched_configs']:,.0f} configs launched, {totals['launches']:,.0f} "
                f"launches, {totals['compiles']:,.0f} compiles{wall}"
            )
    ratios = comparisons.ratios
    if ratios:
        shown = [f"{ratio:.1f}x {name.replace('_', ' ')}" for name, ratio in ratios.items() if name != "compile_s"]
        lines.append(f"{_second(comparisons)} / tuned: {', '.join(shown)}")
    regrets = comparisons.regrets
    if regrets:
        what = "regret" if comparisons.is_regret else "tuned time over the other's"
        lines.append(f"{what}: mean {percent(fmean(regrets))}, worst {percent(max(regrets))} of {len(regrets)} entries")
    if comparisons.speed_up:
        gains = f"geometric mean of {len(comparisons.gains)}"
        lines.append(f"tuned configs are {comparisons.speed_up:.2f}x faster than the defaults ({gains})")
    return lines


def difference_tables(found: Sequence[Difference]) -> Iterator[Table]:
    """Return the entries of two folders: a table for each file, a row for each entry."""
    for file, entries in groupby(found, key=lambda one: one.file):
        figures = ("A us", "B us", "B to A")
        table = plain_table(file, ("keys", "config in A", "config in B"), figures)
        for one in entries:
            a, b = one.a, one.b
            table.add_row(
                "/".join(one.keys),
                short_config(_launched(a.config)) if a else "-",
                "same" if one.status is Status.SAME else short_config(_launched(b.config)) if b else "-",
                us(a.time_us if a else None),
                us(b.time_us if b else None),
                "-" if one.change_percent is None else f"{one.change_percent:+.2f} %",
            )
        yield table


def _launched(config: WrittenConfig) -> Config:
    """Return a config without the parameters that are left open."""
    return {name: value for name, value in config.items() if value is not None}


def difference_lines(found: Sequence[Difference]) -> list[str]:
    """Return the lines below the tables: counts, and how the times differ."""
    counts = Counter(one.status for one in found)
    lines = [f"{len(found)} entries: {', '.join(f'{counts[status]} {status}' for status in Status)}"]
    changes = [one.change_percent for one in found if one.status is Status.CHANGED and one.change_percent is not None]
    if changes:
        lines.append(
            f"both times are known for {len(changes)} of the changed entries: B is {_slower(fmean(changes))} on "
            f"average, {_slower(max(changes))} at worst; each time was measured by its own search, so this "
            "includes noise"
        )
    return lines


def _slower(percent_: float) -> str:
    return f"{abs(percent_):.2f} % {'slower' if percent_ > 0 else 'faster'}"


def simulation_table(summary: Mapping[str, Any]) -> Table:
    """Return the table of a simulation's summary, with a row for each checkpoint."""
    figures = ("runs", "mean", "median", "p90", "within\n1 %", "within\n5 %")
    table = plain_table("Regret after launched configs", ("launched",), figures)
    for checkpoint, row in summary.items():
        if not isinstance(row, Mapping):
            continue
        regrets = [percent(row[f"{name}_regret_percent"]) for name in ("mean", "median", "p90")]
        shares = [f"{100 * row[f'within_{x}_percent']:.0f} %" for x in (1, 5)]
        table.add_row(checkpoint, str(row["runs"]), *regrets, *shares)
    return table


def simulation_line(sampler: str, summary: Mapping[str, Any]) -> str:
    """Return the line below a simulation's table, with its costs."""
    return (
        f"{sampler}, mean over {summary['runs']} runs: {summary['mean_launched_configs']:.1f} configs launched, "
        f"{summary['mean_launches']:.0f} launches, {summary['mean_invalid_proposed']:.1f} invalid proposals, "
        f"{summary['mean_sampler_ms_per_trial']:.2f} ms per proposal"
    )
