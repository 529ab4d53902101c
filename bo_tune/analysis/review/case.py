"""Cases: problems that are tuned as one, since their kernels must agree, or single ones. Gain, curve and regret."""

from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from math import inf

from bo_tune.analysis.review.study import StudyReview, TrialPoint
from bo_tune.analysis.review.truth import Place, Truth, best_sum_us, place_of
from bo_tune.core.conclusion import SHARED, LayerTimes
from bo_tune.core.space import Config
from bo_tune.kernels.registry import IN_ORDER, is_known, kernel_spec
from bo_tune.store.result import InPlace
from bo_tune.tuning.joint.choice import sums_by_value


@dataclass(frozen=True, slots=True)
class Step:
    """The state of a search after a config was launched.

    Attributes:
        launched: configs launched so far, of all kernels.
        launches: launches so far, of all kernels and for any purpose except the race of finalists.
        best_us: the best measured time so far, in us. For several kernels, it is the best sum of configs that agree.
        true_us: the time of that config by the whole grid's measurements, if they are known.
    """

    launched: int
    launches: int
    best_us: float
    true_us: float | None


@dataclass(frozen=True, slots=True)
class Case:
    """One problem, or several that must agree; then times are sums.

    Attributes:
        studies: one, or one for each kernel in the order in which a layer runs them.
        steps: the search, at each change of its best and at its end.
        best_us: the smallest time of the whole grid (of configs that agree), if known.
        truth: the source of that time.
        losses: for each study, what a wrong value of each parameter costs (``importance``): by the whole grid if it is
            known, else by the study's model.
        regret_percent: time of the chosen config over the grid's best, both by the whole grid's times, minus one.
    """

    studies: Sequence[StudyReview]
    default_us: float | None
    time_us: float | None
    steps: Sequence[Step]
    best_us: float | None
    truth: str | None
    losses: Sequence[Mapping[str, float]]
    regret_percent: float | None

    @property
    def first(self) -> StudyReview:
        """The study that represents the case."""
        return self.studies[0]

    @property
    def joint(self) -> bool:
        """Whether kernels had to agree."""
        return len(self.studies) > 1

    @property
    def decided(self) -> int | None:
        """The value of ``SHARED`` that other kernels decided on, because an engine launches them in place of these."""
        return decided_of(self.first)

    @property
    def counts(self) -> bool:
        """Whether the case counts in means: it is finished, and an engine runs these kernels."""
        return self.finished and self.decided is None

    @property
    def finished(self) -> bool:
        """Whether every study has a result."""
        return all(study.finished for study in self.studies)

    @property
    def speed_up(self) -> float | None:
        """The defaults' time over the chosen configs'."""
        return self.default_us / self.time_us if self.default_us and self.time_us else None

    @property
    def saved_us(self) -> float | None:
        """The gain in us of each layer that uses it: as timed in the layer, or else alone."""
        there = self._in_place()
        times = (self.default_us, self.time_us) if there is None else (there.default_time_us, there.time_us)
        return times[0] - times[1] if times[0] is not None and times[1] is not None else None

    def _in_place(self) -> InPlace | LayerTimes | None:
        """Return the times of the race in the layer, if there was one."""
        if self.joint:
            return self.first.joint.in_place if self.first.joint else None
        return self.first.result.in_place if self.first.result else None


def decided_of(study: StudyReview) -> int | None:
    """Return the value of ``SHARED`` that other kernels decided on for a study, or None."""
    return study.joint.decided_by.value if study.joint and study.joint.decided_by else None


def cases_of(studies: Iterable[StudyReview], truths: Mapping[Place, Truth]) -> list[Case]:
    """Put studies that ended together into one case, and each other study into one of its own, keeping their order."""
    groups: dict[Hashable, list[StudyReview]] = {}
    for study in studies:
        groups.setdefault(_group_of(study) or str(study.name), []).append(study)
    return [_case(group, [truths.get(place_of(s.name)) for s in group]) for group in map(_in_order, groups.values())]


def _group_of(study: StudyReview) -> Hashable | None:
    """Return a key that studies share if they ended together. Kernels that decide end apart from those that follow."""
    problem = study.name.problem
    if study.joint is None or not is_known(problem.kernel):
        return None
    return kernel_spec(problem.kernel).joint_group(problem), study.joint.kernels, study.family[1:]


