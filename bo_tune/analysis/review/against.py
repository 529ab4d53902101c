"""Compares two databases: what was found for the same problems, on the same GPU types."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from math import exp, log
from typing import Any

from bo_tune.analysis.review.review import Review
from bo_tune.analysis.review.study import StudyReview
from bo_tune.core.problem import Problem
from bo_tune.core.study_name import natural

Asked = tuple[Problem, str, str]
"""A problem, a GPU type and conditions."""


@dataclass(frozen=True, slots=True)
class Versus:
    """A problem for which both databases have a result. Times in us.

    Attributes:
        here: the study of this database.
        there: the study of the other one.
    """

    here: StudyReview
    there: StudyReview

    @property
    def same(self) -> bool:
        """Whether both chose the same config."""
        return dict(self.here.config or {}) == dict(self.there.config or {})

    @property
    def ratio(self) -> float | None:
        """Time there over time here: above 1 if this database has the faster config."""
        if not self.here.best_us or not self.there.best_us:
            return None
        return self.there.best_us / self.here.best_us


@dataclass(frozen=True, slots=True)
class Against:
    """All problems of two databases.

    Attributes:
        where: the other database.
        only_here, only_there: numbers of problems that only one of them has.
    """

    where: str
    both: Sequence[Versus]
    only_here: int
    only_there: int

    @property
    def mean_ratio(self) -> float | None:
        """Geometric mean of the ratios; None if there are none."""
        ratios = [one.ratio for one in self.both if one.ratio]
        return exp(sum(map(log, ratios)) / len(ratios)) if ratios else None

    def to_json(self) -> dict[str, Any]:
        """Return it as JSON."""
        return {
            "storage": self.where,
            "mean_ratio": self.mean_ratio,
            "only_here": self.only_here,
            "only_there": self.only_there,
            "problems": [
                {
                    "problem": asdict(one.here.name.problem),
                    "gpu": one.here.name.gpu,
                    "time_us": one.here.best_us,
                    "other_time_us": one.there.best_us,
                    "config": one.here.config,
                    "other_config": one.there.config,
                    "ratio": one.ratio,
                }
                for one in self.both
            ],
        }


def against(here: Review, there: Review, where: str) -> Against:
    """Compare the finished searches of two databases. Of several of one problem, the last that was measured counts.

    Args:
        where: the other database, without a password.
    """
    ours, theirs = _finished(here), _finished(there)
    both = [Versus(ours[asked], theirs[asked]) for asked in ours.keys() & theirs.keys()]
    both.sort(key=lambda one: natural(str(one.here.name)))
    return Against(where, both, len(ours.keys() - theirs.keys()), len(theirs.keys() - ours.keys()))


def _finished(review: Review) -> dict[Asked, StudyReview]:
    studies = [study for study in review.studies if study.result is not None]
    studies.sort(key=lambda study: study.result.date if study.result else "")
    return {(study.name.problem, study.name.gpu, study.name.conditions): study for study in studies}
