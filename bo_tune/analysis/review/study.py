"""One study looked back on: its trials in order, what it ended with, and how sure it was."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from optuna.trial import FrozenTrial

from bo_tune.analysis.review.importance import modelled_losses
from bo_tune.analysis.review.noise import late_share, spread
from bo_tune.core.conclusion import Agreement, Certificate
from bo_tune.core.conditions import UNKNOWN
from bo_tune.core.outcome import Measurement
from bo_tune.core.space import ConfigKey, config_key
from bo_tune.core.study_name import StudyName
from bo_tune.store.attributes import GPU_ATTR, ORIGIN_ATTR, SPACE_ATTR
from bo_tune.store.results import Costs, costs_of, default_of, figures_of, intervals_of
from bo_tune.store.storage import StudySummary
from bo_tune.store.trials import REASON, RUNTIMES_US, launched, outcome_of


@dataclass(frozen=True, slots=True)
class TrialPoint:
    """One trial as a curve shows it.

    Attributes:
        launched: how many configs were launched so far, this one included.
        time_us: its time, or the estimate at which it was stopped as slow; None for an invalid config.
        reason: why it was pruned, if it was.
        spread: of its repetitions (``noise.spread``); None for fewer than three.
        ended: when it was recorded.
    """

    launched: int
    config: Mapping[str, int]
    time_us: float | None
    reason: str | None
    spread: float | None
    ended: datetime | None

    @property
    def complete(self) -> bool:
        """Whether its time is one that was measured to the end."""
        return self.time_us is not None and self.reason is None


@dataclass(frozen=True, slots=True)
class StudyReview:
    """One study.

    Attributes:
        trials: its trials, in the order they were recorded.
        config: what it ended with; of an unfinished study the best so far, None where nothing was measured.
        time_us: time of that config, re-measured where the study is finished; us.
        default: the default config; None of a kernel that this process does not know.
        default_us: its time, likewise.
        finalists: configs re-measured at the end, the default first, with their times in us.
        grid_size: configs of the search space.
        excluded: configs left out before any trial, by reason.
        states, reasons: trials by state, and pruned ones by reason.
        kernel_s: seconds that timed repetitions of trials took.
        losses: what a wrong value of each parameter costs, by the study's model (``importance``).
        late_share: share of timed launches that were launched late and taken again.
        joint: what it agreed on with others (``StudyResult.joint``).
        origin: versions and session that measured it.
        under_way: when each trial began and ended.
        replayed: whether a recording stood for the GPU: its seconds are no GPU's.
    """

    name: StudyName
    trials: Sequence[TrialPoint]
    config: Mapping[str, int] | None
    time_us: float | None
    default: ConfigKey | None
    default_us: float | None
    finalists: Sequence[tuple[Mapping[str, int], float]]
    finished: bool
    sampler: str | None
    certificate: Certificate | None
    ended_by: Mapping[str, Any] | None
    grid_size: int | None
    excluded: Mapping[str, int]
    states: Mapping[str, int]
    reasons: Mapping[str, int]
    kernel_s: float
    losses: Mapping[str, float]
    late_share: float | None
    costs: Costs
    joint: Agreement | None
    gpu: Mapping[str, Any]
    origin: Mapping[str, Any]
    under_way: Sequence[tuple[datetime, datetime]]
    replayed: bool

    @property
    def speed_up(self) -> float | None:
        """The default's time over the config's."""
        return self.default_us / self.time_us if self.default_us and self.time_us else None

    @property
    def family(self) -> tuple[str, str, str, str]:
        """Studies that belong in one picture: kernel, GPU, code that was measured (and what compiled it), conditions
        (and how they were searched, where that is not as usual)."""
        name = self.name
        source = f"{name.kernel_source}, {name.toolchain or UNKNOWN}"
        return name.problem.kernel, name.gpu, source, ", ".join(filter(None, [name.conditions, name.search]))


def review_study(summary: StudySummary, trials: Sequence[FrozenTrial]) -> StudyReview:
    """Look back on a study, finished or not."""
    attributes, result = summary.attributes, summary.result
    points = _points(trials)
    best = min((p for p in points if p.complete), key=lambda p: p.time_us or 0.0, default=None)
    costs = result.costs if result and result.trials == len(trials) else costs_of(trials)
    under_way = intervals_of(trials)
    space, figures = attributes.get(SPACE_ATTR, {}), figures_of(trials)
    default = default_of(summary.name.problem, attributes)
    return StudyReview(
        name=summary.name,
        default=default,
        trials=points,
        config=result.config if result else best.config if best else None,
        time_us=result.time_us if result else best.time_us if best else None,
        default_us=result.default_time_us if result else _default_us(default, points),
        finalists=result.finalists if result else [],
        finished=result is not None,
        sampler=result.sampler if result else None,
        certificate=result.certificate if result else None,
        ended_by=result.ended_by if result else None,
        grid_size=space.get("size"),
        excluded=space.get("excluded", {}),
        states=figures["states"],
        reasons=figures["reasons"],
        kernel_s=sum(sum(t.user_attrs.get(RUNTIMES_US, ())) for t in trials) / 1e6,
        losses={} if summary.name.exhaustive else modelled_losses(trials),
        late_share=late_share(trials),
        costs=costs,
        joint=result.joint if result else None,
        gpu=attributes.get(GPU_ATTR, {}),
        origin=attributes.get(ORIGIN_ATTR, {}),
        under_way=under_way,
        replayed=_is_replay(costs.compile_s, under_way),
    )


def _points(trials: Sequence[FrozenTrial]) -> list[TrialPoint]:
    points, count = [], 0
    for trial in trials:
        count += launched(trial)
        outcome = outcome_of(trial)
        measured = outcome if isinstance(outcome, Measurement) else None
        points.append(
            TrialPoint(
                launched=count,
                config=dict(trial.params),
                time_us=measured.time_us if measured else None,
                reason=trial.user_attrs.get(REASON),
                spread=spread(measured.runtimes_us) if measured else None,
                ended=trial.datetime_complete,
            )
        )
    return points


def _is_replay(compile_s: float, under_way: Sequence[tuple[datetime, datetime]]) -> bool:
    """Say whether trials were over before their compiles could have been: those of a recording are only told of."""
    return compile_s > sum((end - start).total_seconds() for start, end in under_way)


def _default_us(default: ConfigKey | None, points: Sequence[TrialPoint]) -> float | None:
    return next((p.time_us for p in points if config_key(p.config) == default and p.complete), None)
