"""Studies as files: one T4 recording for each, whole enough to become the same study in another database.

``results`` holds what was measured of each config, as any reader of the format expects; what it has no words for
(which study it was, in what order and when its trials ran, what they cost, the result) is in ``metadata.bo_tune``.
"""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from optuna.distributions import IntDistribution
from optuna.trial import FrozenTrial, TrialState

from bo_tune.errors import RecordingError, StorageError
from bo_tune.outcome import Invalid, InvalidReason
from bo_tune.recording import SUFFIXES, Recording, recording_file_name, write_recording
from bo_tune.recording_format import MalformedError, expect
from bo_tune.space import ConfigKey, SearchSpace, config_key
from bo_tune.store.storage import (
    DONE_ATTR,
    FIGURES_ATTR,
    JOB_ATTR,
    ORIGIN_ATTR,
    RESULT_ATTR,
    SPACE_ATTR,
    StudyStore,
    StudySummary,
)
from bo_tune.store.study_name import StudyName
from bo_tune.store.trials import LARGEST_VALUE, RUNTIMES_US, estimates, outcome_of, time_us

SECTION = "bo_tune"
"""Name of the object in ``metadata``."""

SECTION_VERSION = 1

ENDING = (RESULT_ATTR, FIGURES_ATTR, ORIGIN_ATTR, JOB_ATTR, DONE_ATTR)
"""Attributes that hold for a study with exactly these trials."""


@dataclass(frozen=True, slots=True)
class Imported:
    """What came of importing a study.

    Attributes:
        added: trials that the database did not have.
        has_result: whether the study has the result of the file now.
    """

    name: StudyName
    added: int
    has_result: bool


def export_study(summary: StudySummary, trials: Sequence[FrozenTrial], folder: Path) -> Path | None:
    """Write a study into a folder; returns the file, or None for a study of which nothing was recorded yet.

    Raises:
        RecordingError: the file cannot be written.
    """
    outcomes = [(t.params, outcome_of(t)) for t in trials]
    recorded = [(c, o) for c, o in outcomes if not (isinstance(o, Invalid) and o.reason is InvalidReason.NOT_RECORDED)]
    if not recorded:
        return None
    name, attributes = summary.name, summary.attributes
    result = attributes.get(RESULT_ATTR)
    section = {
        "version": SECTION_VERSION,
        "study": name.to_json(),
        "attributes": {key: attributes[key] for key in (SPACE_ATTR, *ENDING) if key in attributes},
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


def import_study(store: StudyStore, recording: Recording) -> Imported:
    """Add what a file holds to the study of its name; a trial of a config that is there already is left out.

    The result comes along if the study then holds the trials it was chosen from, and no others. Else the next session
    chooses anew.

    Raises:
        RecordingError: the file is no exported study.
        StorageError: another worker has the study, or the database fails.
    """
    try:
        section = expect(recording.metadata, SECTION, dict, "metadata")
        name, attributes, trials = _parse(section, recording)
    except MalformedError as error:
        raise RecordingError(f"{recording.path}: no study that bo-tune exported: {error}") from None
    study = store.open(name, recording.gpu)
    if not study.take():
        raise StorageError(f"{store.url}: {name} is being worked on; import it once that is done")
    try:
        there = {config_key(trial.params) for trial in study.trials()}
        new = [trial for trial in trials if config_key(trial.params) not in there]
        for trial in new:
            study.add_soon(trial, lambda: None)
        study.flush()
        complete = len(there) + len(new) == len(trials)
        kept = {key: value for key, value in attributes.items() if key == SPACE_ATTR or complete}
        if kept and (new or RESULT_ATTR not in study.attributes()):
            study.set_attributes(kept)
        return Imported(name, len(new), complete and RESULT_ATTR in attributes)
    finally:
        study.release()


def _file_name(summary: StudySummary) -> str:
    """The usual name of the problem's recording, and what tells studies of one problem apart."""
    digest = hashlib.sha256(str(summary.name).encode()).hexdigest()[:8]
    usual = recording_file_name(summary.gpu, summary.name.problem).removesuffix(SUFFIXES[0])
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


def _moment(text: str | None) -> datetime | None:
    """Return a moment as trials hold it: local time, without saying so."""
    return None if text is None else datetime.fromisoformat(text).astimezone().replace(tzinfo=None)


def _parse(section: Mapping[str, Any], recording: Recording) -> tuple[StudyName, Mapping[str, Any], list[FrozenTrial]]:
    version = expect(section, "version", int, SECTION)
    if version != SECTION_VERSION:
        raise MalformedError(f"{SECTION}.version: expected {SECTION_VERSION}, got {version}")
    attributes = expect(section, "attributes", dict, SECTION)
    runtimes = {key: list(entry.runtimes_us) for key, entry in recording.entries.items()}
    try:
        name = StudyName.from_json(expect(section, "study", dict, SECTION))
        trials = [_trial(stored, runtimes) for stored in expect(section, "trials", list, SECTION)]
    except MalformedError:
        raise
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise MalformedError(f"{SECTION}: {type(error).__name__}: {error}") from None
    if (name.problem, name.gpu, name.kernel_source) != (
        recording.problem,
        recording.gpu.name,
        recording.kernel_source,
    ):
        raise MalformedError(f"{SECTION}.study: names another problem, GPU or kernel source than the file")
    return name, attributes, trials


def _trial(stored: Mapping[str, Any], runtimes: Mapping[ConfigKey, list[float]]) -> FrozenTrial:
    config, attributes = dict(stored["config"]), dict(stored["attributes"])
    measured = runtimes.get(config_key(config))
    if measured:
        attributes = {**attributes, RUNTIMES_US: measured}
    return FrozenTrial(
        number=0,
        trial_id=-1,
        state=TrialState[stored["state"]],
        value=stored["value"],
        datetime_start=_moment(stored["start"]),
        datetime_complete=_moment(stored["complete"]),
        params=config,
        distributions={name: IntDistribution(1, max(LARGEST_VALUE, value)) for name, value in config.items()},
        user_attrs=attributes,
        system_attrs={},
        intermediate_values=estimates(measured or ()),
    )
