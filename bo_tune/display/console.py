"""Progress and tables in the terminal; plain lines where the output is none."""

import sys
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from statistics import fmean, geometric_mean
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console, ConsoleOptions, RenderResult
from rich.segment import Segment
from rich.table import Table
from rich.text import Text

from bo_tune.analysis.compare import Comparison, Comparisons
from bo_tune.analysis.listing import StudyListing
from bo_tune.core.activity import SessionActivity
from bo_tune.core.conditions import UNKNOWN
from bo_tune.core.space import Config
from bo_tune.errors import printable
from bo_tune.kernels.registry import DECIDING, kernel_spec
from bo_tune.kernels.spec import SHARED
from bo_tune.session.session import Tuned, session_wall_s

WIDTH_OF_FILES = 160
"""Columns of tables that go to a file or a pipe."""

MOST_ROWS = 1000
"""Of a table that is laid out for the terminal: a millisecond each."""

DISTURBED = " !"
"""Mark of studies that were disturbed while they were measured."""

TIMES = ("default us", "us", "speed-up")

SHORT_NAMES = {"block_m": "m", "block_n": "n", "block_k": "k", "num_warps": "w", "num_stages": "s", "split_k": "sk"}
"""Of parameters, in one line that shows a config; num_ctas, which is always 1, is left out."""


def us(time_us: float | None) -> str:
    """Show a time in us."""
    return "-" if time_us is None else f"{time_us:.2f}"


def percent(value: float | None) -> str:
    """Show a percentage."""
    return "-" if value is None else f"{value:.2f} %"


def speed_up(default_us: float | None, time_us: float | None) -> str:
    """Show how much faster than the default a config is."""
    return f"{default_us / time_us:.2f}x" if default_us and time_us else "-"


def sure(certificate: Mapping[str, Any] | None) -> str:
    """Show a certificate in short: ``1 % 0.93``, within 1 % of the grid's best with probability 0.93."""
    return f"{100 * certificate['tolerance']:.3g} % {certificate['probability']:.2f}" if certificate else "-"


def short_config(config: Config | None) -> str:
    """Show a config in one word: ``m16 n32 k64 w4 s2 sk8``."""
    if config is None:
        return "-"
    return " ".join(f"{short}{config[name]}" for name, short in SHORT_NAMES.items() if name in config)


def marked(disturbed: Sequence[str] | None) -> str:
    """Return the mark of a study that was disturbed while it was measured."""
    return DISTURBED if disturbed else ""


def disturbed_lines(studies: Iterable[Sequence[str] | None]) -> list[str]:
    """Return a line on the studies that were disturbed, from what disturbed each; none where none was."""
    found = [disturbances for disturbances in studies if disturbances]
    if not found:
        return []
    what = ", ".join(sorted({one for disturbances in found for one in disturbances}))
    return [f"{len(found)} marked{DISTURBED}: their times are spoilt ({what}); measure them again on an idle GPU"]


