"""Walks every lookup of an engine start through a folder.

Lookups are made at the sizes of an engine's steps, and at every number of tokens where the nearest key changes. So the
results hold for steps of every size.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from bo_tune.core.conclusion import SHARED
from bo_tune.core.gpus import gpu_by_file_name, known_gpu
from bo_tune.core.problem import GpuInfo, LoraProblem, lora_file_name
from bo_tune.engines.check.agreeing import agreeing, runs_at_once
from bo_tune.engines.check.base_experts import experts_lookups, file_asked
from bo_tune.engines.check.findings import Fault, Lookup, M, Report, place_of
from bo_tune.engines.check.lora_files import LEAST_SORTED, THE_STOP, config_fault, is_moe, read, structure_faults
from bo_tune.engines.check.mamba import mamba_file_asked, mamba_lookups
from bo_tune.engines.check.other_files import OtherFile
from bo_tune.engines.folder import read_provenance
from bo_tune.engines.models.engine import MAX_BATCHED_TOKENS, step_sizes
from bo_tune.engines.models.problems import EXPAND
from bo_tune.engines.models.serving import ModelStudy
from bo_tune.engines.vllm.file_names import split_file_name, table_file_name
from bo_tune.engines.vllm.lookup import Crash, Found, lookup, switch_points
from bo_tune.engines.vllm.table_format import LEVELS
from bo_tune.errors import TableError
from bo_tune.files import os_error_text
from bo_tune.kernels.moe.untuned import as_read
from bo_tune.kernels.registry import engine_spec
from bo_tune.kernels.spec import EngineSpec

HOPPER = (9, 0)
NOTHING_LOOKED_UP = (
    "nothing was checked: bo_tune knows no lookups for any layer that the model and its target modules name, so "
    "this says nothing about the folder"
)


class _Gpu(NamedTuple):
    """The GPU that a folder is checked for: its name in LoRA files, its name as torch gives it, and its data."""

    file_name: str
    name: str | None
    info: GpuInfo | None


_Walk = Callable[[Mapping[str, object], _Gpu], list[Lookup]]
"""Makes the lookups in some files, given by name."""


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
        model: the model; its ``ms`` are ignored.
        gpu: name of the GPU as given by ``torch.cuda.get_device_name``. If left out, the folder tells.
        ms: numbers of tokens in a step; all from 1 to ``max_batched_tokens`` if left out.
        max_batched_tokens: the engine's ``--max-num-batched-tokens``.

    Raises:
        TableError: the folder cannot be read, or does not tell which GPU it is for.
        ModelError: the model poses no such problems.
    """
    walked = partial(_walk, model, ms, max_batched_tokens)
    report = _checked(folder, replace(model, ms=(1,)).problems_by_layer(), walked, gpu, model.note)
    whose = model, _names(folder), report.gpu_file_name, report.gpu_name
    more = list[Lookup]()
    if name := file_asked(*whose):
        more += experts_lookups(model, name, read(folder / name), report.gpu, ms=ms, largest=max_batched_tokens)
    if name := mamba_file_asked(*whose):
        more += mamba_lookups(model, name, read(folder / name), ms=ms)
    return replace(report, lookups=(*report.lookups, *more))


def check_problems(
    folder: Path, problems: Mapping[LoraProblem, tuple[str, ...]], *, gpu: str | None = None, note: str | None = None
) -> Report:
    """Walk single lookups, each with the layers that ask, through a folder. Otherwise like ``check_folder``."""

    def walked(files: Mapping[str, object], gpu: _Gpu) -> list[Lookup]:
        return agreeing(_looked_up(problems, files, gpu), {problem.m: problem.m for problem in problems})

    return _checked(folder, problems, walked, gpu, note)


