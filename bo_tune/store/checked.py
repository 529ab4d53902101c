"""Checks that what is stored of a study can come from this package, at every read and before an import.

The content of a database may come from anywhere: an earlier import, another program, a damaged disk. If one thing in a
study is impossible, the whole study is left out, and named.
"""

from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from bo_tune.core.outcome import SLOW, InvalidReason, LaunchPurpose
from bo_tune.core.problem import DEFAULT_BACKEND, Problem
from bo_tune.core.study_name import StudyName
from bo_tune.kernels.registry import IN_ORDER, kernel_spec
from bo_tune.store.attributes import (
    ALIKE,
    DISTURBED_ATTR,
    DONE_ATTR,
    FIGURES_ATTR,
    FRESH_ATTR,
    GPU_ATTR,
    HOSTS_ATTR,
    JOB_ATTR,
    LAYERS_ATTR,
    NAME_ATTR,
    ORIGIN_ATTR,
    PREFIX,
    RESULT_ATTR,
    SPACE_ATTR,
)
from bo_tune.store.fields import (
    Count,
    Flag,
    Line,
    Number,
    Parameter,
    Part,
    Seconds,
    Setting,
    StoredConfig,
    Text,
    Time,
    first_error,
)
from bo_tune.store.result import StudyResult
from bo_tune.store.trials import Trial

MOST_SHARED = 1000
"""Attribute values that are remembered as sound."""


class NotOursError(ValueError):
    """Something stored cannot come from this package. The message is one line that names the place."""


def expect(holds: object, otherwise: str) -> None:
    """Raise NotOursError with a message unless a condition holds."""
    if not holds:
        raise NotOursError(otherwise)


class _Stored(BaseModel):
    model_config = ConfigDict(frozen=True)


class _Name(_Stored):
    gpu: Part
    kernel_source: Part
    exhaustive: Flag = False
    conditions: Part = ""
    toolchain: Part = ""
    search: Part = ""
    set_aside: Part = ""


class _Gpu(_Stored):
    name: Part
    capability: tuple[Count, Count]
    sm_count: Setting
    shared_memory_bytes: Setting
    registers_per_sm: Setting
    threads_per_sm: Setting
    l2_bytes: Setting
    backend: Part = DEFAULT_BACKEND
    architecture: Part = ""


class _Figures(_Stored):
    trials: Count
    states: Mapping[Line, Count]
    reasons: Mapping[Line, Count]


class _Space(_Stored):
    size: Count
    candidates: Count
    excluded: Mapping[Line, Count]
    default: StoredConfig | None = None
    ranges: Mapping[Parameter, Annotated[list[Setting], Field(min_length=2, max_length=2)]] | None = None


class _Host(_Stored):
    gpus: list[Part]
    decided_by: list[Part]
    note: Line | None


class _Cost(_Stored):
    """Later versions may store more of a trial, for their own use. These are plain values."""

    model_config = ConfigDict(extra="allow")
    __pydantic_extra__: dict[str, bool | int | float | Text | None] = Field(init=False)
    launches: Mapping[LaunchPurpose, Count] = Field(default_factory=dict)
    compile_s: Seconds = 0.0
    cached: Flag = False
    shared_memory_bytes: Count | None = None
    registers_per_thread: Count | None = None
    spilled_registers: Count | None = None
    relative_error: Number | None = None
    detail: Text = ""


class _TrialAttributes(_Stored):
    cost: _Cost
    reason: InvalidReason | Literal["slow"] | None = None
    runtimes_us: list[Time] | None = Field(None, min_length=1, max_length=100_000)


class _Trial(_Stored):
    state: Literal["COMPLETE", "PRUNED"]
    config: StoredConfig
    start: datetime
    complete: datetime
    value: Time | None
    estimates: Mapping[Count, Time]
    attributes: _TrialAttributes


_PART: TypeAdapter[str] = TypeAdapter(Part)

