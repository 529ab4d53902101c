"""The studies of a database, as tables and lines: all of them, or one in full."""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import groupby

from rich.table import Table

from bo_tune.analysis.listing import StudyDetail, StudyListing, TrialListing
from bo_tune.core.conclusion import SHARED
from bo_tune.core.conditions import UNKNOWN
from bo_tune.core.study_name import natural
from bo_tune.display.console import (
    ENDED,
    MOST_ROWS,
    TIMES,
    LongTable,
    counted,
    disturbed_lines,
    duration,
    ending_lines,
    expected_loss,
    marked,
    plain_table,
    short_config,
    speed_up,
    sure,
    us,
)
from bo_tune.kernels.registry import DECIDING

MOST_TRIALS = 20
"""Trials in the table, the fastest first. ``--json`` has all."""


def studies_tables(studies: Iterable[StudyListing]) -> Iterator[Table | LongTable]:
    """Return a database's studies: a table for each kernel, GPU, source, toolchain and kind, a row for each study."""

    def group(study: StudyListing) -> tuple[str, str, str, str]:
        name = study.name
        kind = "exhaustive" if name.exhaustive else f"search by {name.search}" if name.search else "search"
        aside = f", set aside {name.set_aside[:16]}" if name.set_aside else ""
        return name.problem.kernel, name.gpu, f"{name.kernel_source}, {name.toolchain or UNKNOWN}", kind + aside

    def place(study: StudyListing) -> tuple[object, ...]:
        return group(study), natural(study.name.problem.shape_label)

    for (kernel, gpu, source, kind), members in groupby(sorted(studies, key=place), group):
        found = list(members)
        layers = any(study.layers for study in found)  # a column only if there is something to show
        title = f"{kernel} on {gpu} ({source}), {kind}"
        text = ("problem", *(["layers"] if layers else []), "pruned because")
        figures = ("complete", "pruned", *TIMES, "sure", *ENDED)
        rows = [_study_row(study, layers=layers) for study in found]
        if len(rows) > MOST_ROWS:
            yield LongTable(title, text, figures, rows)
            continue
        table = plain_table(title, text, figures, spare=("ended", "exp. loss", "pruned because", "pruned"))
        for row in rows:
            table.add_row(*row)
        yield table


def _study_row(study: StudyListing, *, layers: bool) -> list[str]:
    return [
        study.name.problem.shape_label + ("" if study.finished else " *") + marked(study.disturbed),
        *([", ".join(study.layers) or "-"] if layers else []),
        _counted(study.reasons),
        str(study.states.get("COMPLETE", 0)),
        str(study.states.get("PRUNED", 0)),
        us(study.default_us),
        us(study.best_us),
        speed_up(study.default_us, study.best_us),
        sure(study.certificate),
        expected_loss(study.certificate),
        str(study.ending or "-"),
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
            f"under way: {study.name}: {holder.host}, process {holder.pid}, last heard from {holder.age_s:.0f} s ago"
            for study, holder in held
        ),
        f"{counted(len(studies), 'study', 'studies')}, {unfinished} unfinished{' (*)' if unfinished else ''}; "
        "sure: the probability that the result is within that much of the grid's best",
        *ending_lines([(study.ending, study.certificate) for study in studies if study.finished]),
        *(
            f"{kernel}: an engine launches it in place of shrink and expand, and it decides on {SHARED} for them"
            for kernel in deciding
        ),
        f"trials pruned: {_counted(reasons)}",
        f"configs left out before any trial: {_counted(excluded)}",
        *disturbed_lines(study.disturbed for study in studies),
    ]


def _counted(reasons: Mapping[str, int]) -> str:
    return ", ".join(f"{reason} {count}" for reason, count in reasons.items()) or "-"


def study_tables(detail: StudyDetail) -> Iterator[Table]:
    """Return the configs that were re-measured at the end, and the fastest trials."""
    default_us = detail.listing.default_us
    if detail.result is not None:
        table = plain_table("Finalists, re-measured in turn", ("config",), ("us", "speed-up"))
        default = detail.result.finalists[0][0] if default_us is not None else None
        for config, time_us in sorted(detail.result.finalists, key=lambda finalist: finalist[1]):
            remarks = ["default"] * (config == default) + ["chosen"] * (dict(config) == dict(detail.result.config))
            name = short_config(config) + (f" ({', '.join(remarks)})" if remarks else "")
            table.add_row(name, us(time_us), speed_up(default_us, time_us))
        yield table
    timed = sorted((t for t in detail.trials if t.time_us is not None), key=lambda t: t.time_us or 0.0)
    shown = f"the fastest {MOST_TRIALS} of {len(timed)}" if len(timed) > MOST_TRIALS else "the fastest first"
    figures = ("trial", "us", "compile s", "launches", "shared KiB", "registers", "spilled")
    table = plain_table(f"Measured trials, {shown}", ("config", "state"), figures)
    for trial in timed[:MOST_TRIALS]:
        table.add_row(*_row(trial))
    yield table


def _row(trial: TrialListing) -> tuple[str, ...]:
    shared = None if trial.shared_memory_bytes is None else trial.shared_memory_bytes / 1024
    return (
        short_config(trial.config),
        trial.reason or trial.state.lower(),
        str(trial.number),
        us(trial.time_us),
        f"{trial.compile_s:.2f}",
        str(trial.launches),
        "-" if shared is None else f"{shared:.0f}",
        _count(trial.registers_per_thread),
        _count(trial.spilled_registers),
    )


def _count(value: int | None) -> str:
    return "-" if value is None else str(value)


def study_lines(detail: StudyDetail) -> list[str]:
    """Return the lines below the tables: the chosen config, how sure it is, its costs, and what was given up."""
    listing, costs = detail.listing, detail.listing.costs
    best = f"{short_config(listing.config)}: {us(listing.best_us)} us, "
    lines = [
        str(listing.name),
        ("chosen: " if listing.finished else "best so far: ")
        + best
        + f"{speed_up(listing.default_us, listing.best_us)} the default's speed ({us(listing.default_us)} us)",
    ]
    if not listing.name.toolchain:
        lines.append(f"{UNKNOWN}: stored by an earlier version of bo_tune; no search resumes it")
    if listing.layers:
        lines.append(f"layers: {', '.join(listing.layers)}")
    if listing.ending is not None:
        lines.append(f"ended: {listing.ending}")
    if listing.certificate is not None:
        lines.append(
            f"sure: {sure(listing.certificate)} (the probability that the result is within that much of the "
            "grid's best)"
        )
        loss = expected_loss(listing.certificate)
        lines.append(f"expected loss: {loss}: this is how much faster one more config is expected to be, at most")
    if listing.disturbed:
        lines.append(f"times are distorted: {', '.join(listing.disturbed)}")
    lines.append(
        f"{len(detail.trials)} trials: {costs.launched_configs:,} configs launched, {costs.launches:,} launches, "
        f"{costs.compiles:,} compiles of {costs.compile_s:.1f} s, under way for {duration(costs.wall_s)}"
    )
    if listing.holder is not None:
        lines.append(f"under way: {listing.holder.host}, process {listing.holder.pid}")
    reasons = Counter((trial.reason, _first_line(trial.detail)) for trial in detail.trials if trial.reason)
    lines += [f"pruned: {count} {reason}{f' ({why})' if why else ''}" for (reason, why), count in reasons.most_common()]
    return [*lines, *(f"left out before any trial: {count} {reason}" for reason, count in listing.excluded.items())]


def _first_line(detail: str | None) -> str:
    return detail.strip().splitlines()[0] if detail and detail.strip() else ""
