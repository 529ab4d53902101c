"""The JSON of tuned files and their sidecars: strict parsing, and writing."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from bo_tune.errors import TableError
from bo_tune.files import os_error_text, parse_json, read_file


def read_bytes(path: Path) -> bytes:
    """Read a file up to a size limit. Raises TableError."""
    try:
        return read_file(path)
    except OSError as error:
        raise TableError(f"{path}: {os_error_text(error)}") from None
    except ValueError as error:
        raise TableError(f"{path}: {error}") from None


def parse_strictly(text: bytes, path: Path) -> Any:
    """Parse the text of a file. Duplicate keys and NaN are errors. Raises TableError."""
    try:
        return parse_json(text)
    except ValueError as error:
        raise TableError(f"{path}: {error}") from None


def json_bytes(document: Mapping[str, Any]) -> bytes:
    """Return the text of a document."""
    return (json.dumps(document, indent=2, allow_nan=False) + "\n").encode()


def kind_of(value: object) -> str:
    """Describe the kind of a value for a message."""
    if isinstance(value, dict):
        return "an object" if value else "an empty object"
    return "an array" if isinstance(value, list) else json.dumps(value)[:60]
