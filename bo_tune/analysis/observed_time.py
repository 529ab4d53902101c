"""Estimates the gain of tuning for an engine whose steps were observed, in its adapters' kernels.

The times of tuned keys are measured. A step of another size takes the config of the nearest key. Its time is estimated
(see ``engines.vllm.observed.load``) and scaled by what was measured at that key. A kernel that was not tuned is assumed
to stay as it is.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

from bo_tune.core.problem import LoraProblem
from bo_tune.engines.models.problems import lookup_of
from bo_tune.engines.vllm.lookup import nearest_of
from bo_tune.engines.vllm.observed.load import estimate_us
from bo_tune.engines.vllm.observed.study import ObservedStudy

if TYPE_CHECKING:
    from bo_tune.session.finished import Tuned


@dataclass(frozen=True, slots=True)
class ObservedTime:
    """The time of the adapters' kernels in the observed steps.

    Attributes:
        steps: number of steps with adapters, in all processes together.
        at_keys: share of the time in sizes of steps that have a key of their own.
        near_keys: share of the time in sizes that take the config of the nearest key.
        default_us: mean time of a step with the default configs, in us.
        tuned_us: mean time of a step with the tuned configs, in us.
    """

    steps: int
    at_keys: float
    near_keys: float
    default_us: float
    tuned_us: float

    @classmethod
    def of(cls, study: ObservedStudy, tuned: "Sequence[Tuned]") -> "ObservedTime | None":
        """Return the gain of tuning, or None if no step with adapters was observed."""
        times = {
            lookup_of(problem): (result.default_time_us or result.time_us, result.time_us)
            for one in tuned
            if (result := one.result) is not None and isinstance(problem := one.job.problem, LoraProblem)
        }
        return _time(study, times) if study.executed else None

    @property
    def speed_up(self) -> float:
        """Default time over tuned time."""
        return self.default_us / self.tuned_us

    def to_json(self) -> dict[str, Any]:
        """Return it for programs."""
        return asdict(self)


def _time(study: ObservedStudy, measured: Mapping[tuple[object, ...], tuple[float, float]]) -> ObservedTime:
    default_us = tuned_us = at_keys_us = near_keys_us = 0.0
    for family in study.families:
        keys = [m for m in study.ms if lookup_of(replace(family.problem, m=m)) in measured]
        for m, estimated_us in study.executed[family.problem].items():
            if not keys:
                default_us, tuned_us = default_us + estimated_us, tuned_us + estimated_us
                continue
            key = replace(family.problem, m=nearest_of(keys, m))
            scale = estimated_us / estimate_us(key, family.problem.max_loras)
            before_us, after_us = (scale * time_us for time_us in measured[lookup_of(key)])
            default_us, tuned_us = default_us + before_us, tuned_us + after_us
            if m == key.m:
                at_keys_us += before_us
            else:
                near_keys_us += before_us
    steps = sum(count for step, count in study.observed.steps.items() if step.adapters)
    shares = at_keys_us / default_us, near_keys_us / default_us
    return ObservedTime(steps, *shares, default_us / steps, tuned_us / steps)
