"""The nested JSON that vLLM loads: flattening it, and nesting it again.

``data[max_loras][num_slices][m][k][n]`` holds a config. The fused MoE kernels have one more level, ``[i]``. All keys
are decimal strings.
"""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from bo_tune.engines.base import Entries, Keys, WrittenConfig, by_number
from bo_tune.engines.json_text import kind_of
from bo_tune.errors import TableError

LEVELS = ("max_loras", "num_slices", "m", "k", "n", "i")
"""Meaning of the keys, outermost first. Dense kernels have no i."""

CONFIG_ORDER = ("block_m", "block_n", "block_k", "split_k", "group_size_m", "num_warps", "num_ctas", "num_stages")
"""Order in which a config's parameters are written. Others follow by name."""

_DECIMAL = re.compile(r"0|[1-9][0-9]{0,17}")


def flatten(document: object, levels: int, path: Path) -> dict[Keys, WrittenConfig]:
    """Return the configs of a parsed file by the keys that lead to them.

    Args:
        levels: number of keys that lead to a config: 5, or 6 with i.

    Raises:
        TableError: it is malformed. The message is one line, with the file and the place in it.
    """
    if not isinstance(document, dict):
        raise TableError(f"{path}: expected an object with max_loras as keys, got {kind_of(document)}")
    return dict(_flatten(document, LEVELS[:levels], (), path))


def _flatten(
    level: Mapping[str, Any], names: Sequence[str], above: Keys, path: Path
) -> Iterator[tuple[Keys, WrittenConfig]]:
    """Yield the configs below a level. ``names`` are those of all levels, ``above`` the keys that lead there."""
    name = names[len(above)]
    for key, value in level.items():
        keys = (*above, key)
        place = f"{path}: {'/'.join(keys)}"
        odd = decimal_key_fault(name, key)
        if odd:
            raise TableError(f"{place}: {odd}")
        if not isinstance(value, dict) or not value:
            raise TableError(f"{place}: expected a non-empty object, got {kind_of(value)}")
        if len(keys) < len(names):
            yield from _flatten(value, names, keys, path)
        else:
            _check_config(value, place)
            yield keys, value


def decimal_key_fault(name: str, key: str) -> str | None:
    """Return a message about a key that is not a decimal number as in such files, or None."""
    return None if _DECIMAL.fullmatch(key) else f"expected a decimal number as {name} key, got {key!r}"


def _check_config(config: Mapping[str, Any], place: str) -> None:
    for name, value in config.items():
        if value is not None and type(value) is not int:
            raise TableError(f"{place}: {name}: expected an integer, got {kind_of(value)}")


def nested(entries: Entries) -> dict[str, Any]:
    """Return the nested object to write, with each level sorted by number."""
    root: dict[str, Any] = {}
    for keys in sorted(entries, key=by_number):
        level = root
        for key in keys[:-1]:
            level = level.setdefault(key, {})
        level[keys[-1]] = dict(entries[keys])
    return root


def in_order(config: WrittenConfig) -> dict[str, int | None]:
    """Return a config with its parameters in writing order."""
    names = sorted(config, key=lambda name: (CONFIG_ORDER.index(name) if name in CONFIG_ORDER else 99, name))
    return {name: None if (value := config[name]) is None else int(value) for name in names}


def missing_lookups(entries: Entries, num_slices: Iterable[int] = ()) -> list[str]:
    """Name the lookups that would be a KeyError inside the engine.

    vLLM moves every key except num_slices to the nearest one. So every num_slices in use must be present under every
    max_loras.

    Args:
        num_slices: values that the model uses, in addition to those found among the entries.
    """
    present: dict[str, set[str]] = {}
    for keys in entries:
        present.setdefault(keys[0], set()).add(keys[1])
    needed = set().union(*present.values(), map(str, num_slices))
    return [
        f"max_loras {max_loras}: there is no entry for num_slices {slices}"
        for max_loras in sorted(present, key=int)
        for slices in sorted(needed - present[max_loras], key=int)
    ]