def _checked(folder: Path, asked: Iterable[LoraProblem], walk: _Walk, gpu: str | None, note: str | None) -> Report:
    """Check a folder's files, and walk the lookups of the given problems."""
    names = _names(folder)
    tables = [name for name in names if split_file_name(name)]
    checked = _gpu(folder, tables, gpu)
    wanted = {_file_of(problem, checked.file_name) for problem in asked}
    present = {name for name in tables if _prefix(name) == checked.file_name}
    files = {name: read(folder / name) for name in sorted(present | wanted)}
    general = [fault for name, content in files.items() for fault in structure_faults(name, content)]
    general += _misnamed(tables, checked)
    general += _faults_of_others(folder, names, checked)
    experts = [name for name in sorted(wanted) if is_moe(name)]  # their entries have to agree
    groups = [[name] for name in sorted(wanted) if name not in experts] + [experts] * bool(experts)
    lookups = [item for group in groups for item in walk({name: files[name] for name in group}, checked)]
    if not lookups:
        general.append(Fault("", "", NOTHING_LOOKED_UP))
    return Report(folder, checked.file_name, checked.name, checked.info, tuple(lookups), tuple(general), note)


def _walk(model: ModelStudy, ms: Sequence[int], largest: int, files: Mapping[str, object], gpu: _Gpu) -> list[Lookup]:
    """Look up a model's problems in some files, at every m where one of the files may change its answer."""
    sizes = ms or _sizes(files.values(), model, largest)
    served = replace(model, ms=tuple(sizes)).problems_by_layer()
    ends = dict(zip(sizes, sizes if ms else (*(size - 1 for size in sizes[1:]), largest), strict=True))
    return agreeing(_looked_up(served, files, gpu), ends)


def _looked_up(served: Mapping[LoraProblem, tuple[str, ...]], files: Mapping[str, object], gpu: _Gpu) -> list[Lookup]:
    """Look up those problems whose file is among the given ones."""
    asked = [(problem, layers, _file_of(problem, gpu.file_name)) for problem, layers in served.items()]
    return [
        _look_up(problem, layers, file, files[file], gpu.info)
        for name in files
        for problem, layers, file in asked
        if file == name
    ]


def _sizes(contents: Iterable[object], model: ModelStudy, largest: int) -> list[int]:
    """Return values of m whose lookups cover all others: the sizes of an engine's steps, and changes of entries."""
    points = {
        point
        for table in contents if isinstance(table, dict)
        for slices in table.values() if isinstance(slices, dict)
        for level in slices.values() if isinstance(level, dict)
        for point in switch_points(level, largest)
    }  # fmt: skip
    return sorted({*step_sizes(largest), min(model.most_logits, largest), *points})


def _look_up(problem: LoraProblem, layers: tuple[str, ...], file: str, content: object, gpu: GpuInfo | None) -> Lookup:
    spec = engine_spec(problem.kernel)
    asked = dict(zip(LEVELS, map(int, spec.table_key(problem)), strict=False))
    if not isinstance(content, dict) or not content:
        return Lookup(problem, layers, file, asked, None, (next(structure_faults(file, content)),))
    found = lookup(content, asked)
    if isinstance(found, Crash):
        return Lookup(problem, layers, file, asked, found, (Fault(file, place_of(found.keys), found.reason),))
    faults = (_wrong_neighbour(file, content, asked, found), _unusable(file, found, spec, problem, gpu))
    return Lookup(problem, layers, file, asked, found, tuple(fault for fault in faults if fault))


def _wrong_neighbour(file: str, table: Mapping[str, Any], asked: Mapping[str, int], found: Found) -> Fault | None:
    """Return the fault of taking another layer's entry, or that of other adapters. The outermost level counts."""
    wrong = [level for level in found.nearest if level != M]
    if not wrong:
        return None
    level, position = wrong[0], list(asked).index(wrong[0])
    reason = f"no entry for {level} {asked[level]}, so {level} {found.keys[position]} is used"
    if level == "max_loras" and str(asked[level] - 1) in table:
        reason += f"; an engine with --max-loras {asked[level] - 1} looks up one more"
    elif _swapped(table, asked, found, position):
        reason += "; k and n are swapped"
    return Fault(file, _asked_place(asked, level), reason)


def _swapped(table: Mapping[str, Any], asked: Mapping[str, int], found: Found, position: int) -> bool:
    """Say whether the entry would exist with k and n exchanged."""
    level: Any = table
    for key in found.keys[: list(asked).index("k")]:
        level = level[key]
    return position >= list(asked).index("k") and str(asked["k"]) in level.get(str(asked["n"]), {})


