"""Files: read if they are any, written so that a reader never sees half of one, and only where they are meant to be."""

import errno
import os
import secrets
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

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
def opened(path: Path) -> Iterator[BinaryIO]:
    """Open a regular file for reading while it lasts. A FIFO without a writer would be waited for without an end, and a
    device never ends.

    Raises:
        OSError: it cannot be opened, or is no regular file.
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    with os.fdopen(descriptor, "rb") as file:
        mode = os.fstat(descriptor).st_mode
        if stat.S_ISDIR(mode):
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
        if not stat.S_ISREG(mode):
            raise OSError(errno.EINVAL, "Not a regular file", str(path))
        yield file


def read_file(path: Path) -> bytes:
    """Return what is in a regular file. Raises like ``opened``."""
    with opened(path) as file:
        return file.read() or b""  # None where the kernel, which /proc is asked of, has nothing to say yet


@contextmanager
def locked(path: Path, timeout_s: float) -> Iterator[None]:
    """Hold the lock of a file while it lasts: that of the file behind a link, and never one that is itself a link.

    Raises:
        TimeoutError: another process held it for ``timeout_s``.
        OSError: the lock cannot be made, or is a link.
    """
    with FileLock(check_lock(path), timeout=timeout_s):
        yield


def check_lock(path: Path) -> Path:
    """Return the path of a file's lock. Raises OSError where it is there and could not be taken."""
    target = path.resolve()
    lock = target.with_name(f".{target.name}.lock")
    if lock.is_symlink():  # The lock would not follow it either, but with words that tell nobody what to do.
        raise OSError(errno.ELOOP, f"its lock {lock.name} is a link; remove it")
    if lock.exists() and not os.access(lock, os.R_OK | os.W_OK):
        raise PermissionError(errno.EACCES, f"its lock {lock.name} is another user's; have it removed")
    return lock


def write_atomically(path: Path, content: bytes) -> None:
    """Put content at path in one step. Raises like ``atomically``."""
    with atomically(path) as file:
        file.write(content)


@contextmanager
def atomically(path: Path) -> Iterator[BinaryIO]:
    """Have a file written in one step: to a temporary one in the same folder, flushed to disk, then renamed.

    Killing the process at any instant leaves either the old file or the new one. A file that was there keeps
    its permissions, a new one follows the umask; a symbolic link is followed, not replaced. What is no file, as a
    pipe or /dev/null, is written to: renaming would put a file in its place.

    Raises:
        OSError: the folder cannot be written or is full. The temporary file is removed, the old file is as it was.
    """
    if path.exists() and not path.is_file():
        with os.fdopen(_open_special(path), "wb") as file:
            yield file
        return
    target = path.resolve()
    with _temporary(target) as (file, temporary):
        if target.exists():
            os.fchmod(file.fileno(), target.stat().st_mode & 0o7777)
        yield file
        file.flush()
        os.fsync(file.fileno())
        temporary.replace(target)
    _flush_folder(target.parent)


def check_file_writable(path: Path) -> None:
    """Find out whether ``atomically`` could write a file, and leave everything as it is, but for its folder: that is
    made.

    Raises:
        OSError: it could not.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except FileExistsError as error:
        raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), error.filename) from None
    if path.is_dir():
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
    if path.exists() and not path.is_file():
        if not os.access(path, os.W_OK):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))
        return  # nobody is to read an end of file from a pipe before its time
    with _temporary(path.resolve()) as (file, _):
        file.write(b"\n" * 4096)


def _open_special(path: Path) -> int:
    """Open what is no regular file for writing, if that can be done at once: a FIFO nobody reads cannot."""
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        if error.errno == errno.ENXIO:
            error.strerror = "Nobody reads from it"
        raise
    os.set_blocking(descriptor, True)
    return descriptor


@contextmanager
def _temporary(target: Path) -> Iterator[tuple[BinaryIO, Path]]:
    """Open a new file beside another, which is removed in the end. Nobody can have put a link in its place."""
    path = target.with_name(f".{target.name}.{os.getpid()}-{secrets.token_hex(4)}{_TEMPORARY_SUFFIX}")
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o666)
    try:
        with os.fdopen(descriptor, "wb") as file:
            yield file, path
    finally:
        with suppress(FileNotFoundError):  # renamed
            path.unlink()


def remove_stale_temporaries(path: Path) -> None:
    """Remove what killed processes left of writing this file. Call it under the file's lock."""
    target = path.resolve()
    for other in target.parent.iterdir():
        if other.name.startswith(f".{target.name}.") and other.name.endswith(_TEMPORARY_SUFFIX):
            other.unlink(missing_ok=True)


def os_error_text(error: OSError) -> str:
    """Return what the system says of an error, without numbers and paths: ``No space left on device``."""
    return error.strerror or str(error) or type(error).__name__


def os_error_line(error: OSError) -> str:
    """Return what the system says of an error, with the path if one is known: ``closed/x: Permission denied``."""
    place = os.fsdecode(error.filename) if isinstance(error.filename, str | bytes) else None
    return os_error_text(error) if place is None else f"{place}: {os_error_text(error)}"


def _flush_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
