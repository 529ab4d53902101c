"""Tests for ``bo-tune doctor``, in a process that may hang, whether a database of studies can be opened and written.

The first line of stdin is the URL, since a list of processes would show its password. It prints lines of JSON:
``studies`` (their number; null if there is no database yet, but one could be created) or ``fault``.
"""

import json
import os
import sys
from pathlib import Path
from typing import Any

from bo_tune.errors import StorageError
from bo_tune.store.connection.sqlite_file import check_file, plain_file, refuse_network
from bo_tune.store.connection.url import shown


def main() -> None:
    """Print the answer. Missing tables on a server are created, as ``tune`` would do. A missing file is not."""
    url = sys.stdin.readline().strip()
    try:
        found: dict[str, Any] = {"studies": _studies(url)}
    except StorageError as error:
        found = {"fault": str(error)}
    sys.stdout.write(json.dumps(found) + "\n")


def _studies(url: str) -> int | None:
    file = plain_file(url)
    if file is not None and not file.exists():
        _check_place(shown(url), file)
        return None
    from bo_tune.store.storage import StudyStore  # noqa: PLC0415 - most of a second, and not for a file to come

    with StudyStore(url, create=False) as store:
        return len(store.names())


def _check_place(place: str, file: Path) -> None:
    refuse_network(place, file)
    check_file(place, file, create=True)
    if not os.access(file.parent, os.W_OK):
        raise StorageError(f"{place}: nothing can be written to {file.parent}")