def duration(seconds: float) -> str:
    """Show a time in one or two units: ``12 s``, ``3 min 05 s``, ``2 h 10 min``."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes:02d} min"
    return f"{minutes} min {rest:02d} s" if minutes else f"{rest} s"


class PlainConsole(Console):
    """A console that shows every string as it is, names out of files too: no markup, and one line each.

    Args:
        options: as of any console.
    """

    def __init__(self, **options: Any) -> None:
        super().__init__(markup=False, emoji=False, **options)

    def render_str(self, text: str, **options: Any) -> Text:
        """Return what any string becomes before it is printed, measured or put into a table."""
        return super().render_str(printable(text), **options)


def terminal(*, stderr: bool = False, quiet: bool = False) -> Console:
    """Return the console to print on; wide where the output is no terminal, so that a log is never folded.

    Colours may be asked for in a pipe (``FORCE_COLOR``); a display that moves the cursor never is.

    Args:
        stderr: whether it prints to stderr.
        quiet: whether it prints nothing.
    """
    is_terminal = (sys.stderr if stderr else sys.stdout).isatty()
    if is_terminal:
        return PlainConsole(stderr=stderr, quiet=quiet)
    return PlainConsole(stderr=stderr, quiet=quiet, width=WIDTH_OF_FILES, force_interactive=False)


def print_line(console: Console, line: str, *, whole: bool = False) -> None:
    """Print a line as it is: folded between words in a terminal, never folded elsewhere.

    Args:
        whole: whether it is to be copied, and must not be folded in a terminal either.
    """
    console.print(line, highlight=False, soft_wrap=whole or not console.is_terminal)


def is_live(console: Console) -> bool:
    """Say whether a console can have a display that moves the cursor: not a dumb terminal (``TERM=dumb``)."""
    return console.is_interactive and not console.quiet


def plain_table(title: str, text: Sequence[str], figures: Sequence[str]) -> Table:
    """Return an empty table with columns of text, which may be folded, and of figures, which may not."""
    table = Table(title=title, title_justify="left", title_style="bold", box=SIMPLE_HEAD, pad_edge=False)
    for name in text:
        table.add_column(name, overflow="fold")
    for name in figures:
        table.add_column(name, justify="right", no_wrap=True)
    return table


@dataclass(frozen=True, slots=True)
class LongTable:
    """A table of so many rows that nobody reads it as one: lines that are never folded.

    Args:
        text: names of the first columns.
        figures: names of those that are aligned to the right.
    """

    title: str
    text: Sequence[str]
    figures: Sequence[str]
    rows: Sequence[Sequence[str]]

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """See ``rich.protocol``."""
        every = [(*self.text, *self.figures), *self.rows]
        widths = [max(map(len, column)) for column in zip(*every, strict=True)]
        aligned = [str.ljust] * len(self.text) + [str.rjust] * len(self.figures)
        lines = (
            "  ".join(align(cell, width) for align, cell, width in zip(aligned, row, widths, strict=True))
            for row in every
        )
        yield Segment("\n".join([self.title, *(line.rstrip() for line in lines), ""]))


def results_tables(tuned: Iterable[Tuned]) -> Iterator[Table]:
    """Return what a session chose: a table for each kernel, GPU and kernel source, a problem a row."""

    def group(study: Tuned) -> tuple[str, str, str]:
        return study.job.problem.kernel, study.name.gpu, study.name.kernel_source

    for title, studies in groupby(sorted(tuned, key=group), group):
        table = plain_table(" on ".join(title[:2]) + f" ({title[2]})", ("problem", "config"), TIMES)
        for study in studies:
            result, shape = study.result, study.job.problem.shape_label + marked(study.disturbed)
            if result is None:
                table.add_row(shape, "nothing could be measured" if study.done else "failed: its message says why")
                continue
            times = result.default_time_us, result.time_us
            table.add_row(shape, short_config(result.config), *map(us, times), speed_up(*times))
        yield table


def session_lines(tuned: Sequence[Tuned]) -> list[str]:
    """Return the lines below the tables: what the studies cost, and what they gained."""
    results = [study.result for study in tuned if study.result is not None]
    costs = [result.costs for result in results]
    lines = [
        f"{len(results)} studies: {sum(c.launched_configs for c in costs):,} configs launched, "
        f"{sum(c.launches for c in costs):,} launches, {sum(c.compiles for c in costs):,} compiles, "
        f"trials under way for {session_wall_s(tuned):.1f} s"
    ]
    run = [result for result in results if "decided_by" not in (result.joint or {})]
    gains = [result.default_time_us / result.time_us for result in run if result.default_time_us]
    if gains:
        lines.append(f"tuned against default: {geometric_mean(gains):.2f}x faster (geometric mean of {len(gains)})")
    return [*lines, *joint_lines(tuned), *disturbed_lines(study.disturbed for study in tuned)]


def joint_lines(tuned: Sequence[Tuned]) -> list[str]:
    """Return lines on the sums of kernels that had to agree, and on who decided; none where there are none."""
    sums: dict[tuple[object, ...], Mapping[str, Any]] = {}
    for study in tuned:
        problem, gpu = study.job.problem, study.job.device.gpu.name
        group = kernel_spec(problem.kernel).joint_group(problem)
        if group is not None and study.result is not None and study.result.joint is not None:
            sums[gpu, study.name.kernel_source, group] = study.result.joint
    decided = [joint["decided_by"] for joint in sums.values() if "decided_by" in joint]
    deciding = {tuple(joint["kernels"]) for joint in decided}
    free = [joint for joint in sums.values() if "decided_by" not in joint and tuple(joint["kernels"]) not in deciding]
    return [*_decided_lines(decided), *_agreed_lines(free)]


def _agreed_lines(joint: Sequence[Mapping[str, Any]]) -> list[str]:
    gains = [one["default_time_us"] / one["time_us"] for one in joint if one["default_time_us"]]
    if not gains:
        return []
    return [
        f"kernels that agree on {SHARED}: their sum is {geometric_mean(gains):.2f}x faster than that of the defaults "
        f"(geometric mean of {len(gains)}); one of them may be slower than its own"
    ]


def _decided_lines(decided: Sequence[Mapping[str, Any]]) -> list[str]:
    """Say what the kernels that an engine launches in place of others came to."""
    if not decided:
        return []
    kernels = " and ".join(decided[0]["kernels"])
    line = f"{SHARED} of {len(decided)} problems is decided by {kernels}, which the engine launches"
    gains = [one["default_time_us"] / one["time_us"] for one in decided if one["default_time_us"]]
    if gains:
        sums = [sum(one[name] for one in decided if one["default_time_us"]) for name in ("default_time_us", "time_us")]
        line += (
            f": {us(sums[0])} us by default, {us(sums[1])} us tuned in all, {geometric_mean(gains):.2f}x faster "
            f"(geometric mean of {len(gains)})"
        )
    return [f"{line}; what the other kernels are tuned to beyond {SHARED} is used on the two-kernel path alone"]


def activity_lines(activity: SessionActivity) -> list[str]:
    """Return the lines that say where a session's time went; none of a replay, which has no devices at work."""
    lines = []
    for name, device in activity.devices.items():
        if device.gpu is not None:
            seconds = ", ".join(f"{what} {s:.1f} s" for what, s in sorted(device.gpu.seconds.items()))
            lines.append(f"{name}: {seconds}; {device.gpu.restarts} restarts of the GPU process")
        if device.farm is not None:
            farm = device.farm
            lines.append(
                f"compilers: {farm.busy_s:.0f} s of {farm.workers} processes, {farm.compiles:,} compiles, "
                f"{farm.cached:,} found in the cache, {farm.shared:,} shared, {farm.timeouts} timeouts, "
                f"{farm.crashes} crashes"
            )
            if farm.packed:
                lines.append(
                    f"packs: {farm.packed:,} compiles avoided, which took {farm.packed_s:.0f} s where the packs were "
                    f"made: about {farm.packed_s / farm.workers:.0f} s less for these processes"
                )
    if lines:
        lines.insert(
            0,
            f"session: {activity.wall_s:.1f} s, GPU at work {activity.gpu_share or 0:.0%}, compilers "
            f"{activity.compiler_share or 0:.0%}, tuner {activity.tuner_ms_per_trial or 0:.1f} ms a trial, "
            f"database {activity.store_s:.1f} s beside",
        )
    return lines


