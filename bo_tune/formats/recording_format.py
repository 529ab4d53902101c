"""The parts of the T4 results format: metadata to problem and GPU, invalidity to reason, and back.

Functions here raise ``MalformedError`` with the place inside the file. ``recording`` adds the file's name.
"""

import json
from collections.abc import Collection, Mapping
from typing import Any, TypeVar

from bo_tune.core.gpus import stand_in_for
from bo_tune.core.outcome import LONGEST_US, SHORTEST_US, InvalidReason, Resources
from bo_tune.core.problem import MOST, Experts, GpuInfo, LoraProblem, Problem, SizedProblem, check_size, lora
from bo_tune.files import LONGEST_NAME, name_fault

SCHEMA_VERSION = "1.0.0"
UNITS = {"compilation_time": "ms", "runtimes": "us"}

_INVALIDITY = {
    InvalidReason.CONSTRAINT: "constraints",
    InvalidReason.COMPILE_TIMEOUT: "timeout",
    InvalidReason.COMPILE_ERROR: "compile",
    InvalidReason.WRONG_RESULT: "correctness",
    InvalidReason.OUT_OF_SHARED_MEMORY: "runtime",
    InvalidReason.HANG: "runtime",
    InvalidReason.GPU_PROCESS_DIED: "runtime",
    InvalidReason.LAUNCH_ERROR: "runtime",
}
"""The format's name of each reason. If several share a name, the start of the line of detail tells them apart."""

_EXPERT_SHARES = {"local": "local_experts", "shards": "rank_shards"}
"""Fields of ``Experts`` that need not be recorded, with their names in a shape."""

DEFAULT_CONFIG = "default_config"
"""Name in the metadata of the kernel's default config at the time of the recording."""

DEFAULT_TIME_US = "vllm_default_time_us"
"""Name in the metadata of the default config's time, in us."""

_PACKED = "packed_gate_up"
"""Name of ``Experts.packed`` in a shape."""

RESOURCES = {"shared_memory": "B", "registers_per_thread": "", "spilled_registers": ""}
"""Measurements of a compiled binary, with their units."""

_JSON_NAMES = {
    bool: "true or false",
    dict: "an object",
    list: "an array",
    str: "a string",
    int: "an integer",
    float: "a number",
}

Kind = TypeVar("Kind", dict[str, Any], list[Any], str, int, bool)


class MalformedError(ValueError):
    """A recording does not follow the format. The message holds the place."""


def expect(owner: Mapping[str, Any], name: str, kind: type[Kind], place: str = "") -> Kind:
    """Return ``owner[name]`` if it is exactly of this JSON kind. Raises MalformedError otherwise."""
    where = f"{place}.{name}" if place else name
    if name not in owner:
        raise MalformedError(f"{where} is missing")
    value = owner[name]
    if type(value) is not kind:
        raise MalformedError(f"{where}: expected {_JSON_NAMES[kind]}, got {shown(value)}")
    return value


def label(metadata: Mapping[str, Any], name: str, place: str = "metadata") -> str:
    """Return a text of a ``metadata`` object that becomes part of studies' names. Raises MalformedError."""
    text = expect(metadata, name, str, place)
    if not text.isprintable() or "|" in text or not 0 < len(text) <= LONGEST_NAME:
        raise MalformedError(
            f"{place}.{name}: expected a line of at most {LONGEST_NAME} characters without |, got {shown(text)}"
        )
    return text


def number(owner: Mapping[str, Any], name: str, place: str, least: float, most: float) -> float | None:
    """Return ``owner[name]`` as a number, or None if it is missing or null. Raises MalformedError."""
    value = owner.get(name)
    if value is None:
        return None
    if type(value) not in (int, float) or not least <= value <= most:
        raise MalformedError(f"{place}.{name}: expected a number from {least:g} to {most:g}, got {shown(value)}")
    return float(value)


def invalidity_of(reason: InvalidReason | None, detail: str) -> tuple[str, str]:
    """Return the format's name of a reason, and a line of detail from which ``reason_of`` finds the reason.

    Raises:
        ValueError: the reason says nothing about the config, as ``NOT_RECORDED``.
    """
    if reason is None:
        return "correct", ""
    if reason not in _INVALIDITY:
        raise ValueError(f"a config that failed with {reason.value} cannot be recorded")
    if not detail:
        return _INVALIDITY[reason], reason.value
    if _INVALIDITY[reason] != "runtime" or _runtime_reason(detail) is reason:
        return _INVALIDITY[reason], detail
    return "runtime", f"{reason.value}: {detail}"


