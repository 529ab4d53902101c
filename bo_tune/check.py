"""Walking every lookup of an engine start through a folder of tuned JSON, whoever wrote it.

A *fault* is what stops the engine, or makes it take another layer's config; a lookup that only takes its config from a
neighbouring m is as it should be, since no file holds every m.
"""

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from bo_tune.agreement import as_read, disagreements
from bo_tune.errors import TableError
from bo_tune.files import os_error_text
from bo_tune.gpus import gpu_by_file_name, known_gpu
from bo_tune.kernels.registry import engine_spec
from bo_tune.kernels.spec import EngineSpec
from bo_tune.lookup import Crash, Found, first_odd_key, lookup, no_number
from bo_tune.models import DENSE_KERNELS, EXPAND, ModelStudy
from bo_tune.models.engine import MAX_BATCHED_TOKENS, step_sizes
from bo_tune.problem import GpuInfo, Problem, lora_file_name
from bo_tune.provenance import provenance_path
from bo_tune.tables import FILE_STEMS, LEVELS, read_provenance, split_file_name, table_file_name

M = "m"
HOPPER = (9, 0)


@dataclass(frozen=True, slots=True)
class Fault:
    """Something in a file that stops an engine, or misleads it.

    Attributes:
        file: name of the file.
        place: the keys that lead there, as they stand in the file; lookups of any m are put together under ``*``.
        reason: what is wrong, in a line.
    """

    file: str
    place: str
    reason: str


@dataclass(frozen=True, slots=True)
class Unreadable:
    """Why there is no parsed JSON, in a line."""

    reason: str


@dataclass(frozen=True, slots=True)
class Lookup:
    """One lookup of the engine and what it finds.

    Attributes:
        layers: the layers that ask.
        file: name of the file looked into.
        asked: the number asked for at each level, outermost first.
        found: what the lookup ends at; None without a usable file.
        fault: what is wrong with it, if anything.
    """

    problem: Problem
    layers: tuple[str, ...]
    file: str
    asked: Mapping[str, int]
    found: Found | Crash | None
    fault: Fault | None

    @property
    def nearest_m(self) -> int | None:
        """The key m of the neighbour whose config is taken; None for an exact or a faulty one."""
        if self.fault is not None or not isinstance(self.found, Found) or M not in self.found.nearest:
            return None
        return int(self.found.keys[LEVELS.index(M)])

    @property
    def status(self) -> str:
        """``exact``, ``nearest m`` or ``fault``."""
        return "fault" if self.fault else "exact" if self.nearest_m is None else "nearest m"

    def to_json(self) -> dict[str, Any]:
        """Return the lookup as plain values."""
        keys = self.found.keys if self.found else ()
        return {
            "kernel": self.problem.kernel, "layers": list(self.layers), "file": self.file, "asked": dict(self.asked),
            "status": self.status, "keys": list(keys), "fault": self.fault.reason if self.fault else None,
        }  # fmt: skip


@dataclass(frozen=True)
class Report:
    """What a check came to.

    Attributes:
        gpu_file_name: the GPU's name as in the files' names.
        gpu: what is known of the GPU; None where its name is not, and shared memory was not checked.
        structure: what is wrong with the files whatever is asked of them.
        has_experts: whether the model has experts whose lookups are not walked, there being no file of theirs.
        note: what the engine must be told for these to be all lookups.
    """

    folder: Path
    gpu_file_name: str
    gpu: GpuInfo | None
    lookups: tuple[Lookup, ...]
    structure: tuple[Fault, ...]
    has_experts: bool = False
    note: str | None = None

    @cached_property
    def faults(self) -> dict[Fault, tuple[Lookup, ...]]:
        """Every fault once, with the lookups that meet it."""
        met: dict[Fault, list[Lookup]] = {fault: [] for fault in self.structure}
        for item in self.lookups:
            if item.fault is not None:
                met.setdefault(item.fault, []).append(item)
        return {fault: tuple(items) for fault, items in met.items()}

    def count(self, status: str) -> int:
        """Return how many lookups have a status."""
        return sum(item.status == status for item in self.lookups)

    def to_json(self) -> dict[str, Any]:
        """Return the report as plain values."""
        return {
            "folder": str(self.folder),
            "gpu": self.gpu.name if self.gpu else None,
            "counts": {status: self.count(status) for status in ("exact", "nearest m", "fault")},
            "faults": [
                {
                    "file": fault.file,
                    "place": fault.place,
                    "reason": fault.reason,
                    "m": sorted({item.problem.m for item in met}),
                    "layers": sorted({layer for item in met for layer in item.layers}),
                }
                for fault, met in self.faults.items()
            ],
            "lookups": [item.to_json() for item in self.lookups],
        }


