"""The file of a SQLite database: where it may lie, and how to read it if nothing may be written."""

import os
import re
from pathlib import Path

from bo_tune.errors import StorageError
from bo_tune.files import resolved

SQLITE_HEADER_BYTES = 100
"""Size of a database file's header. A shorter file is as good as none: whoever opens it would create a database in
it."""

LOG, INDEX = "-wal", "-shm"
"""Files that writers keep beside a database: the log of changes that are not in it yet, and the log's index."""

NETWORK_FILESYSTEM = re.compile(
    "nfs4?|cifs|smb[23]?|smbfs|ncpfs|afs|coda|ceph|lustre|gpfs|beegfs|glusterfs|orangefs|pvfs2|davfs"
    r"|fuse\.(sshfs|glusterfs|ceph|ceph-fuse|s3fs|gcsfuse|rclone|juicefs|smbnetfs|davfs2)"
)
"""File systems that several hosts may share, by the kernel's names. SQLite's locks do not hold there."""

_MOUNTS = Path("/proc/mounts")

_PLAIN_URL = re.compile(r"sqlite:///(?!file:)(?!.*:memory:)([^?]+)", re.DOTALL)


def plain_file(url: str) -> Path | None:
    """Return the file that a URL names, or None if the URL says anything more."""
    found = _PLAIN_URL.fullmatch(url)
    return Path(found[1]).absolute() if found else None


def network_filesystem(path: Path, mounts: str) -> str | None:
    """Return the type of the file system that holds a path if hosts share such file systems, else None.

    Args:
        mounts: the content of ``/proc/mounts``.
    """
    best, found = -1, None
    for line in mounts.splitlines():
        words = line.split()
        if len(words) < 3:
            continue
        point = Path(words[1].replace("\\040", " "))
        if path.is_relative_to(point) and len(point.parts) >= best:
            best, found = len(point.parts), words[2]
    return found if found and NETWORK_FILESYSTEM.fullmatch(found) else None


def refuse_network(place: str, file: Path) -> None:
    """Refuse a file on a file system where SQLite's locks do not hold."""
    try:
        mounts = _MOUNTS.read_text()
    except OSError:  # not Linux, so nothing is known
        return
    kind = network_filesystem(resolved(file), mounts)
    if kind is not None:
        raise StorageError(
            f"{place}: SQLite is not safe on a network file system ({kind}); "
            "keep it on a local disk, or use a server: postgresql+psycopg://USER@HOST/DATABASE"
        )


def check_file(place: str, file: Path | None, *, create: bool) -> None:
    """Refuse a path that is no file, or a missing file that cannot or must not be created."""
    if file is not None and file.exists() and not file.is_file():
        raise StorageError(f"{place}: expected a file")
    if file is not None and not file.exists():
        if not create:
            raise StorageError(f"{place}: no such database")
        if not file.parent.is_dir():
            raise StorageError(f"{place}: the folder {file.parent} does not exist")
    elif file is not None and not create and file.stat().st_size < SQLITE_HEADER_BYTES:
        raise StorageError(f"{place}: this is an empty file, not a database")


def may_be_written(file: Path) -> bool:
    """Say whether a database may be written: the file itself, if it exists, and its folder."""
    return os.access(file.parent, os.W_OK) and (not file.exists() or os.access(file, os.W_OK))


def reading(file: Path) -> dict[str, str]:
    """Return the URI's parameters for reading a database that may not be written.

    SQLite reads a database with a log only if it finds the log's index or can create it. Without either, nobody is
    writing, and we tell SQLite that it needs none.
    """
    log, index = (file.with_name(file.name + suffix) for suffix in (LOG, INDEX))
    at_rest = not index.exists() and not (log.exists() and log.stat().st_size)
    return {"mode": "ro", **({"immutable": "1"} if at_rest else {})}
