"""How studies end, alone or together: by the results they have already, or by new ones, chosen and stored."""

from collections.abc import Sequence
from dataclasses import asdict
from datetime import UTC, datetime

from bo_tune.finalists import Choice
from bo_tune.joint import JointTuner
from bo_tune.joint_decision import DecidedTuner, Decision, parted
from bo_tune.results import StudyResult, costs_of
from bo_tune.search import StopRule
from bo_tune.store.storage import RESULT_ATTR
from bo_tune.tuner import Tuner


def current_results(tuners: Sequence[Tuner], decision: Decision | None = None) -> list[StudyResult] | None:
    """Return the stored results of studies, if all were chosen together and no trial came after them.

    Args:
        decision: what they had to be chosen under, where other kernels decided.
    """
    deciding, others = parted(tuners, [tuner.problem for tuner in tuners])
    if deciding:
        first = current_results(deciding)
        rest = current_results(others, Decision.of(first)) if first else None
        return [*first, *rest] if first and rest else None
    stored = [tuner.stored.attribute(RESULT_ATTR) for tuner in tuners]
    if any(one is None or one["trials"] != len(t.trials) for one, t in zip(stored, tuners, strict=True)):
        return None
    results = [StudyResult.from_json(one) for one in stored]
    together = [tuner.problem.kernel for tuner in tuners] if len(tuners) > 1 else None
    expected = together, decision.to_json() if decision else None
    found = [result.joint or {} for result in results]
    return results if all((one.get("kernels"), one.get("decided_by")) == expected for one in found) else None


def have_ended(tuners: Sequence[Tuner], rule: StopRule | None, decision: Decision | None = None) -> bool:
    """Say whether a stop rule ended the studies before. What other studies have taught since might make a model less
    sure; that does not open them again."""
    results = current_results(tuners, decision)
    return rule is not None and results is not None and all(r.ended_by == asdict(rule) for r in results)


def choose_results(
    search: Tuner | JointTuner | DecidedTuner, tuners: Sequence[Tuner], sampler: str, rule: StopRule | None
) -> list[StudyResult] | None:
    """Choose and store the results of studies; None where nothing was measured.

    Args:
        search: what searched them: the tuner itself of a single study.
        sampler: name of the sampler.
        rule: the stop rule in force.
    """
    choice = search.choose()
    if choice is None:
        return None
    choices, joint = ([choice], None) if isinstance(choice, Choice) else (choice.choices, choice.to_json())
    certificates = search.certificates if isinstance(search, DecidedTuner) else [search.certificate] * len(tuners)
    results = [
        StudyResult(
            config=one.config,
            time_us=one.time_us,
            default_time_us=one.default_time_us,
            finalists=[(dict(key), time_us) for key, time_us in one.times_us.items()],
            trials=len(tuner.trials),
            sampler=sampler,
            date=datetime.now(UTC).isoformat(timespec="seconds"),
            certificate=certificate.to_json() if certificate else None,
            ended_by=asdict(rule) if rule is not None and search.is_sure() else None,
            costs=costs_of(tuner.trials, one.launches),
            joint=joint,
        )
        for tuner, one, certificate in zip(tuners, choices, certificates, strict=True)
    ]
    for tuner, result in zip(tuners, results, strict=True):
        tuner.stored.set_attribute(RESULT_ATTR, result.to_json())
    return results
