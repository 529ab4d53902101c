"""Reviews one study: its trials in order, its result, and how sure it was."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from datetime import datetime

from optuna.trial import FrozenTrial

from bo_tune.analysis.listing import StudyListing, listing_of
from bo_tune.analysis.review.importance import modelled_losses
from bo_tune.analysis.review.noise import late_share, spread
from bo_tune.core.conclusion import Agreement
from bo_tune.core.conditions import UNKNOWN
from bo_tune.core.outcome import Measurement
from bo_tune.core.problem import GpuInfo
from bo_tune.core.space import ConfigKey
from bo_tune.store.attributes import ORIGIN_ATTR, SPACE_ATTR
from bo_tune.store.results import StudyResult, default_of, intervals_of
from bo_tune.store.storage import StudySummary
from bo_tune.store.trials import REASON, RUNTIMES_US, launched, outcome_of


@dataclass(frozen=True, slots=True)
class TrialPoint:
    """One trial as a curve shows it.

    Attributes:
        launched: how many configs were launched so far, including this one.
        launches: how many launches of the kernel there were so far, for any purpose.
        time_us: its time, or the estimate at which it was stopped as slow; None for an invalid config.
        reason: why it was pruned, if it was.
        spread: of its repetitions (``noise.spread``); None for fewer than three.
        ended: when it was recorded.
    """

    launched: int
    launches: int
    config: Mapping[str, int]
    time_us: float | None
    reason: str | None
    spread: float | None
    ended: datetime | None

    @property
    def complete(self) -> bool:
        """Whether its time was measured to the end."""
        return self.time_us is not None and self.reason is None


@dataclass(frozen=True, slots=True, kw_only=True)
class StudyReview(StudyListing):
    """One study, with what it did.

    Attributes:
        trials: its trials, in the order in which they were recorded.
        result: its result, if it has one.
        default: the default config; None for a kernel that this process does not know.
        grid_size: number of configs of the search space.
        kernel_s: seconds that timed repetitions of trials took.
        losses: what a wrong value of each parameter costs, by the study's model (``importance``).
        late_share: share of timed launches that were late and repeated.
        under_way: when each trial began and ended.
        gpu: the GPU.
        origin: versions of what measured its result, by name; empty if not known.
        replayed: whether it replayed a recording instead of using a GPU, so that its seconds are not a GPU's.
    """

    trials: Sequence[TrialPoint]
    result: StudyResult | None
    default: ConfigKey | None
    grid_size: int | None
    kernel_s: float
    losses: Mapping[str, float]
    late_share: float | None
    under_way: Sequence[tuple[datetime, datetime]]
    gpu: GpuInfo
    origin: Mapping[str, str]
    replayed: bool

    @property
    def joint(self) -> Agreement | None:
        """Its agreement with others."""
        return self.result.joint if self.result else None

    @property
    def speed_up(self) -> float | None:
        """The default's time over the config's."""
        return self.default_us / self.best_us if self.default_us and self.best_us else None

    @property
    def family(self) -> tuple[str, str, str, str]:
        """A key that studies share if they belong in one picture.

        It has the kernel, the GPU, the measured code (and what compiled it), and the conditions (and how they were
        searched, if that is unusual).
        """
        name = self.name
        source = f"{name.kernel_source}, {name.toolchain or UNKNOWN}"
        return name.problem.kernel, name.gpu, source, ", ".join(filter(None, [name.conditions, name.search]))


def review_study(summary: StudySummary, trials: Sequence[FrozenTrial]) -> StudyReview:
    """Review a study, finished or not."""
    listing, under_way = listing_of(summary, trials), intervals_of(trials)
    return StudyReview(
        **{field.name: getattr(listing, field.name) for field in fields(listing)},
        trials=_points(trials),
        result=summary.result,
        default=default_of(summary.name.problem, summary.attributes),
        grid_size=summary.attributes.get(SPACE_ATTR, {}).get("size"),
        kernel_s=sum(sum(t.user_attrs.get(RUNTIMES_US, ())) for t in trials) / 1e6,
        losses={} if summary.name.exhaustive else modelled_losses(trials),
        late_share=late_share(trials),
        under_way=under_way,
        gpu=summary.gpu,
        origin=summary.attributes.get(ORIGIN_ATTR) or {},
        # A replay reports recorded compile times, so its trials end before their compiles could have.
        replayed=listing.costs.compile_s > sum((end - start).total_seconds() for start, end in under_way),
    )


def _points(trials: Sequence[FrozenTrial]) -> list[TrialPoint]:
    points, count, launches = [], 0, 0
    for trial in trials:
        count += launched(trial)
        outcome = outcome_of(trial)
        launches += outcome.launches.total()
        measured = outcome if isinstance(outcome, Measurement) else None
        points.append(
            TrialPoint(
                launched=count,
                launches=launches,
                config=dict(trial.params),
                time_us=measured.time_us if measured else None,
                reason=trial.user_attrs.get(REASON),
                spread=spread(measured.runtimes_us) if measured else None,
                ended=trial.datetime_complete,
            )
        )
    return points
