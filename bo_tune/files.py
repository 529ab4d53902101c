"""Files: read within bounds, whoever wrote them, and written in one step, only where they are meant to be.

A reader never sees half of a file.
"""

import errno
import json
import os
import secrets
import stat
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from itertools import chain
from pathlib import Path
from typing import Any, BinaryIO

MOST_BYTES = 64 * 2**20
"""Most bytes of a file that is read whole. For a compressed file, its unpacked size counts."""

MOST_VALUES = 4_000_000
"""Most values of a JSON document. Each takes some hundred bytes of memory."""

MOST_LEVELS = 64
"""Most levels of nested objects and arrays."""

BEYOND = 10**300
"""A bound that no number reaches, and below which each can be turned into a float."""

LONGEST_SHOWN = 60
"""Most characters of a value in a message."""

LONGEST_NAME = 200
"""Most characters of a name that becomes part of a file's, which may have 255 bytes."""

_TEMPORARY_SUFFIX = ".tmp"


def plain_name(name: str) -> str:
    """Return a name that is to become the last part of a path, if it can be that and nothing else.

    Names from files that others wrote (of a GPU, of a kernel) are checked here before a file gets them.

    Raises:
        ValueError: it is empty, leads to another folder, or has characters that cannot be shown.
    """
    if (fault := name_fault(name)) is not None:
        raise ValueError(f"{name!r} cannot be the name of a file: it {fault}")
    return name


def name_fault(name: str) -> str | None:
    """Return why a name cannot be the last part of a path, as the words after "it"; None if it can."""
    if not name.isprintable():
        return "has characters that cannot be shown"
    if len(name) > LONGEST_NAME:
        return f"is longer than {LONGEST_NAME} characters"
    if name in ("", ".", "..") or "/" in name or "\\" in name:
        return "is empty" if not name else "leads to another folder"
    return None


