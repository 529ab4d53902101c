"""The lookups of a model, as ``bo-tune problems`` lists them, and the faults that ``bo-tune check`` finds in them."""

from collections.abc import Iterator, Mapping, Sequence
from itertools import groupby

from rich.table import Table

from bo_tune.analysis.outlook import Outlook
from bo_tune.core.problem import LoraProblem, Problem
from bo_tune.display.console import plain_table
from bo_tune.engines.check import Lookup, Report
from bo_tune.kernels.csgmv.step import CsgmvStep
from bo_tune.kernels.experts.step import KERNEL as EXPERTS
from bo_tune.kernels.experts.step import ExpertsStep
from bo_tune.kernels.mamba.step import KERNEL as MAMBA
from bo_tune.kernels.mamba.step import MambaStep
from bo_tune.kernels.registry import OF_BASE_MODEL, OF_SGLANG

MOST_SHOWN = 6
"""Values of m shown in a cell. The others are only counted."""


def problem_tables(problems: Mapping[Problem, Sequence[str]]) -> Iterator[Table]:
    """Return the problems with the layers that they serve: a table for each kernel, a row for each shape."""
    rows: dict[str, dict[tuple[str, ...], list[str]]] = {}
    for problem, layers in problems.items():
        row, m = _row(problem)
        rows.setdefault(problem.kernel, {}).setdefault((", ".join(layers) or "-", *row), []).append(m)
    for kernel, shapes in rows.items():
        # Leave out columns in which no shape has a value.
        kept = [any(cells) for cells in zip(*shapes, strict=True)]
        second = "sizes" if kernel in OF_BASE_MODEL or kernel in OF_SGLANG else "expand"
        text = [name for name, keep in zip(("layers", second), kept, strict=False) if keep]
        figures = [name for name, keep in zip(_FIGURES, kept[2:], strict=True) if keep]
        table = plain_table(kernel, (*text, "m"), figures)
        for shape, ms in shapes.items():
            cells = [cell for cell, keep in zip(shape, kept, strict=True) if keep]
            table.add_row(*cells[: len(text)], ", ".join(ms), *cells[len(text) :])
        yield table


_FIGURES = ("max_loras", "slices", "k", "n", "i")


def _row(problem: Problem) -> tuple[tuple[str, ...], str]:
    """Return the cells of a problem between layers and m, empty if there is nothing to show, and m."""
    if problem.kernel == EXPERTS:
        step = ExpertsStep.of(problem)
        held = "" if step.experts.local == step.experts.count else f" of {step.experts.count}"
        sizes = f"E {step.experts.local}{held}, N {step.n}, hidden {step.hidden}, top {step.experts.top_k}"
        return (sizes + _held_as(step), *[""] * len(_FIGURES)), str(step.m)
    if problem.kernel == MAMBA:
        mamba = MambaStep.of(problem)
        shape = f"{mamba.heads} heads, headdim {mamba.headdim}, dstate {mamba.dstate}, {mamba.state_dtype} states"
        return (shape, *[""] * len(_FIGURES)), str(mamba.sequences)
    if problem.kernel in OF_SGLANG:
        chunked = CsgmvStep.of(problem)
        wide = "+".join(map(str, chunked.widths)) or f"{chunked.k}, {chunked.slices} slices"
        return (f"{wide}, rank {chunked.rank}, chunks of {chunked.chunk}", *[""] * len(_FIGURES)), str(chunked.m)
    if not isinstance(problem, LoraProblem):
        return (problem.label, *[""] * len(_FIGURES)), "-"
    figures = (problem.max_loras, problem.num_slices, problem.k, problem.n, problem.i or "")
    return ("overwrites" if problem.add_inputs is False else "", *map(str, figures)), str(problem.m)


def _held_as(step: ExpertsStep) -> str:
    """Say how weights are stored that do not have 16 bits."""
    rows, columns = step.block or (0, 0)
    scale = f" by {rows} x {columns}" if rows else f" by {columns}" if columns else ""
    return f", {step.weights}{scale}{' with zero points' if step.zeros else ''}" if step.weights else ""


def problem_lines(problems: Mapping[Problem, Sequence[str]], expected: Outlook) -> list[str]:
    """Return the lines below the tables: which lookups share studies, and what tuning will cost."""
    lookups = sum(max(1, len(layers)) for layers in problems.values())
    deciding = expected.studies - len(problems)
    more = f", plus {deciding} of kernels that engines launch in their place" if deciding else ""
    lines = [f"{len(problems)} studies serve {lookups} lookups: the layers in one row share their studies{more}"]
    if deciding or any(isinstance(problem, LoraProblem) and problem.experts for problem in problems):
        lines.append("the experts' kernels of one m must agree on one block_m")
    if expected.binaries is None or expected.minutes is None:
        return [*lines, "bo_tune cannot estimate the time: only sessions of adapters' kernels have been measured"]
    return [*lines, f"expect about {expected.binaries} binaries and {expected.minutes:.1f} minutes, {expected.basis}"]


def check_tables(report: Report) -> Iterator[Table]:
    """Return the lookups, with a table for each file and a row for each shape, and the faults."""

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
            table.add_row(fault.file or "-", fault.place or "-", fault.reason, _some(sorted({i.m for i in met})))
        yield table


def fault_lines(report: Report) -> list[str]:
    """Return a line for each fault, for readers who want nothing else."""
    return [": ".join(filter(None, (fault.file, fault.place, fault.reason))) for fault in report.faults]


def check_lines(report: Report) -> list[str]:
    """Return the lines below the tables: totals, and what was not checked."""
    faults = len(report.faults)
    lines = [
        f"{len(report.lookups)} lookups: {report.count('exact')} find their own entry, "
        f"{report.count('nearest m')} take the entry of the nearest m, {report.count('fault')} fail or take "
        f"another lookup's entry; {faults} fault{'s' * (faults != 1)}"
    ]
    if report.gpu is None:
        lines.append(f"shared memory was not checked: bo_tune does not know {report.gpu_file_name}")
    if report.note:
        lines.append(f"note: {report.note}")
    return lines


def _farthest(items: Sequence[Lookup]) -> str:
    """Show the m that is relatively farthest from its key: ``6144 takes 8192``."""
    pairs = [(item.m, item.nearest_m) for item in items if item.nearest_m is not None]
    if not pairs:
        return "-"
    m, key = max(pairs, key=lambda pair: max(pair) / min(pair))
    return f"{m} takes {key}"


def _some(values: Sequence[int]) -> str:
    if not values:
        return "-"
    more = f" … ({len(values)})" if len(values) > MOST_SHOWN else ""
    return ", ".join(map(str, values[:MOST_SHOWN])) + more
