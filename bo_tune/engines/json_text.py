"""JSON as tuned files and their sidecars hold it: parsed strictly, and written."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from bo_tune.errors import TableError
from bo_tune.files import os_error_text, parse_json, read_file


def read_bytes(path: Path) -> bytes:
    """Read a file within bounds. Raises TableError."""
    try:
        return read_file(path)
    except OSError as error:
        raise TableError(f"{path}: {os_error_text(error)}") from None
    except ValueError as error:
        raise TableError(f"{path}: {error}") from None


def parse_strictly(text: bytes, path: Path) -> Any:
    """Parse what a file holds: no key twice, no NaN. Raises TableError."""
    try:
        return parse_json(text)
    except ValueError as error:
        raise TableError(f"{path}: {error}") from None


def json_bytes(document: Mapping[str, Any]) -> bytes:
    """Return a document as it is written."""
    return (json.dumps(document, indent=2, allow_nan=False) + "\n").encode()


def kind_of(value: object) -> str:
    """Return what a value of a file is, as a message says it."""
    if isinstance(value, dict):
        return "an object" if value else "an empty object"
    return "an array" if isinstance(value, list) else json.dumps(value)[:60]
