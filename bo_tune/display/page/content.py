"""The page's content, section by section, without its looks."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from statistics import median
from typing import Any

from bo_tune.analysis.review import Review
from bo_tune.analysis.review.case import Case
from bo_tune.analysis.review.family import Family, families_of, tokens_of
from bo_tune.analysis.review.noise import NoiseBand, noise_bands
from bo_tune.analysis.review.study import StudyReview
from bo_tune.display.console import counted, ending_lines
from bo_tune.display.page import words

SURE = 0.9
"""Probability that counts as sure."""

PURPOSES = {
    "check": "to check results",
    "timing": "to time configs",
    "late": "launched late, repeated",
    "finalists": "to time the finalists in turn",
}
"""Purposes of launches, in words."""


@dataclass(frozen=True)
class Row:
    """A study as a row of its kernel's table.

    Attributes:
        case: number of its case on the page.
        of_case: the case itself.
    """

    study: StudyReview
    shape: str
    m: int | None
    losses: Mapping[str, float]
    case: int
    of_case: Case
    regret_percent: float | None

    @property
    def saved_us(self) -> float | None:
        """The gain of each of its layers, in us; None for kernels that agree, where only the sum has a gain."""
        found = self.of_case.saved_us
        return None if self.of_case.joint else found

    @property
    def mattered(self) -> list[tuple[str, float]]:
        """The two parameters whose wrong values cost most, and how much."""
        return list(self.losses.items())[:2]

    @property
    def spread(self) -> float | None:
        """Median spread of the repetitions of its trials."""
        found = [p.spread for p in self.study.trials if p.spread is not None]
        return median(found) if found else None


class Page:
    """The template's content, in the order in which it is shown."""

    def __init__(self, review: Review) -> None:
        self.review = review
        self.families = families_of(review.cases)
        ordered = [case for family in self.families for case in family.cases]
        self._numbers = {id(case): number for number, case in enumerate(ordered)}
        self.grid = review.grid_effort
        self.gpus = list(dict.fromkeys(family.gpu for family in self.families))
        self.sources = list(dict.fromkeys(family.kernel_source for family in self.families))
        self.unfinished = sum(not case.finished for case in review.cases)
        self.counted = sum(case.counts and case.speed_up is not None for case in review.cases)
        self.known = [case for case in review.cases if case.regret_percent is not None]
        days = sorted(end.date().isoformat() for study in review.studies for _, end in study.under_way)
        self.dates = " to ".join(dict.fromkeys((days[0], days[-1]))) if days else ""

    def title(self, family: Family) -> str:
        """Name a family in a heading, with as much as distinguishes it from the others."""
        alike = [
            f
            for f in self.families
            if (f.kernels, f.gpu, f.conditions) == (family.kernels, family.gpu, family.conditions)
        ]
        source = family.kernel_source if len(alike) > 1 else ""
        return ", ".join(filter(None, [f"{family.name} on {family.gpu}", family.conditions, source]))

    def number(self, case: Case) -> int:
        """Return the number under which a case's curve is found on the page."""
        return self._numbers[id(case)]

    def options(self) -> list[tuple[str, list[tuple[int, str]]]]:
        """Return the cases to choose from, by family: (name, [(number, label)])."""
        return [
            (self.title(family), [(self.number(case), self.label(family, case)) for case in family.cases])
            for family in self.families
        ]

    def layers(self, family: Family) -> dict[str, str]:
        """Return the names of the layers of each shape of a family, as far as they are known."""
        found: dict[str, dict[str, None]] = {}
        for case in family.cases:
            for study in case.studies:
                found.setdefault(family.shape_of(case.first), {}).update(dict.fromkeys(study.layers))
        return {shape: ", ".join(names) for shape, names in found.items() if names}

    def versions(self) -> list[tuple[str, str]]:
        """Return what measured the studies: (what, versions)."""
        found: dict[str, dict[str, None]] = {}
        for study in self.review.studies:
            for name, version in {"kernels": study.name.kernel_source, **study.origin}.items():
                if name != "session" and version:
                    found.setdefault(name, {})[version] = None
            if not study.origin and study.name.toolchain:
                found.setdefault("toolchain", {})[study.name.toolchain] = None
        return [(name, ", ".join(versions)) for name, versions in found.items()]

    def endings(self, family: Family) -> str:
        """Say why the searches of a family ended, and the expected loss."""
        studies = [study for case in family.cases for study in case.studies]
        lines = ending_lines([(study.ending, study.certificate) for study in studies if study.finished])
        return " ".join(f"{line[:1].upper()}{line[1:]}." for line in lines)

    def label(self, family: Family, case: Case) -> str:
        """Name a case within its family."""
        m = tokens_of(case.first)
        shape = family.shape_of(case.first)
        return (shape if m is None else f"{shape}, m {m}") + ("" if case.finished else " *")

    def heat(self, family: Family) -> list[tuple[str, list[Case | None]]]:
        """Return a family's cases as rows of layer shapes and columns of m."""
        found = {(family.shape_of(case.first), tokens_of(case.first)): case for case in family.cases}
        return [(shape, [found.get((shape, m)) for m in family.ms]) for shape in family.shapes]

    def kernels(self, family: Family) -> list[tuple[str, list[Row]]]:
        """Return the studies of each kernel of a family."""
        rows: dict[str, list[Row]] = {kernel: [] for kernel in family.kernels}
        for case in family.cases:
            for study, losses in zip(case.studies, case.losses, strict=True):
                regret = None if case.joint else case.regret_percent
                rows[study.name.problem.kernel].append(
                    Row(study, family.shape_of(case.first), tokens_of(study), losses, self.number(case), case, regret)
                )
        return list(rows.items())

    def losses(self, rows: Sequence[Row]) -> list[tuple[str, float, float, str]]:
        """Return what a wrong value of each parameter costs: (name, median, largest, place of the largest)."""
        found: dict[str, list[tuple[float, str]]] = {}
        for row in rows:
            place = row.shape if row.m is None else f"{row.shape}, m {row.m}"
            for name, loss in row.losses.items():
                found.setdefault(name, []).append((loss, place))
        middles = [(name, median(loss for loss, _ in losses), *max(losses)) for name, losses in found.items()]
        return sorted(middles, key=lambda row: -row[1])

    @cached_property
    def noise(self) -> list[NoiseBand]:
        """The spreads of repetitions, by octaves of time."""
        points = [point for study in self.review.studies for point in study.trials]
        return noise_bands((p.time_us, p.spread) for p in points if p.time_us and p.spread is not None)

    def ends(self, family: Family) -> str:
        """Say how the searches of a family ended, and how sure their models were."""
        studies = [study for case in family.cases for study in case.studies]
        sure = sorted(s.certificate.probability for s in studies if s.certificate)
        launched = sorted(study.costs.launched_configs for study in studies)
        span = f"{launched[0]}" if launched[0] == launched[-1] else f"{launched[0]} to {launched[-1]}"
        text = f"{counted(len(studies), 'search', 'searches')} launched {span} configs each."
        if not sure:
            return text
        high = sum(probability >= SURE for probability in sure)
        return (
            f"{text} At the end, {high} models were at least {words.share(SURE)} sure that nothing untried was "
            f"better by more than their tolerance. The median was {words.share(sure[len(sure) // 2])}, the lowest "
            f"{words.share(sure[0])}."
        )

    @property
    def how_known(self) -> str:
        """Whether the cost of exhaustive searches was measured or calculated."""
        return "measured" if self.grid and self.grid.measured else "calculated"

    @property
    def drawn(self) -> bool:
        """Whether there is a curve to draw."""
        return any(case.steps for case in self.review.cases)

    @property
    def grid_size(self) -> int:
        """Configs of all search spaces."""
        return sum(study.grid_size or 0 for study in self.review.studies)

    @cached_property
    def kernel_names(self) -> list[str]:
        """The kernels, in the order of the families."""
        return list(dict.fromkeys(kernel for family in self.families for kernel in family.kernels))

    def reasons(self) -> list[tuple[str, str, list[int]]]:
        """Return why configs have no time: (reason, when, counts by kernel, and their sum if there are several)."""
        rows = []
        for when, of_all, by_study in (
            ("pruned trial", self.review.pruned, [s.reasons for s in self.review.studies]),
            ("left out before any trial", self.review.excluded, [s.excluded for s in self.review.studies]),
        ):
            for reason, total in of_all.items():
                by_kernel = Counter[str]()
                for study, counts in zip(self.review.studies, by_study, strict=True):
                    by_kernel[study.name.problem.kernel] += counts.get(reason, 0)
                numbers = [by_kernel[kernel] for kernel in self.kernel_names]
                rows.append((reason, when, [*numbers, total] if len(numbers) > 1 else numbers))
        return rows

    @property
    def late(self) -> float | None:
        """Share of timed launches that were late."""
        by_purpose = self.review.effort.launches_by_purpose
        timed = by_purpose["timing"] + by_purpose["late"]
        return by_purpose["late"] / timed if timed else None

    def costs(self) -> list[tuple[str, str, str]]:
        """Return the costs: (of what, in the searches, in exhaustive searches)."""
        effort, grid = self.review.effort, self.grid
        bound = "" if not grid or grid.measured else "at least "
        rows = [
            ("configs tried", words.count(effort.configs), words.count(grid.configs if grid else None)),
            ("… launched at least once", words.count(effort.launched_configs), ""),
            ("kernel launches", words.count(effort.launches), words.count(grid.launches if grid else None)),
            *(
                (f"… {PURPOSES.get(purpose, purpose)}", words.count(number), "")
                for purpose, number in effort.launches_by_purpose.items()
            ),
            ("compiles", words.count(effort.compiles), words.count(grid.compiles if grid else None)),
            (
                "compiling, on one core",
                words.seconds(effort.compile_s),
                words.seconds(grid.compile_s if grid else None),
            ),
            ("inside the tuned kernels, timed repetitions", words.seconds(effort.kernel_s), ""),
        ]
        rows += [
            (f"GPU process: {what}", words.seconds(spent), "") for what, spent in sorted((effort.gpu_s or {}).items())
        ]
        if effort.wall_s is not None:
            theirs = bound + words.seconds(grid.wall_s) if grid and grid.wall_s else words.NONE
            rows.append(("GPU time: while a trial was under way", words.seconds(effort.wall_s), theirs))
        return rows

    def data(self) -> list[dict[str, Any]]:
        """Return the data of the chart of one problem, case by case."""
        return [_curve(self.label(family, case), case) for family in self.families for case in family.cases]


