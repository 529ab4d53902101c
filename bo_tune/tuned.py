"""What a session hands back: studies that were brought to their end, and what becomes of them in the tables."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from bo_tune.devices import Job
from bo_tune.events import StudyFinished
from bo_tune.kernels.registry import engine_spec, kernel_spec
from bo_tune.problem import lora
from bo_tune.provenance import Provenance
from bo_tune.results import StudyResult, covered_s, intervals_of
from bo_tune.store.study_name import StudyName
from bo_tune.tables import TunedEntry
from bo_tune.tuner import Tuner


@dataclass(frozen=True, slots=True)
class Tuned:
    """One finished study of a session: its result, and the tuner that holds its trials.

    Attributes:
        origin: what measured it, and in which session, where another one finished it.
        done: whether it was brought to its end; not where it could not be measured at all.
        disturbed: what disturbed measuring it; None where it is not known that nothing did.
        kept: whether it had its result before the session began.
    """

    job: Job
    name: StudyName
    result: StudyResult | None
    tuner: Tuner
    origin: Mapping[str, Any] = field(default_factory=dict)
    done: bool = True
    disturbed: Sequence[str] | None = None
    kept: bool = False


def finished_event(tuned: Tuned, *, reused: bool) -> StudyFinished:
    """Return what is told of a study that has come to its end."""
    result, tuner = tuned.result, tuned.tuner
    return StudyFinished(
        str(tuned.name),
        tuner.problem,
        result.time_us if result else None,
        result.default_time_us if result else None,
        len(tuner.trials),
        tuner.launched_configs,
        reused,
    )


def session_wall_s(tuned: Sequence[Tuned]) -> float:
    """Return the seconds during which any trial of the studies was under way, those of earlier sessions included."""
    return round(covered_s(interval for t in tuned for interval in intervals_of(t.tuner.trials)), 3)


def table_entries(tuned: Sequence[Tuned], session: str) -> list[TunedEntry]:
    """Return the table entries of the studies that have a result; kernels that decide for others have none.

    Args:
        session: which session found those that do not say it themselves.
    """
    wall_s = session_wall_s(tuned)
    return [
        _entry(one, one.result, session, wall_s)
        for one in tuned
        if one.result is not None and not kernel_spec(one.job.problem.kernel).decides
    ]


def _entry(tuned: Tuned, result: StudyResult, session: str, wall_s: float) -> TunedEntry:
    problem, device = lora(tuned.job.problem), tuned.job.device
    versions = tuned.origin or device.provenance
    provenance = Provenance(
        problem=problem,
        config=result.config,
        time_us=result.time_us,
        default_time_us=result.default_time_us,
        gpu=device.gpu.name,
        driver=versions.get("driver", ""),
        torch=versions.get("torch", ""),
        triton=versions.get("triton", ""),
        kernel_source=tuned.name.kernel_source,
        date=result.date,
        study=str(tuned.name),
        sampler=result.sampler,
        session=versions.get("session", session),
        certificate=result.certificate,
        joint=result.joint,
        disturbed=tuned.disturbed,
        costs={**result.costs.flat(), "session_wall_s": wall_s},
    )
    spec = engine_spec(problem.kernel)
    stem, keys = spec.file_stem(problem), spec.table_key(problem)
    return TunedEntry(device.gpu.file_name, stem, keys, result.config, provenance)
