"""Restates how vLLM finds a config in a tuned file. Pure functions on parsed JSON.

Each level is looked up exactly, or else by the nearest key: the first in the file's order with the least absolute
difference. Only num_slices must be present. An exact key that holds nothing counts as missing. Keys are turned into
numbers only to find the nearest. So a key that is not a number stops the engine for some problems and not for others.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

EXACT_LEVEL = "num_slices"
"""The level whose key must be present."""


@dataclass(frozen=True, slots=True)
class Found:
    """The entry that a lookup finds.

    Attributes:
        keys: the keys as they stand in the file, outermost first.
        nearest: names of the levels at which a neighbour's key was taken.
        config: the stored value, of any type.
    """

    keys: tuple[str, ...]
    nearest: tuple[str, ...]
    config: Any


@dataclass(frozen=True, slots=True)
class Crash:
    """A lookup that raises inside the engine.

    Attributes:
        level: name of the level at which it raises.
        reason: the reason, in one line.
        keys: the keys that lead there, up to the offending one if a key is at fault.
    """

    level: str
    reason: str
    keys: tuple[str, ...] = ()


def lookup(table: Mapping[str, Any], asked: Mapping[str, int]) -> Found | Crash:
    """Return what vLLM finds in a file, or how it fails.

    Args:
        table: the parsed file.
        asked: the number asked for at each level, by name, outermost first.
    """
    level: Any = table
    keys: tuple[str, ...] = ()
    nearest: tuple[str, ...] = ()
    for name, number in asked.items():
        if not isinstance(level, Mapping):
            return Crash(name, f"there are no {name} keys", keys)
        key = str(number)
        if name == EXACT_LEVEL:
            if key not in level:
                return Crash(name, f"no entry for {name} {number}: a KeyError in the engine", (*keys, key))
        elif not level.get(key):
            odd = first_odd_key(level)
            if odd is not None:
                return Crash(name, bad_key_reason(name, odd), (*keys, odd))
            if not level:
                return Crash(name, f"there are no {name} keys", keys)
            key = min(level, key=lambda candidate: abs(int(candidate) - number))
            if key != str(number):
                nearest = (*nearest, name)
        level = level[key]
        keys = (*keys, key)
    return Found(keys, nearest, level)


def bad_key_reason(level: str, key: str) -> str:
    """Return a message about a key that ``int()`` rejects."""
    return f"the {level} key {key!r} is not a number: int() fails in the engine"


def first_odd_key(keys: Iterable[str]) -> str | None:
    """Return the first key that ``int()`` rejects, or None."""
    for key in keys:
        try:
            int(key)
        except ValueError:
            return key
    return None


def switch_points(keys: Iterable[str], largest: int) -> list[int]:
    """Return the numbers, ascending from 1, at which a lookup may begin to find another entry.

    All numbers from one of them to the next find the same entry, or fail alike. So looking these up is as good as
    looking up every number from 1 to ``largest``.

    Args:
        keys: the keys of one level of a file. Keys that are not numbers are ignored.
    """
    numbers = sorted({int(key) for key in keys if first_odd_key((key,)) is None})
    middles = [(low + high) // 2 for low, high in pairwise(numbers)]
    points = {1, *(point + step for point in (*numbers, *middles) for step in (0, 1))}
    return sorted(point for point in points if 1 <= point <= largest)


def nearest_of(keys: Sequence[int], number: int) -> int:
    """Return the key of a file under which a number is looked up. The keys are in the file's order.

    Raises:
        ValueError: there are no keys.
    """
    return min(keys, key=lambda key: abs(key - number))
