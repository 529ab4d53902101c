"""Studies as files: one T4 recording for each.

The recording of an exhaustive study holds its grid. An exported study holds enough to become the same study in another
database: ``results`` holds what was measured of each config, as any reader of the format expects. Everything else
(which study it was, in which order and when its trials ran, what they cost, the result) is in ``metadata.bo_tune``.
``exported`` checks what is imported.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from optuna.trial import FrozenTrial

from bo_tune.core.outcome import Invalid, InvalidReason, Outcome
from bo_tune.core.space import ConfigKey, SearchSpace, config_key
from bo_tune.core.study_name import StudyName
from bo_tune.errors import RecordingError, StorageError
from bo_tune.formats.recording import SUFFIXES, Recording, recording_file_name, write_recording
from bo_tune.formats.recording_format import DEFAULT_CONFIG
from bo_tune.session.exported import ENDING, OF_PROBLEM, SECTION, SECTION_VERSION, ExportedStudy
from bo_tune.session.session import Tuned
from bo_tune.store.attributes import LAYERS_ATTR, ORIGIN_ATTR, RESULT_ATTR, SPACE_ATTR
from bo_tune.store.checked import NotOursError, check_trials
from bo_tune.store.storage import StudyStore, StudySummary
from bo_tune.store.trials import RUNTIMES_US, outcome_of, time_us
from bo_tune.tuning.candidates import Candidates

TIMING = (
    "CUDA events around one launch, 256 MB written to L2 before each; 'time' is the median of the repetitions within "
    "1.25 x their lower quartile, and for the finalists that of their interleaved re-measurements"
)


def grid_outcomes(candidates: Candidates, tried: dict[ConfigKey, Outcome]) -> list[tuple[dict[str, int], Outcome]]:
    """Return the outcome of every config of the grid, in its order.

    A config identical to another has the other's outcome. One that was excluded before any trial is invalid. Configs of
    which nothing is known are left out: those that a budget left untried, or that a replayed recording lacks.
    """
    outcomes = []
    for config in candidates.space:
        key = candidates.twins.get(config_key(config), config_key(config))
        unknown = Invalid(InvalidReason.NOT_RECORDED if key in candidates.keys else InvalidReason.CONSTRAINT)
        outcomes.append((config, tried.get(key, unknown)))
    return [(config, outcome) for config, outcome in outcomes if _is_known(outcome)]


def _is_known(outcome: Outcome) -> bool:
    return not (isinstance(outcome, Invalid) and outcome.reason is InvalidReason.NOT_RECORDED)


def record(tuned: Tuned, folder: Path) -> Path:
    """Write the recording of an exhaustive study into a folder. Returns its path."""
    job, problem, candidates, result = tuned.job, tuned.job.problem, tuned.candidates, tuned.result
    tried = {config_key(trial.params): outcome_of(trial) for trial in tuned.trials}
    times = {config_key(config): time_us for config, time_us in result.finalists} if result else {}
    twins = {config: times[stand_in] for config, stand_in in candidates.twins.items() if stand_in in times}
    path = folder / recording_file_name(job.device.gpu, problem)
    recording = Recording.of(
        path,
        problem,
        job.device.gpu,
        grid_outcomes(candidates, tried),
        kernel_source=tuned.name.kernel_source,
        space=candidates.space,
        default_time_us=result.default_time_us if result else None,
        times_us={**times, **twins},
        metadata={
            **job.device.provenance,
            "timing": TIMING,
            DEFAULT_CONFIG: dict(tuned.default),
            **({} if tuned.disturbed is None else {"disturbed": list(tuned.disturbed)}),
            "shape": job.spec.product_sizes(problem, job.device.conditions),
        },
    )
    write_recording(path, recording)
    return path


@dataclass(frozen=True, slots=True)
class Imported:
    """The result of importing a study.

    Attributes:
        added: number of trials that the database did not have.
        has_result: whether the study now has the file's result.
    """

    name: StudyName
    added: int
    has_result: bool


def export_study(summary: StudySummary, trials: Sequence[FrozenTrial], folder: Path) -> Path | None:
    """Write a study into a folder. Returns the file, or None for a study of which nothing was recorded yet.

    Raises:
        RecordingError: the file cannot be written.
    """
    recorded = [(t.params, o) for t in trials if _is_known(o := outcome_of(t))]
    if not recorded:
        return None
    name, attributes = summary.name, summary.attributes
    result = attributes.get(RESULT_ATTR)
    section = {
        "version": SECTION_VERSION if name.toolchain else 1,
        "study": name.to_json(),
        "attributes": {key: attributes[key] for key in (*OF_PROBLEM, *ENDING) if key in attributes},
        "trials": [_trial_json(trial) for trial in trials],
    }
    origin = {key: value for key, value in attributes.get(ORIGIN_ATTR, {}).items() if value}
    columns = {parameter: sorted({config[parameter] for config, _ in recorded}) for parameter in recorded[0][0]}
    path = folder / _file_name(summary)
    recording = Recording.of(
        path,
        name.problem,
        summary.gpu,
        recorded,
        kernel_source=name.kernel_source,
        space=SearchSpace.of({parameter: tuple(values) for parameter, values in columns.items()}),
        default_time_us=result["default_time_us"] if result else None,
        metadata={**origin, SECTION: section},
    )
    write_recording(path, recording)
    return path


def import_study(store: StudyStore, exported: ExportedStudy) -> Imported:
    """Add a file's content to the study of its name. Trials of configs that are already there are left out.

    The result is imported, too, if the study then holds exactly the trials from which it was chosen. Otherwise the next
    session chooses anew. Either all of a file is added or nothing.

    Raises:
        RecordingError: the file's trials do not fit those of the study.
        StorageError: another worker has the study, it cannot be read, or the database fails.
    """
    name, attributes = exported.name, exported.attributes
    study = store.open(name, exported.gpu)
    if not study.take():
        raise StorageError(f"{store.url}: another process is working on {name}; import it once that is done")
    try:
        before = study.trials()
        there = {config_key(trial.params) for trial in before}
        new = [trial for trial in exported.trials if config_key(trial.params) not in there]
        try:
            check_trials(name.problem, [*before, *new])
        except NotOursError as error:
            raise RecordingError(
                f"{exported.path}: these trials do not fit the study of the same name in the database: {error}"
            ) from None
        complete = len(there) + len(new) == len(exported.trials)
        kept = {key: value for key, value in attributes.items() if key == SPACE_ATTR or (complete and key in ENDING)}
        study.add_all(new, kept if new or RESULT_ATTR not in study.attributes() else {})
        store.note_layers({name: attributes.get(LAYERS_ATTR) or ()})
        return Imported(name, len(new), complete and RESULT_ATTR in attributes)
    finally:
        study.release()


def _file_name(summary: StudySummary) -> str:
    """Return the usual name of the problem's recording, with a digest that distinguishes studies of one problem."""
    digest = hashlib.sha256(str(summary.name).encode()).hexdigest()[:8]
    usual = recording_file_name(summary.gpu, summary.name.problem).removesuffix(SUFFIXES[0]).replace("/", "_")
    return usual + f".{digest}{SUFFIXES[0]}"


def _trial_json(trial: FrozenTrial) -> dict[str, Any]:
    return {
        "config": trial.params,
        "state": trial.state.name,
        "start": _utc_text(trial.datetime_start),
        "complete": _utc_text(trial.datetime_complete),
        "value": trial.value,
        "estimate": time_us(trial) if trial.value is None else None,
        "attributes": {key: value for key, value in trial.user_attrs.items() if key != RUNTIMES_US},
    }


def _utc_text(moment: datetime | None) -> str | None:
    return None if moment is None else moment.astimezone(UTC).isoformat()