def comparison_tables(comparisons: Comparisons) -> Iterator[Table]:
    """Return a comparison: a table for each file, an entry a row."""
    searches = f"{comparisons.tuned} against {comparisons.grid}"
    for file, entries in groupby(comparisons.entries, key=lambda entry: entry.file):
        figures = ("default us", "tuned us", "grid us", "regret" if comparisons.is_regret else "slower")
        table = plain_table(f"{file}: {searches}", ("keys", "tuned config", "grid config"), figures)
        for entry in entries:
            table.add_row(*_comparison_row(entry))
        yield table


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
    """Return the lines below the table: what the entries that both have cost either search, ratios, regret."""
    common = "1 entry stands" if comparisons.common == 1 else f"{comparisons.common} entries stand"
    lines = [f"{common} in both; what a search cost is counted for these alone"]
    for name, side in (("tuned", comparisons.tuned), ("grid", comparisons.grid)):
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
        lines.append(f"grid / tuned: {', '.join(shown)}")
    regrets = comparisons.regrets
    if regrets:
        what = "regret" if comparisons.is_regret else "tuned time above grid's"
        lines.append(f"{what}: mean {percent(fmean(regrets))}, worst {percent(max(regrets))} of {len(regrets)} entries")
    if comparisons.speed_up:
        gains = f"geometric mean of {len(comparisons.gains)}"
        lines.append(f"tuned against default: {comparisons.speed_up:.2f}x faster ({gains})")
    return lines