def check_folder(
    folder: Path,
    model: ModelStudy,
    *,
    gpu: str | None = None,
    ms: Sequence[int] = (),
    max_batched_tokens: int = MAX_BATCHED_TOKENS,
) -> Report:
    """Walk the lookups of a model through a folder.

    Args:
        model: its ``ms`` are not looked at.
        gpu: name of the GPU, as ``torch.cuda.get_device_name`` gives it; told from the folder if left out.
        ms: tokens in a step; the sizes that an engine pads to, samples of larger ones and the files' own if left out.
        max_batched_tokens: the engine's ``--max-num-batched-tokens``.

    Raises:
        TableError: the folder cannot be read, or does not tell which GPU it is for.
        ModelError: the model poses no such problems.
    """
    names = _table_names(folder)
    walked = model.has_experts and any("_FUSED_MOE_LORA_" in name for name in names)
    kernels = model.kernels if walked else DENSE_KERNELS
    file_name = lora_file_name(gpu) if gpu else _only_gpu(folder, names)
    info = _gpu_info(folder, names, file_name, gpu)
    wanted = {_file_of(problem, file_name) for problem in replace(model, ms=(1,)).problems_by_layer(kernels)}
    present = {name for name in names if _gpu_of(name) == file_name}
    files = {name: _read(folder / name) for name in sorted(present | wanted)}
    structure = [fault for name, content in files.items() for fault in structure_faults(name, content)]
    lookups: list[Lookup] = []
    for name in sorted(wanted):
        content = files[name]
        table = content if isinstance(content, dict) and content else None
        sizes = ms or _sizes(table or {}, max_batched_tokens)
        served = replace(model, ms=tuple(sizes)).problems_by_layer(kernels)
        asked = {problem: layers for problem, layers in served.items() if _file_of(problem, file_name) == name}
        if table is None:
            fault = next(structure_faults(name, content))
            lookups += [
                Lookup(problem, layers, name, _asked(problem), None, fault) for problem, layers in asked.items()
            ]
        else:
            lookups += [_look_up(problem, layers, name, table, info) for problem, layers in asked.items()]
    left_out = model.has_experts and not walked
    return Report(folder, file_name, info, _agreeing(lookups), tuple(structure), left_out, model.note)


def _agreeing(lookups: Sequence[Lookup]) -> tuple[Lookup, ...]:
    """Return the lookups, with the fault of those whose configs do not go with another kernel's."""
    found = {
        item.problem: as_read(engine_spec(item.problem.kernel), item.found.config)
        for item in lookups
        if item.fault is None and isinstance(item.found, Found) and engine_spec(item.problem.kernel).table_level_i
    }
    reasons = disagreements(found)
    return tuple(
        replace(item, fault=Fault(item.file, _place(item.found.keys), reasons[item.problem]))
        if item.problem in reasons and isinstance(item.found, Found)
        else item
        for item in lookups
    )


def structure_faults(name: str, content: object) -> Iterator[Fault]:
    """Say what is wrong with a file whatever is asked of it; ``content`` is the parsed JSON, or ``Unreadable``."""
    if isinstance(content, Unreadable):
        yield Fault(name, "", content.reason)
    elif not isinstance(content, dict):
        yield Fault(name, "", "expected an object of max_loras keys: the engine stops")
    elif not content:
        yield Fault(name, "", "holds nothing: the engine takes its default configs")
    else:
        names = split_file_name(name)
        levels = LEVELS[: FILE_STEMS[names[1]]] if names else LEVELS[:5]
        yield from _level_faults(name, content, levels, ())


def _level_faults(name: str, level: Mapping[str, Any], levels: Sequence[str], keys: tuple[str, ...]) -> Iterator[Fault]:
    odd = first_odd_key(level)
    if odd is not None:
        yield Fault(name, _place((*keys, odd)), no_number(levels[0], odd))
    for key, value in level.items():
        place = (*keys, key)
        if not isinstance(value, dict) or not value:
            if key != odd:
                yield Fault(name, _place(place), f"expected an object below the {levels[0]} key, got {_shown(value)}")
        elif len(levels) > 1:
            yield from _level_faults(name, value, levels[1:], place)
        else:
            wrong = [name for name, number in value.items() if number is not None and type(number) is not int]
            if wrong:
                yield Fault(name, _place(place), f"{wrong[0]}: expected an integer, got {_shown(value[wrong[0]])}")


def _look_up(
    problem: Problem, layers: tuple[str, ...], file: str, table: Mapping[str, Any], gpu: GpuInfo | None
) -> Lookup:
    spec, asked = engine_spec(problem.kernel), _asked(problem)
    found = lookup(table, asked)
    if isinstance(found, Crash):
        fault: Fault | None = Fault(file, _place(found.keys), found.reason)
    else:
        fault = _wrong_neighbour(file, table, asked, found) or _unusable(file, found, spec, problem, gpu)
    return Lookup(problem, layers, file, asked, found, fault)


def _asked(problem: Problem) -> dict[str, int]:
    """Return the numbers that the engine looks a problem up with, by level."""
    return dict(zip(LEVELS, map(int, engine_spec(problem.kernel).table_key(problem)), strict=False))