def reason_of(invalidity: str, detail: str) -> InvalidReason | None:
    """Return the reason for an ``invalidity`` and its detail; None for ``correct``."""
    if invalidity == "correct":
        return None
    if invalidity == "runtime":
        return _runtime_reason(detail)
    for reason, name in _INVALIDITY.items():
        if name == invalidity:
            return reason
    names = ", ".join(sorted({"correct", *_INVALIDITY.values()}))
    raise MalformedError(f"invalidity: expected one of {names}, got {shown(invalidity)}")


def problem_of(metadata: Mapping[str, Any]) -> Problem:
    """Return the problem in a ``metadata`` object. Raises MalformedError."""
    shape = expect(metadata, "shape", dict, "metadata")
    if "sizes" not in shape:
        return _lora_problem_of(metadata, shape)
    sizes = expect(shape, "sizes", dict, "metadata.shape")
    try:
        return SizedProblem(label(metadata, "kernel"), tuple(sizes.items()))
    except ValueError as error:
        raise MalformedError(f"metadata.shape.sizes: {error}") from None


def _lora_problem_of(metadata: Mapping[str, Any], shape: Mapping[str, Any]) -> LoraProblem:
    place = "metadata.shape"
    slice_sizes = shape.get("slice_sizes") or []
    if type(slice_sizes) is not list or any(type(size) is not int for size in slice_sizes):
        raise MalformedError(f"{place}.slice_sizes: expected an array of integers, got {shown(slice_sizes)}")
    add_inputs = metadata.get("add_inputs")
    if add_inputs is not None and type(add_inputs) is not bool:
        raise MalformedError(f"metadata.add_inputs: expected true, false or null, got {shown(add_inputs)}")
    sizes = {name: expect(shape, name, int, place) for name in ("max_loras", "num_slices", "m", "k", "n")}
    try:
        return LoraProblem(
            kernel=label(metadata, "kernel"),
            **sizes,
            i=expect(shape, "i", int, place) if shape.get("i") is not None else None,
            dtype=expect(metadata, "dtype", str, "metadata"),
            slice_sizes=tuple(slice_sizes),
            add_inputs=add_inputs,
            experts=_experts_of(shape, place),
        )
    except MalformedError:
        raise
    except ValueError as error:
        raise MalformedError(f"metadata: {error}") from None


def _experts_of(shape: Mapping[str, Any], place: str) -> Experts | None:
    """Return the experts in a shape; None if it has none."""
    if shape.get("num_experts") is None:
        return None
    optional: dict[str, Any] = {
        name: expect(shape, key, int, place) for name, key in _EXPERT_SHARES.items() if key in shape
    }
    if _PACKED in shape:
        optional["packed"] = expect(shape, _PACKED, bool, place)
    return Experts(expect(shape, "num_experts", int, place), expect(shape, "top_k", int, place), **optional)


def _shape_of(problem: Problem) -> dict[str, Any]:
    """Return the sizes of a problem for a recording."""
    if isinstance(problem, SizedProblem):
        return {"sizes": dict(problem.sizes)}
    return _lora_shape_of(lora(problem))


def _lora_shape_of(problem: LoraProblem) -> dict[str, Any]:
    shape: dict[str, Any] = {name: getattr(problem, name) for name in ("max_loras", "num_slices", "m", "k", "n")}
    if problem.i is None:
        shape["slice_sizes"] = list(problem.slice_sizes)
    else:
        shape["i"] = problem.i
    if problem.experts is not None:
        experts = problem.experts
        shape |= {"num_experts": experts.count, "top_k": experts.top_k}
        usual = Experts(experts.count, experts.top_k)
        shares = {key: (getattr(experts, name), getattr(usual, name)) for name, key in _EXPERT_SHARES.items()}
        shape |= {key: value for key, (value, default) in shares.items() if value != default}
        shape |= {_PACKED: True} if experts.packed else {}
    return shape


def gpu_of(metadata: Mapping[str, Any]) -> GpuInfo:
    """Return the GPU of a ``metadata`` object: as recorded in ``gpu_info``, or else by name. Raises MalformedError."""
    name = expect(metadata, "gpu", str, "metadata")
    if (fault := name_fault(name)) is not None:
        raise MalformedError(f"metadata.gpu: expected the name of a GPU, got {shown(name)}, which {fault}")
    label(metadata, "gpu")
    if "gpu_info" not in metadata:
        return stand_in_for(name)
    place = "metadata.gpu_info"
    info = expect(metadata, "gpu_info", dict, "metadata")
    capability = expect(info, "capability", list, place)
    if len(capability) != 2 or any(type(part) is not int or not 0 <= part <= MOST for part in capability):
        raise MalformedError(f"{place}.capability: expected two integers, got {shown(capability)}")
    facts = ("sm_count", "shared_memory_bytes", "registers_per_sm", "threads_per_sm", "l2_bytes")
    sizes: dict[str, Any] = {fact: expect(info, fact, int, place) for fact in facts}
    try:
        for fact, size in sizes.items():
            check_size(fact, size)
    except ValueError as error:
        raise MalformedError(f"{place}.{error}") from None
    words: dict[str, Any] = {word: label(info, word, place) for word in ("backend", "architecture") if word in info}
    return GpuInfo(name, (capability[0], capability[1]), **sizes, **words)


