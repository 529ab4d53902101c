"""Recordings: exhaustive grids in the autotuning community's T4 results format, read and written.

A recording file is JSON, gzip-compressed if its name ends in ``.gz``. It holds ``schema_version``, a ``metadata``
object that names kernel, problem and GPU, and ``results`` with one entry per config. Times are in us, except for
``compilation_time``, which the format wants in ms.
"""

import gzip
import json
import re
import zlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from io import BytesIO
from pathlib import Path
from typing import Any

from bo_tune.core.outcome import LONGEST_US, MOST_SECONDS, SHORTEST_US, Invalid, InvalidReason, Outcome, Resources
from bo_tune.core.problem import MOST, GpuInfo, LoraProblem, Problem
from bo_tune.core.space import Config, ConfigKey, SearchSpace, config_key
from bo_tune.errors import InputError, RecordingError, UnknownKernelError
from bo_tune.files import BEYOND, MOST_BYTES, os_error_text, parse_json, plain_name, read_file, write_atomically
from bo_tune.formats.recording_format import (
    DEFAULT_CONFIG,
    RESOURCES,
    SCHEMA_VERSION,
    MalformedError,
    check_units,
    default_time_us,
    expect,
    gpu_of,
    invalidity_of,
    label,
    measurements_of,
    metadata_of,
    number,
    problem_of,
    reason_of,
    resources_of,
    shown,
)
from bo_tune.kernels.registry import KERNELS, is_known, kernel_spec

SUFFIXES = (".t4.json.gz", ".t4.json")
"""Endings of the names of recording files."""


@dataclass(frozen=True, slots=True)
class RecordedConfig:
    """The recorded data of one config.

    Attributes:
        runtimes_us: every raw repetition, in us; empty for an invalid config.
        time_us: the recorded time, in us; None for an invalid config. For the fastest configs it may be a re-measured
            time.
        reason: why there is no time, or None.
        detail: the recorded line of detail of an invalid config.
        compile_s: seconds of one core that compiling took.
        relative_error: Frobenius norm of the difference from the reference, divided by the reference's norm.
    """

    runtimes_us: tuple[float, ...] = ()
    time_us: float | None = None
    reason: InvalidReason | None = None
    detail: str = ""
    compile_s: float = 0.0
    resources: Resources = Resources()
    relative_error: float | None = None

    @classmethod
    def of(cls, outcome: Outcome, time_us: float | None = None) -> "RecordedConfig":
        """Return the data of an outcome, with a re-measured time if there is one."""
        compile_s = outcome.compilation.compile_s
        if isinstance(outcome, Invalid):
            return cls((), None, outcome.reason, outcome.detail, compile_s, outcome.resources)
        time_us = outcome.time_us if time_us is None else time_us
        return cls(outcome.runtimes_us, time_us, None, "", compile_s, outcome.resources, outcome.relative_error)