def _wrong_neighbour(file: str, table: Mapping[str, Any], asked: Mapping[str, int], found: Found) -> Fault | None:
    """Return the fault of taking an entry of other adapters, or of another layer; the outermost level counts."""
    wrong = [level for level in found.nearest if level != M]
    if not wrong:
        return None
    level, position = wrong[0], list(asked).index(wrong[0])
    reason = f"no entry for {level} {asked[level]}: takes the one for {level} {found.keys[position]}"
    if level == "max_loras" and str(asked[level] - 1) in table:
        reason += f"; an engine with --max-loras {asked[level] - 1} asks for one more"
    elif _swapped(table, asked, found, position):
        reason += "; k and n are swapped"
    return Fault(file, _asked_place(asked, level), reason)


def _swapped(table: Mapping[str, Any], asked: Mapping[str, int], found: Found, position: int) -> bool:
    """Say whether the entry would be there with k and n exchanged."""
    level: Any = table
    for key in found.keys[: list(asked).index("k")]:
        level = level[key]
    return position >= list(asked).index("k") and str(asked["k"]) in level.get(str(asked["n"]), {})


def _unusable(file: str, found: Found, spec: EngineSpec, problem: Problem, gpu: GpuInfo | None) -> Fault | None:
    """Return why the config found cannot be launched, if so."""
    config, place = found.config, _place(found.keys)
    if not isinstance(config, dict):
        return Fault(file, place, f"expected a config, got {_shown(config)}")
    if spec.table_level_i:
        config = as_read(spec, config)
    for name in spec.search_space.names:
        if name not in config:
            upper = [other for other in config if other != other.lower()]
            other = f"; {upper[0]} is read by the fused MoE kernels only" if upper else ""
            return Fault(file, place, f"no {name}: a KeyError in the engine{other}")
        value = config[name]
        if type(value) is not int or value < 1:
            return Fault(file, place, f"{name}: expected an integer >= 1, got {_shown(value)}")
        if name in spec.power_of_two and value & (value - 1):
            return Fault(file, place, f"{name}: expected a power of two, got {value}")
    reason = spec.impossible(_as_launched(config, problem, gpu), problem, gpu) if gpu else None
    return Fault(file, place, f"{reason}: the launch fails on {gpu.name}") if gpu and reason else None


def _as_launched(config: Mapping[str, int], problem: Problem, gpu: GpuInfo) -> Mapping[str, int]:
    # vLLM 0.33 pipelines no expand on this capability, whatever the file says: stages cost it no shared memory.
    return {**config, "num_stages": 1} if problem.kernel == EXPAND and gpu.capability == HOPPER else config


def _table_names(folder: Path) -> list[str]:
    try:
        return sorted(path.name for path in folder.iterdir() if split_file_name(path.name))
    except OSError as error:
        raise TableError(f"{folder}: {os_error_text(error)}") from None


def _only_gpu(folder: Path, names: Iterable[str]) -> str:
    gpus = sorted({gpu for gpu in map(_gpu_of, names) if gpu})
    if len(gpus) != 1:
        what = f"files of {', '.join(gpus)}" if gpus else "no tuned JSON (*_SHRINK.json, *_EXPAND_TRUE.json, …)"
        raise TableError(f"{folder}: {what} in this folder; name the GPU with --gpu")
    return gpus[0]


def _gpu_info(folder: Path, names: Iterable[str], file_name: str, gpu: str | None) -> GpuInfo | None:
    """Return what is known of the GPU that is named, here, in the sidecar of a file or in the files' names."""
    if gpu is not None:
        return known_gpu(gpu)
    for name in names:
        if _gpu_of(name) == file_name and provenance_path(folder / name).exists():
            for entry in read_provenance(folder / name).values():
                return known_gpu(entry.gpu)
    return gpu_by_file_name(file_name)


def _gpu_of(name: str) -> str | None:
    """Return the GPU that a file's name begins with, or None where the engine would never load it."""
    parts = split_file_name(name)
    return parts[0] if parts else None


def _file_of(problem: Problem, gpu_file_name: str) -> str:
    return table_file_name(gpu_file_name, engine_spec(problem.kernel).file_stem(problem))


def _read(path: Path) -> object:
    """Return the parsed JSON, read as vLLM does, or ``Unreadable``."""
    try:
        return json.loads(path.read_bytes())
    except FileNotFoundError:
        return Unreadable("no such file: the engine takes its default configs")
    except OSError as error:
        return Unreadable(f"{os_error_text(error)}: the engine stops")
    except (ValueError, RecursionError) as error:
        return Unreadable(f"not JSON: {error}: the engine stops")


def _sizes(table: Mapping[str, Any], largest: int) -> list[int]:
    """Return the m to try: those of an engine, and those of the file, which some step may have exactly."""
    keys = {
        int(m)
        for slices in table.values() if isinstance(slices, dict)
        for ms in slices.values() if isinstance(ms, dict)
        for m in ms if m.isdecimal()
    }  # fmt: skip
    return sorted({*step_sizes(largest), *(m for m in keys if 1 <= m <= largest)})


def _asked_place(asked: Mapping[str, int], until: str) -> str:
    names = list(asked)[: list(asked).index(until) + 1]
    return _place("*" if name == M else str(asked[name]) for name in names)


def _place(keys: Iterable[str]) -> str:
    return "/".join(keys)


def _shown(value: object) -> str:
    text = json.dumps(value)
    return text if len(text) <= 60 else text[:57] + "..."
