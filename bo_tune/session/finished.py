"""The results of a session: finished studies, and their entries in the tables."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import datetime
from typing import Any

from optuna.trial import FrozenTrial

from bo_tune.core.events import StudyFinished
from bo_tune.core.outcome import Launches
from bo_tune.core.problem import GpuInfo
from bo_tune.core.study_name import StudyName
from bo_tune.engines.base import Address, TunedEntry
from bo_tune.engines.provenance import Provenance
from bo_tune.engines.registry import address_of, is_looked_up, launchable
from bo_tune.measure.devices import Job
from bo_tune.store.attributes import DISTURBED_ATTR, ORIGIN_ATTR
from bo_tune.store.reader import StudySummary
from bo_tune.store.results import StudyResult, covered_s, intervals_of
from bo_tune.store.storage import StoredStudy
from bo_tune.tuning.candidates import Candidates
from bo_tune.tuning.tuner import Tuner


@dataclass(frozen=True, slots=True)
class Searched:
    """The work of searches since they were opened.

    Attributes:
        trials: number recorded.
        launches: by purpose.
        tuner_s: seconds spent on deciding and recording.
    """

    studies: int = 0
    trials: int = 0
    launches: Launches = field(default_factory=Counter)
    tuner_s: float = 0.0

    @classmethod
    def of(cls, tuner: Tuner) -> "Searched":
        """Return what one search has done so far."""
        return cls(1, len(tuner.trials) - tuner.resumed, Counter(tuner.launches), tuner.tuner_s)

    def __add__(self, other: "Searched") -> "Searched":
        return Searched(
            self.studies + other.studies,
            self.trials + other.trials,
            self.launches + other.launches,
            self.tuner_s + other.tuner_s,
        )


@dataclass(frozen=True, slots=True)
class Tuned:
    """One finished study of a session.

    A session may have thousands, so none of them keeps its model or its trials. The trials are in the database.

    Attributes:
        default: the default config.
        tried: how many trials it has; ``resumed`` of them were recorded before the session.
        launched_configs: configs launched at least once.
        launches: launches of the session, by purpose.
        under_way: when each trial began and ended.
        origin: what measured it and in which session, if another session finished it.
        done: whether it was finished; False if it could not be measured at all.
        disturbed: what disturbed measuring it; None if it is not known that nothing did.
        kept: whether it had its result before the session began.
    """

    job: Job
    name: StudyName
    result: StudyResult | None
    stored: StoredStudy
    candidates: Candidates
    default: Mapping[str, int]
    tried: int
    resumed: int
    launched_configs: int
    launches: Launches
    under_way: Sequence[tuple[datetime, datetime]]
    origin: Mapping[str, Any] = field(default_factory=dict)
    done: bool = True
    disturbed: Sequence[str] | None = None
    kept: bool = False

    @classmethod
    def of(cls, job: Job, result: StudyResult | None, tuner: Tuner, **more: Any) -> "Tuned":
        """Return what is kept of a study that its tuner has finished."""
        return cls(
            job=job,
            name=tuner.stored.study_name,
            result=result,
            stored=tuner.stored,
            candidates=tuner.candidates,
            default=tuner.default,
            tried=len(tuner.trials),
            resumed=tuner.resumed,
            launched_configs=tuner.launched_configs,
            launches=tuner.launches,
            under_way=intervals_of(tuner.trials),
            **more,
        )

    @property
    def trials(self) -> list[FrozenTrial]:
        """Its trials, read from the database. Raises StorageError, UnreadableStudyError."""
        return self.stored.trials()


def finished_event(tuned: Tuned, *, reused: bool) -> StudyFinished:
    """Return the event for a finished study."""
    result = tuned.result
    return StudyFinished(
        str(tuned.name),
        tuned.job.problem,
        result.time_us if result else None,
        result.default_time_us if result else None,
        tuned.tried,
        tuned.launched_configs,
        reused,
        result.ending if result else None,
        result.certificate.expected_loss if result and result.certificate else None,
    )


def session_wall_s(tuned: Sequence[Tuned]) -> float:
    """Return the seconds during which any trial of the studies was under way, including trials of earlier sessions."""
    return round(covered_s(interval for t in tuned for interval in t.under_way), 3)


def table_entries(tuned: Sequence[Tuned], session: str) -> list[TunedEntry]:
    """Return the table entries of the studies that have a result. Kernels that decide for others have no entries.

    Args:
        session: the session that found those that do not name one.
    """
    wall_s = session_wall_s(tuned)
    found = []
    for one in tuned:
        if one.result is not None and not one.job.spec.decides:
            told = {"session": session, **(one.origin or one.job.device.provenance)}
            found.append(_entry(one.name, one.job.device.gpu, one.result, told, one.disturbed, wall_s))
    return found


def stored_entries(
    summaries: Sequence[StudySummary], trials: Mapping[StudyName, Sequence[FrozenTrial]]
) -> list[TunedEntry]:
    """Return the table entries of stored studies that have a result and whose configs an engine looks up.

    If several have the same address (for example tuned with different versions, or for an engine of two streams), the
    one that was measured last counts.

    Args:
        trials: of each study.
    """
    found: dict[Address, TunedEntry] = {}
    for one in sorted(summaries, key=lambda summary: summary.result.date if summary.result else ""):
        if one.result is not None and is_looked_up(one.name.problem.kernel):
            wall_s = round(covered_s(intervals_of(trials.get(one.name, ()))), 3)
            told = {"session": "", **(one.attributes.get(ORIGIN_ATTR) or {})}
            entry = _entry(one.name, one.gpu, one.result, told, one.attributes.get(DISTURBED_ATTR), wall_s)
            found[Address(entry.file_name, entry.keys)] = entry
    return list(found.values())


def _entry(
    name: StudyName,
    gpu: GpuInfo,
    result: StudyResult,
    told: Mapping[str, str],
    disturbed: Sequence[str] | None,
    wall_s: float,
) -> TunedEntry:
    provenance = Provenance(
        problem=name.problem,
        config=launchable(name.problem, result.config),
        time_us=result.time_us,
        default_time_us=result.default_time_us,
        gpu=gpu.name,
        driver=told.get("driver", ""),
        torch=told.get("torch", ""),
        triton=told.get("triton", ""),
        kernel_source=name.kernel_source,
        date=result.date,
        study=str(name),
        sampler=result.sampler,
        session=told["session"],
        certificate=result.certificate.to_json() if result.certificate else None,
        joint=result.joint.to_json() if result.joint else None,
        in_place=asdict(result.in_place) if result.in_place else None,
        disturbed=disturbed,
        ended=result.ending.reason.value if result.ending else None,
        costs={**result.costs.flat(), "session_wall_s": wall_s},
    )
    return TunedEntry(*address_of(name.problem, gpu), provenance.config, provenance)
