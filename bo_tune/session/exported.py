"""Checks an exported study as a whole before any of it reaches a database.

A GPU does not report anything twice, no time below zero, and nothing about a config that its kernel does not have. So a
file must not, either. Types and bounds are those of whatever is stored (``store.checked``). This module checks what
must fit together.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from math import isclose
from pathlib import Path
from typing import Annotated, Any, Literal

from optuna.trial import FrozenTrial, TrialState
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from bo_tune.core.choices import SAMPLERS
from bo_tune.core.conclusion import SHARED
from bo_tune.core.conditions import toolchain_label
from bo_tune.core.outcome import InvalidReason
from bo_tune.core.problem import GpuInfo
from bo_tune.core.space import ConfigKey, config_key
from bo_tune.core.study_name import StudyName
from bo_tune.errors import RecordingError
from bo_tune.formats.recording import Recording
from bo_tune.kernels.registry import KERNELS, OF_BASE_MODEL
from bo_tune.session.settings import SessionSettings
from bo_tune.store.attributes import (
    DISTURBED_ATTR,
    DONE_ATTR,
    FIGURES_ATTR,
    GPU_ATTR,
    JOB_ATTR,
    LAYERS_ATTR,
    NAME_ATTR,
    ORIGIN_ATTR,
    RESULT_ATTR,
    SPACE_ATTR,
)
from bo_tune.store.checked import AttributesCheck, NotOursError, check_trials, expect, name_of
from bo_tune.store.fields import StoredConfig, Time, first_error
from bo_tune.store.frozen import Ranges, stored_distributions
from bo_tune.store.results import StudyResult, figures_of
from bo_tune.store.trials import REASON, RUNTIMES_US, estimates, launched

SECTION = "bo_tune"
"""Name of the object in ``metadata``."""

SECTION_VERSION = 2
"""Version 1 has studies of schema 1 (``store.attributes``)."""

OF_PROBLEM = (SPACE_ATTR, LAYERS_ATTR)
"""Attributes that hold for a study whatever its trials."""

ENDING = (RESULT_ATTR, FIGURES_ATTR, ORIGIN_ATTR, JOB_ATTR, DONE_ATTR, DISTURBED_ATTR)
"""Attributes that hold for a study with exactly these trials."""

LARGEST_TILE = 2**20
"""Elements of Triton's largest tensor. No parameter of a tile is larger."""

YEARS = range(2000, 2200)
MOST_TRIALS = 1_000_000
LONGEST_NAME = 512
"""Characters of a study's name in Optuna's tables."""


@dataclass(frozen=True, slots=True)
class ExportedStudy:
    """A study as a file holds it.

    Attributes:
        attributes: the study's attributes, without name, GPU and schema.
        trials: in the order in which they were recorded.
    """

    path: Path
    name: StudyName
    gpu: GpuInfo
    attributes: Mapping[str, Any]
    trials: Sequence[FrozenTrial]