@contextmanager
def opened(path: Path) -> Iterator[BinaryIO]:
    """Open a regular file for reading inside the context.

    Reading a FIFO without a writer would wait forever, and a device never ends.

    Raises:
        OSError: it cannot be opened, or is not a regular file.
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    with os.fdopen(descriptor, "rb") as file:
        mode = os.fstat(descriptor).st_mode
        if stat.S_ISDIR(mode):
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
        if not stat.S_ISREG(mode):
            raise OSError(errno.EINVAL, "Not a regular file", str(path))
        yield file


def read_file(path: Path, most: int = MOST_BYTES) -> bytes:
    """Read a whole file that others wrote.

    Raises:
        OSError: it cannot be read, is not a file, or is too large.
    """
    with opened(path) as file:
        content = file.read(most + 1) or b""  # None if a file in /proc has nothing to say yet
    if len(content) > most:
        raise OSError(errno.EFBIG, f"Larger than {most >> 20} MiB")
    return content


def read_text(path: Path, most: int = MOST_BYTES) -> str:
    """Read a whole text file that others wrote.

    Raises:
        OSError: see ``read_file``.
        ValueError: it is not UTF-8.
    """
    return decoded(read_file(path, most))


def decoded(content: bytes) -> str:
    """Return the text of a file. Raises ValueError unless it is UTF-8 without a byte order mark."""
    try:
        text = content.decode()
    except UnicodeDecodeError:
        raise ValueError("expected UTF-8 text") from None
    if text.startswith("\ufeff"):
        raise ValueError("expected UTF-8 text without a byte order mark")
    return text


def parse_json(content: bytes, *, repeats: bool = False) -> Any:
    """Parse JSON that others wrote, without non-standard numbers.

    Args:
        repeats: whether an object may have a key twice. The last one counts.

    Raises:
        ValueError: it is not JSON, or holds what none of this package's files can. The message is one line.
    """
    text = decoded(content)
    if text.count(",") > MOST_VALUES:
        raise ValueError(f"it has more than {MOST_VALUES} values")
    hook = None if repeats else _without_repeats
    try:
        document = json.loads(text, object_pairs_hook=hook, parse_constant=_reject_constant)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"not JSON: {error}") from None
    for level in levels(document):
        _check_values(level)
    return document


def shown(value: object) -> str:
    """Return a value of a file for a message: in one line, without control characters, and not too long."""
    text = json.dumps(value, default=str)
    return text if len(text) <= LONGEST_SHOWN else text[: LONGEST_SHOWN - 3] + "..."


def levels(document: Any) -> Iterator[list[Any]]:
    """Yield the values of a parsed document by level, outermost first. Raises ValueError if it nests too deeply."""
    level = [document]
    for _ in range(MOST_LEVELS):
        yield level
        objects = [value for value in level if type(value) is dict]
        arrays = [value for value in level if type(value) is list]
        level = [*chain.from_iterable([*objects, *arrays]), *chain.from_iterable(map(dict.values, objects))]
        if not level:
            return
    raise ValueError(f"it has more than {MOST_LEVELS} levels of nesting")


def _check_values(values: Sequence[object]) -> None:
    numbers = [value for value in values if type(value) is float or type(value) is int]
    if numbers and not -BEYOND < min(numbers) <= max(numbers) < BEYOND:
        raise ValueError("a number is out of bounds")
    try:
        "".join([value for value in values if type(value) is str]).encode()
    except UnicodeEncodeError:
        raise ValueError("a text holds half a character (a lone surrogate)") from None


def _without_repeats(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        (twice, _), *_ = Counter(name for name, _ in pairs).most_common(1)
        raise ValueError(f"the key {twice!r} occurs twice in one object")
    return found


def _reject_constant(name: str) -> None:
    raise ValueError(f"{name} is not a number")


def resolved(path: Path) -> Path:
    """Return the target of a path. For links in a circle it is one of them, which then cannot be opened."""
    return Path(os.path.realpath(path))


def write_atomically(path: Path, content: bytes) -> None:
    """Write content to a path in one step. Raises like ``atomically``."""
    with atomically(path) as file:
        file.write(content)


@contextmanager
def atomically(path: Path) -> Iterator[BinaryIO]:
    """Write a file in one step: to a temporary file in the same folder, which is flushed to disk and then renamed.

    A kill at any instant leaves either the old file or the new one. An existing file keeps its permissions, and a new
    one follows the umask. A symbolic link is followed, not replaced. Anything that is not a file, such as a pipe or
    /dev/null, is written to directly, because renaming would put a file in its place.

    Raises:
        OSError: the folder cannot be written or is full. The temporary file is removed, and the old file is unchanged.
    """
    if path.exists() and not path.is_file():
        with os.fdopen(_open_special(path), "wb") as file:
            yield file
        return
    target = resolved(path)
    with _temporary(target) as (file, temporary):
        if target.exists():
            os.fchmod(file.fileno(), target.stat().st_mode & 0o7777)
        yield file
        file.flush()
        os.fsync(file.fileno())
        temporary.replace(target)
    _flush_folder(target.parent)


def check_file_writable(path: Path) -> None:
    """Find out whether ``atomically`` could write a file, and change nothing except that its folder is created.

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
        return  # a reader of the pipe must not see its end too early
    with _temporary(resolved(path)) as (file, _):
        file.write(b"\n" * 4096)


def _open_special(path: Path) -> int:
    """Open something that is not a regular file for writing, without waiting. A FIFO without a reader fails."""
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
    """Open a new file beside another, and remove it in the end. Nobody can have put a link in its place."""
    path = target.with_name(f".{target.name}.{os.getpid()}-{secrets.token_hex(4)}{_TEMPORARY_SUFFIX}")
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o666)
    try:
        with os.fdopen(descriptor, "wb") as file:
            yield file, path
    finally:
        with suppress(FileNotFoundError):  # renamed
            path.unlink()


def remove_stale_temporaries(path: Path) -> None:
    """Remove files that killed processes left from writing this file. Call it under the file's lock."""
    target = resolved(path)
    for other in target.parent.iterdir():
        if other.name.startswith(f".{target.name}.") and other.name.endswith(_TEMPORARY_SUFFIX):
            other.unlink(missing_ok=True)


def os_error_text(error: OSError) -> str:
    """Return the system's message for an error, without numbers and paths: ``No space left on device``."""
    return error.strerror or str(error) or type(error).__name__


def os_error_line(error: OSError) -> str:
    """Return the system's message for an error, with the path if known: ``closed/x: Permission denied``."""
    place = os.fsdecode(error.filename) if isinstance(error.filename, str | bytes) else None
    return os_error_text(error) if place is None else f"{place}: {os_error_text(error)}"


def _flush_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