@dataclass(frozen=True)
class Recording:
    """A recorded grid.

    Attributes:
        path: the file that it was read from, or will be written to.
        kernel_source: source of the measured kernel, for example ``vllm 0.33.0``.
        space: product of the recorded values, with parameters in recorded order.
        default_time_us: time of the kernel's default config on the same problem, if recorded.
        entries: the recorded data by ``config_key``, in recorded order. May cover less than the whole space.
        metadata: the file's ``metadata`` object, including what this program does not know.
    """

    path: Path
    problem: Problem
    gpu: GpuInfo
    kernel_source: str
    space: SearchSpace
    default_time_us: float | None
    entries: Mapping[ConfigKey, RecordedConfig]
    metadata: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def of(
        cls,
        path: Path,
        problem: Problem,
        gpu: GpuInfo,
        outcomes: Iterable[tuple[Config, Outcome]],
        *,
        kernel_source: str,
        space: SearchSpace,
        default_time_us: float | None = None,
        times_us: Mapping[ConfigKey, float] | None = None,
        metadata: Mapping[str, Any] | None = None,
    ) -> "Recording":
        """Build a recording from outcomes.

        Args:
            times_us: re-measured times by ``config_key``, to replace the outcomes' own.
            metadata: further facts of the run: ``triton``, ``torch``, ``timing``, …
        """
        times_us = times_us or {}
        entries = {}
        for config, outcome in outcomes:
            key = config_key(config)
            entries[key] = RecordedConfig.of(outcome, times_us.get(key))
        return cls(path, problem, gpu, kernel_source, space, default_time_us, entries, metadata or {})

    @property
    def default_config(self) -> dict[str, int]:
        """The kernel's default config at the time of the recording, or today's if that was not recorded."""
        recorded: dict[str, int] | None = self.metadata.get(DEFAULT_CONFIG)
        return dict(recorded) if recorded else kernel_spec(self.problem.kernel).default_config(self.problem)

    def entry(self, config: Config) -> RecordedConfig | None:
        """Return the recorded data of a config, or None."""
        return self.entries.get(config_key(config))

    def time_us(self, config: Config) -> float | None:
        """Return the recorded time of a config, in us. Any config off the grid is taken for the default.

        None for an invalid config, and if the default's time is not recorded.
        """
        entry = self.entry(config)
        return self.default_time_us if entry is None else entry.time_us

    @cached_property
    def best(self) -> dict[str, int]:
        """The correct config with the smallest recorded time. Raises RecordingError if no config is correct."""
        times = [(entry.time_us, key) for key, entry in self.entries.items() if entry.time_us is not None]
        if not times:
            raise RecordingError(f"{self.path}: no config of this recording has a time")
        return self._in_order(dict(min(times)[1]))

    @cached_property
    def best_time_us(self) -> float:
        """Recorded time of ``best``, in us."""
        time_us = self.entries[config_key(self.best)].time_us
        assert time_us is not None
        return time_us

    def configs(self) -> list[dict[str, int]]:
        """Return the recorded configs in recorded order, with parameters in the space's order."""
        return [self._in_order(dict(key)) for key in self.entries]

    def _in_order(self, config: Config) -> dict[str, int]:
        return {name: config[name] for name in self.space.names}


_NUMBERS = frozenset((int, float))

LONGEST_DETAIL = 4000
"""Most characters to keep of an invalid config's line of detail."""


def recording_file_name(gpu: GpuInfo, problem: Problem) -> str:
    """Return the usual name of a recording's file: ``h100.lora_shrink.L4.s1.m16.k4096.n16.t4.json.gz``.

    The shape is followed by differences from the defaults: a dtype other than bfloat16, expand that does not add to its
    output.

    Raises:
        RecordingError: the kernel's name cannot be part of a file name.
    """
    words = [word for word in re.split(r"[^a-z0-9]+", gpu.name.lower()) if word not in ("", "nvidia", "geforce", "rtx")]
    parts = [words[0] if words else "gpu", problem.kernel, problem.shape_label]
    if isinstance(problem, LoraProblem) and problem.dtype != "bfloat16":
        parts.append(problem.dtype)
    if isinstance(problem, LoraProblem) and problem.add_inputs is False:
        parts.append("overwrite")
    try:
        return plain_name(".".join(parts) + SUFFIXES[0])
    except ValueError as error:
        raise RecordingError(f"a recording of {problem.kernel!r}: {error}") from None


def read_recordings(folder: Path, *, any_kernel: bool = False, known_alone: bool = False) -> list[Recording]:
    """Read every recording directly in a folder, sorted by file name.

    Args:
        any_kernel: whether to read recordings of kernels that this program does not know.
        known_alone: whether to skip those instead.

    Raises:
        RecordingError: the folder is missing or holds no recording, or one of them cannot be read.
    """
    try:
        paths = sorted(path for path in folder.iterdir() if path.name.endswith(SUFFIXES))
    except OSError as error:
        raise RecordingError(f"{folder}: {os_error_text(error)}") from None
    if not paths:
        raise RecordingError(f"{folder}: this folder has no recordings (*{SUFFIXES[0]})")
    found = []
    for path in paths:
        try:
            found.append(read_recording(path, any_kernel=any_kernel))
        except UnknownKernelError:
            if not known_alone:
                raise
    return found