def simulation_table(summary: Mapping[str, Any]) -> Table:
    """Return the table of a simulation's summary, a checkpoint a row."""
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
    """Return the line below the table of a simulation: what it cost."""
    return (
        f"{sampler}, mean over {summary['runs']} runs: {summary['mean_launched_configs']:.1f} configs launched, "
        f"{summary['mean_launches']:.0f} launches, {summary['mean_invalid_proposed']:.1f} invalid proposals, "
        f"{summary['mean_sampler_ms_per_trial']:.2f} ms per proposal"
    )


def studies_tables(studies: Iterable[StudyListing]) -> Iterator[Table | LongTable]:
    """Return the studies of a database: a table for each kernel, GPU, source, toolchain and kind, a study a row."""

    def group(study: StudyListing) -> tuple[str, str, str, str]:
        name = study.name
        kind = "exhaustive" if name.exhaustive else f"search by {name.search}" if name.search else "search"
        aside = f", set aside {name.set_aside[:16]}" if name.set_aside else ""
        return name.problem.kernel, name.gpu, f"{name.kernel_source}, {name.toolchain or UNKNOWN}", kind + aside

    for (kernel, gpu, source, kind), group_studies in groupby(sorted(studies, key=group), group):
        title, text = f"{kernel} on {gpu} ({source}), {kind}", ("problem", "pruned because")
        figures = ("complete", "pruned", *TIMES, "sure")
        rows = list(map(_study_row, group_studies))
        if len(rows) > MOST_ROWS:
            yield LongTable(title, text, figures, rows)
            continue
        table = plain_table(title, text, figures)
        for row in rows:
            table.add_row(*row)
        yield table


def _study_row(study: StudyListing) -> list[str]:
    return [
        study.name.problem.shape_label + ("" if study.finished else " *") + marked(study.disturbed),
        _counted(study.reasons),
        str(study.states.get("COMPLETE", 0)),
        str(study.states.get("PRUNED", 0)),
        us(study.default_us),
        us(study.best_us),
        speed_up(study.default_us, study.best_us),
        sure(study.certificate),
    ]


def studies_lines(studies: Sequence[StudyListing]) -> list[str]:
    """Return the lines below the tables: totals, and what was never tried."""
    excluded: Counter[str] = Counter()
    reasons: Counter[str] = Counter()
    for study in studies:
        excluded.update(study.excluded)
        reasons.update(study.reasons)
    unfinished = sum(not study.finished for study in studies)
    deciding = [kernel for kernel in DECIDING if any(study.name.problem.kernel == kernel for study in studies)]
    held = [(study, study.holder) for study in studies if study.holder is not None]
    return [
        *(
            f"under way: {study.name}: {holder.host}, process {holder.pid}, heard of {holder.age_s:.0f} s ago"
            for study, holder in held
        ),
        f"{len(studies)} studies, {unfinished} unfinished{' (*)' if unfinished else ''}; sure: within so much of the "
        "grid's best with that probability",
        *(
            f"{kernel}: what an engine launches in place of shrink and expand; decides on {SHARED} for them"
            for kernel in deciding
        ),
        f"trials pruned: {_counted(reasons)}",
        f"configs left out before any trial: {_counted(excluded)}",
        *disturbed_lines(study.disturbed for study in studies),
    ]


def _counted(reasons: Mapping[str, int]) -> str:
    return ", ".join(f"{reason} {count}" for reason, count in reasons.items()) or "-"