_ATTRIBUTES: Mapping[str, TypeAdapter[Any]] = {
    GPU_ATTR: TypeAdapter(_Gpu),
    RESULT_ATTR: TypeAdapter(StudyResult | None),
    FIGURES_ATTR: TypeAdapter(_Figures | None),
    SPACE_ATTR: TypeAdapter(_Space | None),
    ORIGIN_ATTR: TypeAdapter(Mapping[Line, Line] | None),
    JOB_ATTR: TypeAdapter(Mapping[str, Any] | None),
    DONE_ATTR: TypeAdapter(Mapping[str, Any] | None),
    FRESH_ATTR: TypeAdapter(Line | None),
    DISTURBED_ATTR: TypeAdapter(list[Line] | None),
    LAYERS_ATTR: TypeAdapter(list[Line] | None),
    HOSTS_ATTR: TypeAdapter(Mapping[Line, _Host] | None),
}
"""The type of each attribute of a study, besides its name."""


def name_of(stored: object, place: str) -> StudyName:
    """Read a study's name, which is stored in this place. Raises NotOursError."""
    if not isinstance(stored, dict):
        raise NotOursError(f"{place}: expected an object")
    try:
        _Name.model_validate(stored)
        name = StudyName.from_json(stored)
    except ValidationError as error:
        raise NotOursError(f"{place}.{first_error(error)}") from None
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise NotOursError(f"{place}: {type(error).__name__}: {error}") from None
    _check_names(name.problem, place)
    return name


def _check_names(problem: Problem, place: str) -> None:
    try:
        for text in (problem.kernel, problem.label):
            _PART.validate_python(text)
    except ValidationError as error:
        raise NotOursError(f"{place}.problem: {first_error(error)}") from None


class AttributesCheck:
    """Checks the attributes of many studies. Values that several share (``ALIKE``) are checked once."""

    def __init__(self) -> None:
        self._sound: dict[tuple[str, int], Any] = {}

    def __call__(self, attributes: Mapping[str, Any]) -> tuple[StudyName, StudyResult | None]:
        """Return a study's name and result, after checking its attributes. Raises NotOursError."""
        name = name_of(attributes.get(NAME_ATTR), NAME_ATTR)
        result = None
        for key, kind in _ATTRIBUTES.items():
            value = attributes.get(key)
            if (key != GPU_ATTR and value is None) or (value is not None and (key, id(value)) in self._sound):
                continue
            try:
                found = kind.validate_python(value)
            except ValidationError as error:
                raise NotOursError(first_error(error, key.removeprefix(PREFIX))) from None
            if key == RESULT_ATTR:
                result = found
            elif key in ALIKE and len(self._sound) < MOST_SHARED:
                self._sound[key, id(value)] = value  # held, so that no other object gets its id
        expect(
            attributes[GPU_ATTR]["name"] == name.gpu, f"{GPU_ATTR}.name: expected {name.gpu!r}, as the study is named"
        )
        return name, result


def check_trials(problem: Problem, trials: Iterable[Trial]) -> None:
    """Check that trials can come from this package and problem. Raises NotOursError."""
    known = problem.kernel in IN_ORDER
    names = set(kernel_spec(problem.kernel).search_space.names) if known else None
    for number, trial in enumerate(trials):
        names = set(trial.params) if names is None else names
        if set(trial.params) != names:
            raise NotOursError(f"trials[{number}].config: expected the parameters {', '.join(sorted(names))}")
        try:
            _check_trial(trial)
        except ValidationError as error:
            raise NotOursError(f"trials[{number}].{first_error(error)}") from None
        except NotOursError as error:
            raise NotOursError(f"trials[{number}].{error}") from None


def _check_trial(trial: Trial) -> None:
    found = _Trial.model_validate(
        {
            "state": trial.state.name,
            "config": trial.params,
            "start": trial.datetime_start,
            "complete": trial.datetime_complete,
            "value": trial.value,
            "estimates": trial.intermediate_values,
            "attributes": trial.user_attrs,
        }
    )
    reason, measured = found.attributes.reason, found.attributes.runtimes_us is not None
    if found.state == "COMPLETE":
        fits = measured and reason is None and found.value is not None
    else:
        fits = found.value is None and (reason == SLOW if measured else isinstance(reason, InvalidReason))
    expect(fits, "state: expected either complete with a time, or pruned with a reason and without a time")