def read_recording(path: Path, *, any_kernel: bool = False) -> Recording:
    """Read a recording.

    Args:
        any_kernel: whether to read recordings of kernels that this program does not know.

    Raises:
        RecordingError: the file cannot be read, is truncated or malformed, or is of another kernel. The message is one
            line, with the file's name and the place in it.
    """
    try:
        return _parse(path, parse_json(_content(path)), any_kernel=any_kernel)
    except UnknownKernelError as error:
        raise UnknownKernelError(f"{path}: {error}") from None
    except (ValueError, InputError) as error:
        raise RecordingError(f"{path}: {error}") from None


def write_recording(path: Path, recording: Recording) -> None:
    """Write a recording atomically. The folder is created.

    Raises:
        RecordingError: the file cannot be written.
        ValueError: an entry's reason cannot be recorded, for example ``NOT_RECORDED``.
    """
    metadata = metadata_of(
        recording.problem, recording.gpu, recording.kernel_source, recording.default_time_us, recording.metadata
    )
    results = [
        _result_json(config, entry)
        for config, entry in zip(recording.configs(), recording.entries.values(), strict=True)
    ]
    document = {"schema_version": SCHEMA_VERSION, "metadata": metadata, "results": results}
    content = json.dumps(document, separators=(",", ":"), allow_nan=False).encode()
    if path.name.endswith(".gz"):
        content = gzip.compress(content, mtime=0)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, content)
    except OSError as error:
        raise RecordingError(f"{path}: cannot be written: {os_error_text(error)}") from None


def _content(path: Path) -> bytes:
    """Return the JSON text of a recording file. Raises RecordingError, or MalformedError for broken compression."""
    try:
        content = read_file(path)
    except OSError as error:
        raise RecordingError(f"{path}: {os_error_text(error)}") from None
    if not path.name.endswith(".gz"):
        return content
    try:
        with gzip.GzipFile(fileobj=BytesIO(content)) as file:
            content = file.read(MOST_BYTES + 1)
    except EOFError:
        raise MalformedError("truncated: the compressed data ends early") from None
    except (gzip.BadGzipFile, zlib.error):
        raise MalformedError("not gzip, or damaged") from None
    if len(content) > MOST_BYTES:
        raise MalformedError(f"larger than {MOST_BYTES >> 20} MiB, unpacked")
    return content


def _parse(path: Path, document: Any, *, any_kernel: bool) -> Recording:
    if type(document) is not dict:
        raise MalformedError("expected a T4 results object")
    version = expect(document, "schema_version", str)
    if version != SCHEMA_VERSION:
        raise MalformedError(f"schema_version: expected {SCHEMA_VERSION}, got {version}")
    metadata = expect(document, "metadata", dict)
    problem = problem_of(metadata)
    if not any_kernel and not is_known(problem.kernel):
        raise UnknownKernelError(
            f"this is a recording of the kernel {problem.kernel}, which this program does not know; it knows "
            f"{', '.join(KERNELS)}"
        )
    check_units(metadata)
    entries, names = _parse_results(expect(document, "results", list))
    if not any_kernel:
        _check_names(problem.kernel, names)
    columns = {pairs[0][0]: sorted({value for _, value in pairs}) for pairs in zip(*entries, strict=True)}
    space = SearchSpace.of({name: tuple(columns[name]) for name in names})
    if not any_kernel:
        space.check_size()
    return Recording(
        path=path,
        problem=problem,
        gpu=gpu_of(metadata),
        kernel_source=label(metadata, "kernel_source"),
        space=space,
        default_time_us=default_time_us(problem, metadata, names),
        entries=entries,
        metadata=metadata,
    )


def _check_names(kernel: str, names: tuple[str, ...]) -> None:
    expected = kernel_spec(kernel).search_space.names
    if set(names) != set(expected):
        raise MalformedError(f"expected configs of {kernel}, with {', '.join(expected)}, got {', '.join(names)}")