def _in_order(studies: list[StudyReview]) -> list[StudyReview]:
    order = list(IN_ORDER)
    return sorted(studies, key=lambda s: order.index(s.name.problem.kernel)) if len(studies) > 1 else studies


def _case(studies: Sequence[StudyReview], found: Sequence[Truth | None]) -> Case:
    truths = [truth for truth in found if truth is not None]
    known = truths if len(truths) == len(studies) else []
    best_us = (best_sum_us(known, decided_of(studies[0])) if len(known) > 1 else known[0].best_us) if known else None
    chosen_us = _chosen_us(studies, known) if known else None
    first = studies[0]
    default_us, time_us = first.default_us, first.best_us
    if len(studies) > 1:
        assert first.joint is not None
        default_us, time_us = first.joint.default_time_us, first.joint.time_us
        steps = _joint_steps(studies, known)
    else:
        steps = _steps(first, known[0] if known else None)
    return Case(
        studies=studies,
        default_us=default_us,
        time_us=time_us,
        steps=steps,
        best_us=best_us,
        truth=", ".join(dict.fromkeys(truth.source for truth in known)) or None,
        losses=[t.losses if t else s.losses for s, t in zip(studies, found, strict=True)],
        regret_percent=100.0 * (chosen_us / best_us - 1.0) if chosen_us and best_us else None,
    )


def _chosen_us(studies: Sequence[StudyReview], truths: Sequence[Truth]) -> float | None:
    """Return the time of the chosen configs by the whole grids' measurements."""
    total = 0.0
    for study, truth in zip(studies, truths, strict=True):
        time_us = truth.time_us(study.config) if study.config else None
        if time_us is None:
            return None
        total += time_us
    return total


def _steps(study: StudyReview, truth: Truth | None) -> list[Step]:
    steps: list[Step] = []
    best = inf
    for point in study.trials:
        if point.complete and point.time_us is not None and point.time_us < best:
            best = point.time_us
            true_us = truth.time_us(point.config) if truth else None
            steps.append(Step(point.launched, point.launches, best, true_us))
    return _to_the_end(steps, study.trials[-1:])


def _joint_steps(studies: Sequence[StudyReview], truths: Sequence[Truth]) -> list[Step]:
    """Follow the best sum of times under one value, over the trials of all kernels in the order of time."""
    trials = [(p.ended or datetime.min, kernel, p) for kernel, s in enumerate(studies) for p in s.trials]
    best: list[dict[int, TrialPoint]] = [{} for _ in studies]
    reached: list[TrialPoint | None] = [None] * len(studies)
    decided = decided_of(studies[0])
    steps: list[Step] = []
    for _, kernel, point in sorted(trials, key=lambda trial: trial[:2]):
        reached[kernel] = point
        value = point.config[SHARED]
        if (
            not point.complete
            or decided not in (None, value)
            or _us(point) >= (_us(best[kernel][value]) if value in best[kernel] else inf)
        ):
            continue
        best[kernel][value] = point
        sums = sums_by_value([{v: _us(p) for v, p in of_kernel.items()} for of_kernel in best])
        value = min(sums, key=sums.__getitem__, default=0)
        if sums and (not steps or sums[value] < steps[-1].best_us):
            configs = [of_kernel[value].config for of_kernel in best]
            steps.append(Step(*_so_far(reached), sums[value], _true_sum(configs, truths)))
    return _to_the_end(steps, [point for point in reached if point])


def _so_far(reached: Iterable[TrialPoint | None]) -> tuple[int, int]:
    """Return the numbers of configs and launches when each kernel had reached a trial."""
    points = [point for point in reached if point is not None]
    return sum(point.launched for point in points), sum(point.launches for point in points)


def _us(point: TrialPoint) -> float:
    return inf if point.time_us is None else point.time_us


def _true_sum(configs: Sequence[Config], truths: Sequence[Truth]) -> float | None:
    times = [truth.time_us(config) for config, truth in zip(configs, truths, strict=False)]
    known = [time for time in times if time is not None]
    return sum(known) if truths and len(known) == len(configs) else None


def _to_the_end(steps: list[Step], last: Sequence[TrialPoint]) -> list[Step]:
    """Extend the last best to the last trial of each kernel."""
    launched, launches = _so_far(last)
    if steps and steps[-1].launched < launched:
        steps.append(Step(launched, launches, steps[-1].best_us, steps[-1].true_us))
    return steps
