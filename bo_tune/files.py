"""Writing files so that a reader never sees half of one, and only where they are meant to be."""

import errno
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock

_TEMPORARY_SUFFIX = ".tmp"


def plain_name(name: str) -> str:
    """Return a name that is to become the last part of a path, if it can be that and nothing else.

    What stands in files that others wrote (a GPU's name, a kernel's) goes through here before a file is named by it.

    Raises:
        ValueError: it is empty, leads to another folder, or holds what cannot be shown.
    """
    if (fault := name_fault(name)) is not None:
        raise ValueError(f"{name!r} cannot be the name of a file: it {fault}")
    return name


def name_fault(name: str) -> str | None:
    """Return why a name cannot be the last part of a path, if so, as what follows "it"."""
    if not name.isprintable():
        return "holds what cannot be shown"
    if name in ("", ".", "..") or "/" in name or "\\" in name:
        return "is empty" if not name else "leads to another folder"
    return None


@contextmanager
def locked(path: Path, timeout_s: float) -> Iterator[None]:
    """Hold the lock of a file while it lasts: that of the file behind a link, and never one that is itself a link.

    Raises:
        TimeoutError: another process held it for ``timeout_s``.
        OSError: the lock cannot be made, or is a link.
    """
    target = path.resolve()
    lock = target.with_name(f".{target.name}.lock")
    if lock.is_symlink():  # The lock would not follow it either, but with words that tell nobody what to do.
        raise OSError(errno.ELOOP, f"its lock {lock.name} is a link; remove it")
    with FileLock(lock, timeout=timeout_s):
        yield


def write_atomically(path: Path, content: bytes) -> None:
    """Put content at path in one step: a temporary file in the same folder, flushed to disk, then renamed.

    Killing the process at any instant leaves either the old file or the new one. A file that was there keeps
    its permissions, a new one follows the umask; a symbolic link is followed, not replaced. What is no file, as a
    pipe or /dev/null, is written to: renaming would put a file in its place.

    Raises:
        OSError: the folder cannot be written or is full. The temporary file is removed, the old file is as it was.
    """
    target = path.resolve()
    if target.exists() and not target.is_file():
        target.write_bytes(content)
        return
    temporary = target.with_name(f".{target.name}.{os.getpid()}-{secrets.token_hex(4)}{_TEMPORARY_SUFFIX}")
    try:
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666)
        with os.fdopen(descriptor, "wb") as file:
            if target.exists():
                os.fchmod(file.fileno(), target.stat().st_mode & 0o7777)
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(target)
    finally:
        temporary.unlink(missing_ok=True)  # gone already, unless something went wrong
    _flush_folder(target.parent)


def remove_stale_temporaries(path: Path) -> None:
    """Remove what killed processes left of writing this file. Call it under the file's lock."""
    target = path.resolve()
    for other in target.parent.iterdir():
        if other.name.startswith(f".{target.name}.") and other.name.endswith(_TEMPORARY_SUFFIX):
            other.unlink(missing_ok=True)


def os_error_text(error: OSError) -> str:
    """Return what the system says of an error, without numbers and paths: ``No space left on device``."""
    return error.strerror or type(error).__name__


def _flush_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