def _parse_results(results: list[Any]) -> tuple[dict[ConfigKey, RecordedConfig], tuple[str, ...]]:
    """Return the entries by config, and the parameters' names in recorded order."""
    if not results:
        raise MalformedError("results: expected at least one config")
    names: tuple[str, ...] = ()
    entries: dict[ConfigKey, RecordedConfig] = {}
    for position, result in enumerate(results):
        try:
            if type(result) is not dict:
                raise MalformedError("expected an object")
            configuration = expect(result, "configuration", dict)
            names = names or tuple(configuration)
            key = _parse_configuration(configuration, names)
            if key in entries:
                raise MalformedError("configuration: this config occurs twice")
            entries[key] = _parse_result(result)
        except MalformedError as error:
            raise MalformedError(f"results[{position}]: {error}") from None
    return entries, names


def _parse_configuration(configuration: dict[str, Any], names: tuple[str, ...]) -> ConfigKey:
    if len(configuration) != len(names) or not all(name in configuration for name in names) or not names:
        raise MalformedError(f"configuration: expected the parameters {', '.join(names)}")
    values = configuration.values()
    if set(map(type, values)) != {int} or not 1 <= min(values) <= max(values) <= MOST:
        raise MalformedError(f"configuration: expected integers from 1 to {MOST}, got {shown(configuration)}")
    return config_key(configuration)


def _parse_result(result: dict[str, Any]) -> RecordedConfig:
    times = expect(result, "times", dict)
    values = measurements_of(expect(result, "measurements", list))
    detail = values.get("invalid_reason") or ""
    if type(detail) is not str:
        raise MalformedError("measurements.invalid_reason: expected a string")
    reason = reason_of(expect(result, "invalidity", str), detail)
    runtimes = expect(times, "runtimes", list)
    fits = _NUMBERS.issuperset(map(type, runtimes))
    if not fits or (runtimes and not SHORTEST_US <= min(runtimes) <= max(runtimes) <= LONGEST_US):
        raise MalformedError(f"times.runtimes: expected numbers from {SHORTEST_US:g} to {LONGEST_US:g}")
    time_us = number(values, "time", "measurements", SHORTEST_US, LONGEST_US)
    if reason is None and (time_us is None or not runtimes):
        raise MalformedError("expected times.runtimes and the measurement time, because the config is correct")
    return RecordedConfig(
        runtimes_us=tuple(map(float, runtimes)),
        time_us=time_us if reason is None else None,
        reason=reason,
        detail=detail[:LONGEST_DETAIL],
        compile_s=(number(times, "compilation_time", "times", 0, 1000 * MOST_SECONDS) or 0.0) / 1000,
        resources=resources_of(values),
        relative_error=number(values, "relative_error", "measurements", 0, BEYOND),
    )


def _result_json(config: Config, entry: RecordedConfig) -> dict[str, Any]:
    invalidity, detail = invalidity_of(entry.reason, entry.detail)
    resources = entry.resources
    counts = (resources.shared_memory_bytes, resources.registers_per_thread, resources.spilled_registers)
    measurements: list[tuple[str, object, str]] = []
    if entry.time_us is not None:
        measurements.append(("time", entry.time_us, "us"))
    measurements += [(name, count or 0, unit) for (name, unit), count in zip(RESOURCES.items(), counts, strict=True)]
    if entry.relative_error is not None:
        measurements.append(("relative_error", entry.relative_error, ""))
    if entry.reason is not None:
        measurements.append(("invalid_reason", detail, ""))
    return {
        "configuration": dict(config),
        "times": {"compilation_time": round(entry.compile_s * 1000, 3), "runtimes": list(entry.runtimes_us)},
        "invalidity": invalidity,
        "correctness": int(entry.reason is None),
        "measurements": [{"name": name, "value": value, "unit": unit} for name, value, unit in measurements],
        "objectives": ["time"],
    }