def _unusable(file: str, found: Found, spec: EngineSpec, problem: LoraProblem, gpu: GpuInfo | None) -> Fault | None:
    """Return the fault of a config that was found but cannot be launched; None if it can."""
    stem, place = spec.file_stem(problem), place_of(found.keys)
    reason = config_fault(stem, found.config)
    if reason:
        return Fault(file, place, reason)
    config = as_read(found.config) if spec.table_level_i else found.config
    if runs_at_once(problem):
        # The single launch takes this from the shrink kernels, and nothing else from any.
        if "shrink" in problem.kernel and config[SHARED] < LEAST_SORTED:
            return Fault(file, place, f"{SHARED}: expected at least {LEAST_SORTED}, got {config[SHARED]}: {THE_STOP}")
        return None
    reason = spec.impossible(_as_launched(config, problem, gpu), problem, gpu) if gpu else None
    return Fault(file, place, f"{reason}: the launch would fail on {gpu.name}") if gpu and reason else None


def _as_launched(config: Mapping[str, int], problem: LoraProblem, gpu: GpuInfo) -> Mapping[str, int]:
    # vLLM 0.33 never pipelines expand on this capability, whatever the file says. So stages take no shared memory.
    unpipelined = problem.kernel == EXPAND and gpu.is_cuda and gpu.capability == HOPPER
    return {**config, "num_stages": 1} if unpipelined else config


def _faults_of_others(folder: Path, names: Iterable[str], gpu: _Gpu) -> list[Fault]:
    """Return the faults of other files that an engine with this GPU reads from the folder."""
    others = [other for name in names if (other := OtherFile.of(name)) and other.is_of(gpu.file_name)]
    return [fault for other in others for fault in other.faults(read(folder / other.name), gpu.name)]


def _names(folder: Path) -> list[str]:
    try:
        return sorted(path.name for path in folder.iterdir())
    except OSError as error:
        raise TableError(f"{folder}: {os_error_text(error)}") from None


def _gpu(folder: Path, tables: Sequence[str], name: str | None) -> _Gpu:
    """Return the GPU: the given one, or else the one in a file's sidecar or in the files' names."""
    file_name = lora_file_name(name) if name else _only_gpu(folder, tables)
    origins = [
        origin
        for table in tables
        if _gpu_of(table) == file_name
        for origin in read_provenance(folder / table).values()
        if lora_file_name(origin.gpu) == file_name
    ]
    told = name or next((origin.gpu for origin in origins), None)
    if told is not None:
        return _Gpu(file_name, told, known_gpu(told))
    info = gpu_by_file_name(file_name)
    return _Gpu(file_name, info.name if info else None, info)


def _only_gpu(folder: Path, tables: Iterable[str]) -> str:
    gpus = sorted({gpu for gpu in map(_gpu_of, tables) if gpu})
    if len(gpus) != 1:
        what = f"files of {', '.join(gpus)}" if gpus else "no tuned JSON (*_SHRINK.json, *_EXPAND_TRUE.json, …)"
        raise TableError(f"{folder}: this folder has {what}; name the GPU with --gpu")
    return gpus[0]


def _misnamed(tables: Iterable[str], gpu: _Gpu) -> list[Fault]:
    """Return a fault for each file of this GPU whose name has hyphens or spaces. An engine writes it without."""
    return [
        Fault(name, "", f"the engine never reads this file: it looks for {gpu.file_name}{name.removeprefix(prefix)}")
        for name in tables
        if (prefix := _prefix(name)) and prefix != gpu.file_name and _gpu_of(name) == gpu.file_name
    ]


def _gpu_of(name: str) -> str | None:
    """Return the GPU at the start of a file's name, as an engine writes it; None if it never asks for the name."""
    prefix = _prefix(name)
    return lora_file_name(prefix) if prefix else None


def _prefix(name: str) -> str | None:
    parts = split_file_name(name)
    return parts[0] if parts else None


def _file_of(problem: LoraProblem, gpu_file_name: str) -> str:
    return table_file_name(gpu_file_name, engine_spec(problem.kernel).file_stem(problem))


def _asked_place(asked: Mapping[str, int], until: str) -> str:
    names = list(asked)[: list(asked).index(until) + 1]
    return place_of("*" if name == M else str(asked[name]) for name in names)