def _curve(label: str, case: Case) -> dict[str, Any]:
    """Return the trials, steps and levels of a case. If kernels agree, only their sum has a curve."""
    levels = {"default": case.default_us, "chosen": case.time_us, "best of the grid": case.best_us}
    points = [] if case.joint else case.first.trials
    return {
        "label": label,
        "says": _says(case),
        "steps": [[step.launched, round(step.best_us, 3), step.launches] for step in case.steps],
        "levels": {what: round(time, 3) for what, time in levels.items() if time is not None},
        "trials": [
            [
                p.launched,
                None if p.time_us is None else round(p.time_us, 3),
                p.reason,
                words.config(p.config),
                p.launches,
            ]
            for p in points
        ],
    }


def _says(case: Case) -> str:
    """Say in a sentence or two how a search ended."""
    parts = [
        f"The default takes {words.us(case.default_us)} us, the chosen config {words.us(case.time_us)} us: "
        f"{words.times(case.speed_up)}."
    ]
    sure = [s.certificate for s in case.studies if s.certificate]
    if sure:
        least = min(sure, key=lambda certificate: certificate.probability)
        whom = "Its model was" if len(case.studies) == 1 else "The least sure of its models was"
        parts.append(
            f"{whom} {words.certificate(least)} sure that nothing untried is better by more than "
            f"{100 * least.tolerance:g} %."
        )
    if case.regret_percent is not None:
        parts.append(f"The grid's best takes {words.us(case.best_us)} us: regret {words.percent(case.regret_percent)}.")
    return " ".join(parts)
