"""Reviews all searches of a database."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import accumulate, islice
from statistics import fmean, geometric_mean
from typing import Any

from bo_tune.analysis.listing import named
from bo_tune.analysis.review.case import Case, cases_of
from bo_tune.analysis.review.effort import Effort, GridEffort, effort_of, grid_effort, reasons_of
from bo_tune.analysis.review.study import StudyReview, review_study
from bo_tune.analysis.review.truth import truths_of
from bo_tune.formats.recording import Recording
from bo_tune.processes.threads import one_blas_thread
from bo_tune.store.storage import StudyStore

MOST_STUDIES = 600
"""Studies that are reviewed at most: each takes about 4 kB of a page, and 10 ms."""

MOST_TRIALS = 40_000
"""Trials of all studies that are drawn at most. Those of exhaustive studies are not drawn."""

GRID = " | grid"
"""End of the names of exhaustive studies."""

ASIDE = " | set aside "
"""Part of the names of studies that were set aside for others."""


@dataclass(frozen=True, slots=True)
class Review:
    """The searches that a database holds.

    Attributes:
        cases: what was tuned: each problem, or the problems that must agree, as one.
        grids: exhaustive studies. They are no searches, but tell how good the searches are.
        pruned, excluded: pruned trials, and configs left out before any trial, by reason.
        left_out: number of older studies that are not reviewed.
    """

    cases: Sequence[Case]
    grids: Sequence[StudyReview]
    effort: Effort
    grid_effort: GridEffort | None
    pruned: Mapping[str, int]
    excluded: Mapping[str, int]
    left_out: int = 0

    @property
    def looked_at(self) -> int:
        """Number of reviewed studies, including grids."""
        return len(self.studies) + len(self.grids)

    @property
    def studies(self) -> list[StudyReview]:
        """The searches, study by study."""
        return [study for case in self.cases for study in case.studies]

    @property
    def gpus(self) -> list[str]:
        """Names of the GPUs."""
        return list(dict.fromkeys(study.name.gpu for study in self.studies))

    @property
    def replayed(self) -> bool:
        """Whether any study replayed a recording."""
        return any(study.replayed for study in self.studies)

    @property
    def speed_up(self) -> float | None:
        """Geometric mean of default time over chosen time, of the cases that count; None if there are none."""
        gains = [case.speed_up for case in self.cases if case.counts and case.speed_up]
        return geometric_mean(gains) if gains else None

    @property
    def mean_regret_percent(self) -> float | None:
        """Mean regret of the cases that count and whose grid's best is known; None if there are none."""
        regrets = [c.regret_percent for c in self.cases if c.counts and c.regret_percent is not None]
        return fmean(regrets) if regrets else None


def review(
    store: StudyStore,
    recordings: Iterable[Recording] = (),
    session: Mapping[str, Any] | None = None,
    words: Sequence[str] = (),
) -> Review:
    """Review the studies of a database. If there are very many, review the newest.

    Args:
        words: words that the names of the studies must contain.
        recordings: whole grids, to tell how far from the best the searches ended.
        session: the figures that ``tune --json`` wrote: seconds of the GPU and the number of compilers.

    Raises:
        StorageError: the database fails.
    """
    chosen, others = _newest(store, words)
    summaries = store.summaries(ids=chosen)
    trials = store.trials_of(summaries)
    with one_blas_thread():
        studies = [review_study(summary, trials[summary.name]) for summary in summaries if summary.name in trials]
    grids = [study for study in studies if study.name.exhaustive]
    truths = truths_of(grids, recordings, {study.name.toolchain for study in studies})
    cases = cases_of([s for s in studies if not s.name.exhaustive], truths)
    if others:  # studies that ended together with reviewed ones may be among them
        whole = [
            case for case in cases if case.first.joint is None or len(case.first.joint.kernels) == len(case.studies)
        ]
        others += sum(len(case.studies) for case in cases) - sum(len(case.studies) for case in whole)
        cases = whole
    searches = [study for case in cases for study in case.studies]
    effort = effort_of(searches, session)
    pruned, excluded = reasons_of(searches)
    return Review(cases, grids, effort, grid_effort(searches, truths, effort), pruned, excluded, others)


def _newest(store: StudyStore, words: Sequence[str]) -> tuple[list[int], int]:
    """Return the numbers of the studies to review, and how many others there are."""
    names = store.names()
    wanted = set(named(list(names.values()), words)) if words else set(names.values())
    numbers = sorted((number for number, name in names.items() if name in wanted), reverse=True)
    numbers = [number for number in numbers if ASIDE not in names[number]]
    counts = store.counts() if len(numbers) > 1 else {}
    drawn = (0 if names[i].endswith(GRID) else sum(counts.get(i, {}).values()) for i in numbers)
    kept = sum(total <= MOST_TRIALS for total in islice(accumulate(drawn), MOST_STUDIES)) or 1
    return numbers[:kept], len(numbers[kept:])


def document(review: Review) -> dict[str, Any]:
    """Return a review as JSON: means, costs, reasons, and each case with its studies. Times are in us."""
    return {
        "gpus": review.gpus,
        "replayed": review.replayed,
        "geomean_speed_up_over_default": review.speed_up,
        "mean_regret_percent": review.mean_regret_percent,
        "costs": asdict(review.effort),
        "grid_costs": asdict(review.grid_effort) if review.grid_effort else None,
        "pruned": dict(review.pruned),
        "excluded": dict(review.excluded),
        "left_out": review.left_out,
        "cases": [_case(case) for case in review.cases],
    }


def _case(case: Case) -> dict[str, Any]:
    return {
        "finished": case.finished,
        "counts_in_means": case.counts,
        "default_us": case.default_us,
        "time_us": case.time_us,
        "speed_up": case.speed_up,
        "grid_best_us": case.best_us,
        "grid_from": case.truth,
        "regret_percent": case.regret_percent,
        "saved_us": case.saved_us,
        "steps": [asdict(step) for step in case.steps],
        "studies": [_study(study, losses) for study, losses in zip(case.studies, case.losses, strict=True)],
    }


def _study(study: StudyReview, losses: Any) -> dict[str, Any]:
    return {
        "study": str(study.name),
        "config": study.config,
        "time_us": study.best_us,
        "default_us": study.default_us,
        "sampler": study.result.sampler if study.result else None,
        "certificate": study.certificate.to_json() if study.certificate else None,
        "ended": study.ending.reason.value if study.ending else None,
        "layers": list(study.layers),
        "ended_by": study.result.ended_by if study.result else None,
        "grid_size": study.grid_size,
        "excluded": study.excluded,
        "states": study.states,
        "reasons": study.reasons,
        "loss_by_a_wrong_value": dict(losses),
        "late_share": study.late_share,
        "costs": study.costs.flat(),
    }