class _Table(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class _TrialJson(_Table):
    config: StoredConfig
    state: Literal["COMPLETE", "PRUNED"]
    start: Annotated[str, Field(strict=True, max_length=40)]
    complete: Annotated[str, Field(strict=True, max_length=40)]
    value: Time | None
    estimate: Time | None
    attributes: dict[str, Any]


class _Section(_Table):
    version: Literal[1, 2]
    study: dict[str, Any]
    attributes: dict[str, Any]
    trials: Annotated[list[_TrialJson], Field(min_length=1, max_length=MOST_TRIALS)]


def read_exported(recording: Recording) -> ExportedStudy:
    """Read the exported study that a recording holds.

    Raises:
        RecordingError: it is no exported study, or something in it is impossible. One line with the file and the place.
    """
    try:
        expect(SECTION in recording.metadata, "missing")
        try:
            section = _Section.model_validate(recording.metadata[SECTION])
        except ValidationError as error:
            raise NotOursError(first_error(error)) from None
        name = _name(section, recording)
        trials = _trials(section.trials, recording, _ranges(section.attributes))
        check_trials(name.problem, trials)
        _check_attributes(section.attributes, name, recording.gpu, trials)
    except NotOursError as error:
        raise RecordingError(
            f"{recording.path}: expected a study that bo-tune exported: metadata.{SECTION}: {error}"
        ) from None
    return ExportedStudy(recording.path, name, recording.gpu, section.attributes, trials)


def _name(section: _Section, recording: Recording) -> StudyName:
    name = name_of(section.study, "study")
    here = recording.problem, recording.gpu.name, recording.kernel_source
    about = name.problem, name.gpu, name.kernel_source
    expect(about == here, "study: expected the same problem, GPU and kernel source as in the file")
    in_use = not name.set_aside and (section.version == SECTION_VERSION) == bool(name.toolchain)
    expect(in_use, f"study: expected a study in use, with a toolchain if the version is {SECTION_VERSION}")
    for text in (name.problem.kernel, name.gpu):
        is_plain = not (text.startswith(".") or {"/", "\\"} & set(text))
        expect(is_plain, f"study: expected plain names of kernel and GPU, got {text!r}")
    expect(len(str(name)) <= LONGEST_NAME, f"study: expected a name of at most {LONGEST_NAME} characters")
    return name


def _ranges(attributes: Mapping[str, Any]) -> Ranges:
    """Return the ranges of the study's parameters, as far as they are given and valid.

    The attributes are fully checked later, together with the trials.
    """
    noted = attributes.get(SPACE_ATTR)
    told = noted.get("ranges") if isinstance(noted, dict) else None
    found = told.items() if isinstance(told, dict) else ()
    return {
        name: (ends[0], ends[1])
        for name, ends in found
        if isinstance(ends, list) and len(ends) == 2 and all(type(end) is int for end in ends) and ends[0] <= ends[1]
    }


def _trials(stored: Sequence[_TrialJson], recording: Recording, ranges: Ranges) -> list[FrozenTrial]:
    """Return the trials, each with the file's results for its config. Every result must belong to a trial."""
    found: dict[ConfigKey, FrozenTrial] = {}
    for number, one in enumerate(stored):
        key = config_key(one.config)
        try:
            expect(key not in found, "config: this config occurs twice")
            found[key] = _trial(one, recording, ranges)
        except NotOursError as error:
            raise NotOursError(f"trials[{number}].{error}") from None
    expect(found.keys() >= recording.entries.keys(), "trials: expected one for each config in results")
    return list(found.values())


def _trial(stored: _TrialJson, recording: Recording, ranges: Ranges) -> FrozenTrial:
    entry = recording.entry(stored.config)
    reason, attributes = stored.attributes.get(REASON), dict(stored.attributes)
    expect(RUNTIMES_US not in attributes, f"attributes.{RUNTIMES_US}: expected this in results instead")
    is_unrecorded = reason == InvalidReason.NOT_RECORDED.value
    expect((entry is None) == is_unrecorded, "config: expected this config in results, unless it was not recorded")
    measured = list(entry.runtimes_us) if entry is not None else []
    if entry is not None and entry.reason is not None and (measured or entry.reason.value != reason):
        raise NotOursError(f"attributes.reason: expected {entry.reason.value!r}, as in results, got {reason!r}")
    if measured:
        attributes[RUNTIMES_US] = measured
    between = estimates(measured)
    said, expected = stored.value if stored.state == "COMPLETE" else stored.estimate, between.get(len(measured))
    if (said is None) != (expected is None) or (said and expected and not isclose(said, expected, rel_tol=1e-9)):
        raise NotOursError(f"value: expected {expected}, which follows from the repetitions, got {said}")
    start, complete = _moment(stored.start, "start"), _moment(stored.complete, "complete")
    expect(complete >= start, "complete: expected a time that is not before start")
    trial = FrozenTrial(
        number=0,
        trial_id=-1,
        state=TrialState[stored.state],
        value=stored.value,
        datetime_start=start,
        datetime_complete=complete,
        params=dict(stored.config),
        distributions=stored_distributions(stored.config, ranges),
        user_attrs=attributes,
        system_attrs={},
        intermediate_values=between,
    )
    _check_config(recording.problem.kernel, stored.config)
    return trial


def _check_config(kernel: str, config: Mapping[str, int]) -> None:
    spec = KERNELS.get(kernel) or OF_BASE_MODEL.get(kernel)
    for name, value in config.items() if spec is not None else ():
        power = spec is not None and name in spec.power_of_two
        if value > LARGEST_TILE or (power and value & (value - 1)):
            kind = "a power of two" if power else "an integer"
            raise NotOursError(f"config.{name}: expected {kind} up to {LARGEST_TILE}, got {value}")


def _moment(text: str, place: str) -> datetime:
    """Return a moment as trials hold it: local time without a time zone."""
    try:
        moment = datetime.fromisoformat(text)
        if moment.tzinfo is not None and moment.year in YEARS:
            return moment.astimezone().replace(tzinfo=None)
    except (ValueError, OverflowError):
        pass
    raise NotOursError(f"{place}: expected a time in ISO 8601 with its offset from UTC, got {text!r}")


def _check_attributes(
    attributes: Mapping[str, Any], name: StudyName, gpu: GpuInfo, trials: Sequence[FrozenTrial]
) -> None:
    unknown = sorted(attributes.keys() - {*OF_PROBLEM, *ENDING})
    for key in unknown:
        raise NotOursError(f"attributes: unknown key {key!r}")
    info = {**gpu.to_json(), "capability": list(gpu.capability)}
    _, result = AttributesCheck()({NAME_ATTR: name.to_json(), GPU_ATTR: info, **attributes})
    if result is not None:
        _check_result(result, name, trials)
    elif FIGURES_ATTR in attributes and attributes[FIGURES_ATTR] is None:
        raise NotOursError(f"attributes.{FIGURES_ATTR}: expected an object")
    figures, expected = attributes.get(FIGURES_ATTR), figures_of(trials)
    if figures and (figures["trials"] > len(trials) or (figures["trials"] == len(trials) and figures != expected)):
        raise NotOursError(f"attributes.{FIGURES_ATTR}: expected {expected}, which follows from the trials")
    for key in (JOB_ATTR, DONE_ATTR):
        if attributes.get(key) is not None:
            _check_asked(attributes[key], name, f"attributes.{key}")
    origin = attributes.get(ORIGIN_ATTR)
    if origin is not None and name.toolchain and toolchain_label(origin) != name.toolchain:
        raise NotOursError(f"attributes.{ORIGIN_ATTR}: expected the versions of {name.toolchain}")


def _check_result(result: StudyResult, name: StudyName, trials: Sequence[FrozenTrial]) -> None:
    place = f"attributes.{RESULT_ATTR}"
    complete = {config_key(trial.params) for trial in trials if trial.state is TrialState.COMPLETE}
    times = {config_key(config): time_us for config, time_us in result.finalists}
    expect(times and complete >= times.keys(), f"{place}.finalists: expected configs of complete trials")
    is_one_of_them = times.get(config_key(result.config)) == result.time_us
    expect(is_one_of_them, f"{place}.config: expected one of the finalists, with its time")
    default_fits = result.default_time_us in (None, result.finalists[0][1])
    expect(default_fits, f"{place}.default_time_us: expected the time of the first finalist")
    count, launches, costs = len(trials), sum(map(launched, trials)), result.costs
    expect(result.trials <= count, f"{place}.trials: expected at most {count}, got {result.trials}")
    costs_fit = result.trials < count or (costs.configs, costs.launched_configs) == (count, launches)
    expect(costs_fit, f"{place}.costs: expected {count} configs, {launches} of them launched")
    known = f"expected one of {', '.join(SAMPLERS)}, got {result.sampler!r}"
    expect(result.sampler in SAMPLERS, f"{place}.sampler: {known}")
    joint = result.joint
    agrees = not joint or (name.problem.kernel in joint.kernels and joint.value == result.config.get(SHARED))
    expect(agrees, f"{place}.joint: expected kernels that agree with this one on {SHARED}")
    if result.asked is not None:
        _check_asked(result.asked, name, f"{place}.asked")


def _check_asked(job: Mapping[str, Any], name: StudyName, place: str) -> None:
    """Check that a search that was asked for is the one in the study's name."""
    try:
        settings = SessionSettings.of_job(name.problem.kernel, job)
    except ValueError as error:
        raise NotOursError(f"{place}.{error}") from None
    is_named = not name.toolchain or (settings.search, settings.exhaustive) == (name.search, name.exhaustive)
    expect(is_named, f"{place}: expected the search that is in the study's name")
