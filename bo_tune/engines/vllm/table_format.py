"""The nested JSON of tuned configs in pieces: parsed strictly, flattened, and turned back into text."""

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from bo_tune.errors import TableError
from bo_tune.files import os_error_text, parse_json, read_file

_DECIMAL = re.compile(r"0|[1-9][0-9]{0,17}")


def read_json(path: Path) -> Any:
    """Parse a file strictly: no key twice, no NaN. Raises TableError."""
    try:
        return parse_json(read_file(path))
    except OSError as error:
        raise TableError(f"{path}: {os_error_text(error)}") from None
    except ValueError as error:
        raise TableError(f"{path}: {error}") from None


def flatten(
    level: Mapping[str, Any], names: Sequence[str], above: tuple[str, ...], path: Path
) -> Iterator[tuple[tuple[str, ...], dict[str, int | None]]]:
    """Yield the configs of a parsed table with the keys that lead to them.

    Args:
        names: what the keys are, outermost first.
        above: the keys that lead to ``level``.

    Raises:
        TableError: it is malformed. One line, with the file and the place in it.
    """
    name = names[len(above)]
    for key, value in level.items():
        keys = (*above, key)
        place = f"{path}: {'/'.join(keys)}"
        if not _DECIMAL.fullmatch(key):
            raise TableError(f"{place}: expected a decimal number as {name} key, got {key!r}")
        if not isinstance(value, dict) or not value:
            raise TableError(f"{place}: expected a non-empty object, got {kind_of(value)}")
        if len(keys) < len(names):
            yield from flatten(value, names, keys, path)
        else:
            _check_config(value, place)
            yield keys, value


def _check_config(config: Mapping[str, Any], place: str) -> None:
    for name, value in config.items():
        if value is not None and type(value) is not int:
            raise TableError(f"{place}: {name}: expected an integer, got {kind_of(value)}")


def kind_of(value: object) -> str:
    """Return what a value of a file is, as a message says it."""
    if isinstance(value, dict):
        return "an object" if value else "an empty object"
    return "an array" if isinstance(value, list) else json.dumps(value)[:60]


def by_number(keys: tuple[str, ...]) -> tuple[tuple[int, str], ...]:
    """Return what sorts keys by their numbers."""
    return tuple((int(key) if key.isdecimal() else 0, key) for key in keys)


def json_bytes(document: Mapping[str, Any]) -> bytes:
    """Return a document as it is written."""
    return (json.dumps(document, indent=2, allow_nan=False) + "\n").encode()
