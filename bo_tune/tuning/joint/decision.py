"""Kernels that an engine launches in place of others decide for them, on one value of the shared parameter.

Such kernels (``KernelSpec.decides``) are tried with every value of ``SHARED``, and the value with the least sum of
their times is chosen. The others are then searched under that value, each on its own, since their remaining parameters
are separable for a given value.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TypeVar

from bo_tune.core.conclusion import SHARED, Certificate, Decision
from bo_tune.kernels.spec import AnySpec
from bo_tune.store.results import StudyResult
from bo_tune.store.trials import launched
from bo_tune.tuning.joint.choice import JointChoice, choose_jointly
from bo_tune.tuning.settings import TunerSettings
from bo_tune.tuning.tuner import Tuner

One = TypeVar("One")


def decision_of(results: Sequence[StudyResult | None]) -> Decision | None:
    """Return the decision that follows from kernels' results, or None if one of them has no result."""
    joint = next((result.joint for result in results if result is not None), None)
    if joint is None or any(result is None for result in results):
        return None
    return Decision(joint.kernels, joint.value, joint.time_us, joint.default_time_us)


def split_deciding(ones: Sequence[One], spec_of: Callable[[One], AnySpec]) -> tuple[list[One], list[One]]:
    """Split items, one for each kernel of a group, into those of kernels that decide and the others.

    If all kernels decide, or none does, all are others.
    """
    deciding = [one for one in ones if spec_of(one).decides]
    others = [one for one in ones if not spec_of(one).decides]
    return (deciding, others) if deciding and others else ([], list(ones))


class DecidedTuner:
    """Searches kernels under the value of ``SHARED`` that others decided on.

    Args:
        tuners: one for each kernel, in the order in which a layer runs them. Their candidates all have that value.
    """

    def __init__(self, tuners: Sequence[Tuner], settings: TunerSettings, decision: Decision) -> None:
        self.tuners = tuple(tuners)
        self.decision = decision
        self._settings = settings

    def search(self, budget: int | None = None) -> None:
        """Search each kernel, with at least one config of the value.

        Configs of other values, left by searches without a decision, are not counted.

        Raises:
            InterruptedSearch: when asked to stop.
        """
        budget = self._settings.budget if budget is None else budget
        for tuner in self.tuners:
            least = 1 + (tuner.default[SHARED] != self.decision.value)
            tuner.search(None if budget is None else max(least, budget) + self._elsewhere(tuner))

    def _elsewhere(self, tuner: Tuner) -> int:
        """Count the configs that were launched under other values, without the default config."""
        tried = [dict(trial.params) for trial in tuner.trials if launched(trial)]
        return sum(config[SHARED] != self.decision.value and config != tuner.default for config in tried)

    @property
    def certificates(self) -> list[Certificate | None]:
        """The certificate of each kernel's model, with the expected loss."""
        return [one for tuner in self.tuners for one in tuner.certificates]

    @property
    def certificate(self) -> Certificate | None:
        """The certificate of the least sure kernel; None without models."""
        known = [one for tuner in self.tuners if (one := tuner.certificate) is not None]
        return min(known, key=lambda one: one.probability) if len(known) == len(self.tuners) else None

    def is_sure(self) -> bool:
        """Say whether the stop rule ends the search of all of them."""
        return all(tuner.is_sure() for tuner in self.tuners)

    def choose(self) -> JointChoice | None:
        """Re-measure the finalists and choose. Returns None if nothing was measured under the value."""
        choice = choose_jointly(self.tuners, self._settings.finalists, self.decision.value)
        if choice is None:
            return None
        for tuner, one in zip(self.tuners, choice.choices, strict=True):
            tuner.launches += one.launches
        return replace(choice, decided_by=self.decision)
