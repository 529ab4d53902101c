"""Ends studies, alone or together: with the results that they already have, or by choosing and storing new ones."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from typing import Any, Protocol

from bo_tune.core.conclusion import Certificate, Decision, StopRule
from bo_tune.core.surroundings import Linear, asked_of
from bo_tune.store.attributes import RESULT_ATTR
from bo_tune.store.result import InPlace
from bo_tune.store.results import StudyResult, costs_of
from bo_tune.tuning.joint.decision import decision_of, split_deciding
from bo_tune.tuning.race import Choice, Choices
from bo_tune.tuning.tuner import Tuner

Asked = Callable[[str], Mapping[str, Any]]
"""Returns what is asked of the search of a kernel's studies (``SessionSettings.asked``)."""


class Search(Protocol):
    """Searches studies until enough is known: those of one kernel (``Tuner``), or of several that must agree."""

    def search(self, budget: int | None = None) -> None:
        """Try configs until ``budget`` of each kernel are launched, or enough is known. Raises InterruptedSearch."""

    def is_sure(self) -> bool:
        """Say whether the stop rule ends the search here."""

    def choose(self) -> Choices | None:
        """Re-measure the finalists and choose. Returns None if nothing was measured."""

    @property
    def certificate(self) -> Certificate | None:
        """The joint certificate of the models; None without models."""

    @property
    def certificates(self) -> Sequence[Certificate | None]:
        """The certificate of each kernel's model; None for a kernel without a model."""


def current_results(
    tuners: Sequence[Tuner], asked: Asked, decision: Decision | None = None
) -> list[StudyResult] | None:
    """Return the stored results of studies if they are current, else None.

    They are current if they come from the search that is asked for, with its budget, stop rule and ranges, were all
    chosen together, and no trial came after them.

    Args:
        asked: returns what is asked for.
        decision: the decision of other kernels under which the results must have been chosen, if there is one.
    """
    deciding, others = split_deciding(tuners, lambda tuner: tuner.spec)
    if deciding:
        first = current_results(deciding, asked)
        rest = current_results(others, asked, decision_of(first)) if first else None
        return [*first, *rest] if first and rest else None
    results = [result for tuner in tuners if (result := tuner.stored.result()) is not None]
    if len(results) < len(tuners) or any(
        result.trials != len(tuner.trials) or result.asked != _asked(tuner, asked)
        for result, tuner in zip(results, tuners, strict=True)
    ):
        return None
    together = [tuner.problem.kernel for tuner in tuners] if len(tuners) > 1 else None
    expected = tuple(together) if together else None, decision
    found = [(one.kernels, one.decided_by) if (one := result.joint) else (None, None) for result in results]
    return results if all(one == expected for one in found) else None


def _asked(tuner: Tuner, asked: Asked) -> Mapping[str, Any]:
    """Return what is asked of a study's search. If it ends in a layer, that includes the layer."""
    return {**asked(tuner.problem.kernel), **asked_of(tuner.layer)}


def _in_place(choice: Choice) -> InPlace | None:
    """Return what a result stores about a race in place, or None if there was none."""
    found = choice.in_place
    if found is None:
        return None
    linear = found.around.layer
    assert isinstance(linear, Linear)
    (beside,) = found.around.beside.values()
    return InPlace(
        linear=linear,
        beside=beside,
        bare_us=found.bare_us,
        time_us=found.time_us,
        default_time_us=found.default_time_us,
        finalists=[(dict(key), time_us) for key, time_us in found.times_us.items()],
        by_active=found.by_active,
    )


def have_ended(tuners: Sequence[Tuner], asked: Asked, rule: StopRule | None, decision: Decision | None = None) -> bool:
    """Say whether a stop rule has ended the studies before.

    Other studies may have taught since then, and made a model less sure. That does not reopen these studies.
    """
    results = current_results(tuners, asked, decision)
    return rule is not None and results is not None and all(r.ended_by == asdict(rule) for r in results)


def choose_results(
    search: Search,
    tuners: Sequence[Tuner],
    asked: Asked,
    sampler: str,
    rule: StopRule | None,
) -> list[StudyResult] | None:
    """Choose and store the results of studies. Returns None if nothing was measured.

    Args:
        search: searched the studies. For a single study, it is the tuner itself.
        asked: returns what was asked for.
        sampler: name of the sampler.
        rule: the stop rule in force.
    """
    choice = search.choose()
    if choice is None:
        return None
    results = [
        StudyResult(
            config=one.config,
            time_us=one.time_us,
            default_time_us=one.default_time_us,
            finalists=[(dict(key), time_us) for key, time_us in one.times_us.items()],
            trials=len(tuner.trials),
            sampler=sampler,
            date=datetime.now(UTC).isoformat(timespec="seconds"),
            certificate=Certificate.from_json(certificate.to_json()) if certificate else None,  # as it will be read
            ended_by=asdict(rule) if rule is not None and search.is_sure() else None,
            costs=costs_of(tuner.trials, one.launches),
            joint=choice.joint,
            asked=_asked(tuner, asked),
            in_place=_in_place(one),
        )
        for tuner, one, certificate in zip(tuners, choice.choices, search.certificates, strict=True)
    ]
    for tuner, result in zip(tuners, results, strict=True):
        tuner.stored.set_attribute(RESULT_ATTR, result.to_json())
    return results
