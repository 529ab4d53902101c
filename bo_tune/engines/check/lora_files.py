"""Files of tuned LoRA configs as an engine reads them, and their faults that do not depend on lookups.

The dense kernels read the names below by subscript. A missing name is a KeyError in the engine, and null or text fails
at the launch. The fused MoE kernels have a default for each name. Other names are ignored. Facts of vLLM 0.33.0.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bo_tune.engines.check.findings import Fault, place_of
from bo_tune.engines.vllm.file_names import FILE_STEMS, split_file_name
from bo_tune.engines.vllm.launchable import numbers_fault
from bo_tune.engines.vllm.lookup import bad_key_reason, first_odd_key
from bo_tune.engines.vllm.table_format import LEVELS
from bo_tune.files import os_error_text, parse_json, read_file, shown
from bo_tune.kernels.moe.untuned import as_read

DENSE_NAMES = ("block_m", "block_n", "block_k", "num_warps", "num_ctas", "num_stages")
SHRINK_NAMES = (*DENSE_NAMES, "split_k")
OPTIONAL_NAMES = ("group_size_m",)
"""Optional parameters of shrink; 8 if a config has none."""

LEAST_SORTED = 16
"""Fewest rows of a block in the single launch of a fused MoE half."""

MOE_LEVELS = 6

THE_STOP = "the engine stops"


@dataclass(frozen=True, slots=True)
class Unreadable:
    """Stands for a file without parsed JSON.

    Attributes:
        reason: the reason, in one line.
        missing: whether the file does not exist.
    """

    reason: str
    missing: bool = False


def read(path: Path) -> object:
    """Return the parsed JSON, read as vLLM does, or ``Unreadable``."""
    try:
        return parse_json(read_file(path), repeats=True)
    except FileNotFoundError:
        return Unreadable("the file does not exist", missing=True)
    except OSError as error:
        return Unreadable(f"{os_error_text(error)}: {THE_STOP}")
    except ValueError as error:
        return Unreadable(f"{error}: {THE_STOP}")


def structure_faults(name: str, content: object) -> Iterator[Fault]:
    """Yield the faults of a file that do not depend on lookups. ``content`` is the result of ``read``."""
    stem = _stem(name)
    if isinstance(content, Unreadable):
        yield Fault(name, "", f"{content.reason}: {_without(stem)}" if content.missing else content.reason)
    elif not isinstance(content, dict):
        yield Fault(name, "", f"expected an object with max_loras as keys: {THE_STOP}")
    elif not content:
        yield Fault(name, "", f"the file is empty: {_without(stem)}")
    else:
        yield from _level_faults(name, content, LEVELS[: FILE_STEMS[stem]], ())


def is_moe(name: str) -> bool:
    """Say whether a file is one of the experts' four."""
    return FILE_STEMS[_stem(name)] == MOE_LEVELS


def _stem(name: str) -> str:
    parts = split_file_name(name)
    if parts is None:
        raise ValueError(f"expected the name of a tuned file, got {name}")
    return parts[1]


def _without(stem: str) -> str:
    """Say what the engine does without the file."""
    if FILE_STEMS[stem] == MOE_LEVELS:
        return "with this folder the experts run block_m 64 at every m, not what they run without a folder"
    return "the engine uses its default configs"


def _level_faults(name: str, level: Mapping[str, Any], levels: Sequence[str], keys: tuple[str, ...]) -> Iterator[Fault]:
    odd = first_odd_key(level)
    if odd is not None:
        yield Fault(name, place_of((*keys, odd)), bad_key_reason(levels[0], odd))
    for key, value in level.items():
        place = (*keys, key)
        if not isinstance(value, dict) or not value:
            if key != odd:
                reason = f"expected an object below the {levels[0]} key, got {shown(value)}"
                yield Fault(name, place_of(place), reason)
        elif len(levels) > 1:
            yield from _level_faults(name, value, levels[1:], place)
        else:
            wrong = config_fault(_stem(name), value)
            if wrong:
                yield Fault(name, place_of(place), wrong)


def config_fault(stem: str, config: object) -> str | None:
    """Return why a kernel cannot be launched with a config, or None.

    Args:
        stem: the part of the file's name after the GPU's name.
    """
    if not isinstance(config, dict):
        return f"expected a config, got {shown(config)}"
    if FILE_STEMS[stem] == MOE_LEVELS:
        return numbers_fault(as_read(config))
    names = SHRINK_NAMES if stem == "SHRINK" else DENSE_NAMES
    missing = [name for name in names if name not in config]
    if missing:
        upper = [name for name in config if name != name.lower()]
        other = f"; only the fused MoE kernels read {upper[0]}" if upper else ""
        return f"{missing[0]} is missing: a KeyError in the engine{other}"
    read = (*names, *(OPTIONAL_NAMES if stem == "SHRINK" else ()))
    return numbers_fault({name: config[name] for name in read if name in config})
