"""The lock of a file that several processes may merge results into."""

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock

from bo_tune.files import resolved


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
    target = resolved(path)
    lock = target.with_name(f".{target.name}.lock")
    if lock.is_symlink():  # The lock would not follow it either, but with words that tell nobody what to do.
        raise OSError(errno.ELOOP, f"its lock {lock.name} is a link; remove it")
    if lock.exists() and not os.access(lock, os.R_OK | os.W_OK):
        raise PermissionError(errno.EACCES, f"its lock {lock.name} is another user's; have it removed")
    return lock