def metadata_of(
    problem: Problem, gpu: GpuInfo, kernel_source: str, default_time_us: float | None, more: Mapping[str, Any]
) -> dict[str, Any]:
    """Return the ``metadata`` object of a recording. ``more`` is kept unless it contradicts."""
    shape = _shape_of(problem)
    info = {**gpu.to_json(), "capability": list(gpu.capability)}
    del info["name"]
    metadata: dict[str, Any] = {
        "kernel": problem.kernel,
        "kernel_source": kernel_source,
        **({"dtype": problem.dtype} if isinstance(problem, LoraProblem) else {}),
        "gpu": gpu.name,
        **{name: value for name, value in more.items() if name in ("triton", "torch")},
        "shape": {**shape, **more.get("shape", {}), **shape},
    }
    if isinstance(problem, LoraProblem) and problem.i is None:
        metadata["add_inputs"] = problem.add_inputs
    metadata |= {"units": dict(UNITS), "gpu_info": info}
    known = {*metadata, DEFAULT_TIME_US} if has_current_default(problem, more) else set(metadata)
    metadata |= {name: value for name, value in more.items() if name not in known}
    if default_time_us is not None:
        metadata[DEFAULT_TIME_US] = default_time_us
    return metadata


def has_current_default(problem: Problem, metadata: Mapping[str, Any]) -> bool:
    """Say whether the recorded time of the default is that of today's default.

    Recordings of the experts' kernels that do not name the default were made when it was that of a tuned engine.
    """
    return DEFAULT_CONFIG in metadata or not isinstance(problem, LoraProblem) or problem.experts is None


def default_time_us(problem: Problem, metadata: Mapping[str, Any], names: Collection[str]) -> float | None:
    """Return the time of the default config, if recorded; None if it was the time of a former default.

    Args:
        names: names of the parameters of recorded configs, which the default must have too.

    Raises:
        MalformedError: the time or the default config is invalid.
    """
    time_us = number(metadata, DEFAULT_TIME_US, "metadata", SHORTEST_US, LONGEST_US)
    if DEFAULT_CONFIG in metadata:
        config = expect(metadata, DEFAULT_CONFIG, dict, "metadata")
        if set(config) != set(names):
            raise MalformedError(f"metadata.{DEFAULT_CONFIG}: expected the parameters {', '.join(sorted(names))}")
        for name in config:
            expect(config, name, int, f"metadata.{DEFAULT_CONFIG}")
    return time_us if has_current_default(problem, metadata) else None


def measurements_of(measurements: list[Any]) -> dict[str, Any]:
    """Return the values of an entry's measurements by name."""
    values = {}
    for measurement in measurements:
        name = measurement.get("name") if type(measurement) is dict else None
        if type(name) is not str:
            raise MalformedError("measurements: expected objects with a name")
        if name == "time" and measurement.get("unit") != "us":
            raise MalformedError(f"measurements.time: expected the unit us, got {measurement.get('unit')!r}")
        values[name] = measurement.get("value")
    return values


def resources_of(values: Mapping[str, Any]) -> Resources:
    """Return the binary's resources. The format writes 0 registers and shared memory if they are unknown."""
    counts = []
    for name in RESOURCES:
        value = values.get(name)
        if value is not None and (type(value) is not int or not 0 <= value <= MOST):
            raise MalformedError(f"measurements.{name}: expected an integer from 0 to {MOST}, got {shown(value)}")
        counts.append(value)
    shared, registers, spilled = counts
    return Resources(shared or None, registers or None, spilled if registers else None)


def check_units(metadata: Mapping[str, Any]) -> None:
    """Raise MalformedError if a recording declares other units of time than the format's usual ones."""
    units = metadata.get("units", UNITS)
    if type(units) is not dict or any(units.get(name, unit) != unit for name, unit in UNITS.items()):
        raise MalformedError(f"metadata.units: expected {shown(UNITS)}, got {shown(units)}")


def _runtime_reason(detail: str) -> InvalidReason:
    for reason, name in _INVALIDITY.items():
        if name == "runtime" and detail.startswith(reason.value):
            return reason
    return InvalidReason.LAUNCH_ERROR


def shown(value: object) -> str:
    """Return a value for a message: in one line, not too long."""
    text = json.dumps(value, default=str)
    return text if len(text) <= 60 else text[:57] + "..."
