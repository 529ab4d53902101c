"""The studies of a database, as tables and lines."""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import groupby

from rich.table import Table

from bo_tune.analysis.listing import StudyListing
from bo_tune.core.conclusion import SHARED
from bo_tune.core.conditions import UNKNOWN
from bo_tune.display.console import (
    MOST_ROWS,
    TIMES,
    LongTable,
    disturbed_lines,
    marked,
    plain_table,
    speed_up,
    sure,
    us,
)
from bo_tune.kernels.registry import DECIDING


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
