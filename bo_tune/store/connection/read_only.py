"""Reading a SQLite database where nothing may be written: the file, its folder or the mount allows reading only."""

import os
from pathlib import Path
from urllib.parse import quote

from sqlalchemy.engine import URL

LOG, INDEX = "-wal", "-shm"
"""What writers have beside a database: what is not yet in it, and where that is."""


def may_be_written(file: Path) -> bool:
    """Say whether a database may be written: it, if it is there, and beside it."""
    return os.access(file.parent, os.W_OK) and (not file.exists() or os.access(file, os.W_OK))


def reading(url: URL, file: Path) -> URL:
    """Return the URL by which to read a database that may not be written.

    SQLite reads a database with a log only where it finds or can make the log's index. Without either nobody is
    writing, and SQLite is told to want none.
    """
    log, index = (file.with_name(file.name + suffix) for suffix in (LOG, INDEX))
    at_rest = not index.exists() and not (log.exists() and log.stat().st_size)
    options = {"uri": "true", "mode": "ro", **({"immutable": "1"} if at_rest else {})}
    return url.set(database=f"file:{quote(str(file))}", query={**url.query, **options})
