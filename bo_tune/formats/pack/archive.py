"""The file of a pack: a zip archive of a manifest and of entries of Triton's cache.

The manifest alone decides what is written on unpacking, and its names are checked to be plain. The names and types of
the archive's members decide nothing. So nothing is ever written outside the folder. Sizes are known beforehand and
digests are checked, so an archive can neither be swapped for another nor grow.
"""

import hashlib
import json
import tempfile
import zipfile
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from bo_tune.errors import PackError, one_line
from bo_tune.files import atomically, opened, os_error_text
from bo_tune.formats.pack.contents import (
    MACHINE_CODE,
    MOST_FILE_BYTES,
    Manifest,
    PackedBinary,
    PackedFile,
    from_json,
    to_json,
)

MANIFEST = "manifest.json"
ENTRIES = "cache"
GROUP_PREFIX = "__grp__"
"""Prefix of the file in which Triton lists an entry's files, with their absolute paths."""

MOST_MANIFEST_BYTES = 128 * 2**20
MOST_UNPACKED_BYTES = 16 * 2**30

_DAMAGE = (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError, ValueError, KeyError)
"""Errors of the zip module for archives that are damaged, encrypted or packed in an unknown way."""


def write_pack(path: Path, manifest: Manifest, cache: Path) -> None:
    """Write a pack in one step. A reader sees the old file or the new one.

    Args:
        cache: folder of Triton's cache that holds the entries of the manifest.

    Raises:
        PackError: it cannot be written, or an entry differs from the manifest.
    """
    try:
        with atomically(path) as file, zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr(MANIFEST, to_json(manifest))
            for entry, name, expected in _files(manifest.binaries):
                content = (cache / entry / name).read_bytes()
                archive.writestr(f"{ENTRIES}/{entry}/{name}", _checked(content, expected, f"{entry}/{name}"))
    except OSError as error:
        raise PackError(f"{path}: cannot be written: {os_error_text(error)}") from None


def read_manifest(path: Path) -> Manifest:
    """Read the manifest of a pack.

    Raises:
        PackError: it cannot be read, is damaged, or is not a pack.
    """
    with _opened(path) as archive:
        return _manifest(archive)


def unpack(path: Path, folder: Path) -> Manifest:
    """Write a pack's entries into a folder of Triton's cache, except those that exist already.

    Raises:
        PackError: it cannot be read or is damaged. All entries written before are whole.
    """
    with _opened(path) as archive, tempfile.TemporaryDirectory(prefix=".unpacking-", dir=folder) as half:
        manifest = _manifest(archive)
        for binary in manifest.binaries:
            for entry, files in binary.entries.items():
                if not (folder / entry).is_dir():
                    _unpack_entry(archive, entry, files, Path(half)).rename(folder / entry)
        return manifest


def files_of(folder: Path) -> dict[str, PackedFile]:
    """Describe the files of an entry of Triton's cache that are packed: machine code, and Triton's description of it.

    Raises:
        OSError: the folder cannot be read.
    """
    contents = {path.name: path.read_bytes() for path in sorted(folder.iterdir()) if _is_worth_packing(path)}
    return {name: _describe(content) for name, content in contents.items()}


def group(folder: Path, names: Iterable[str]) -> tuple[str, bytes]:
    """Return name and content of the file in which Triton lists an entry's files, for an entry in this folder."""
    listed = sorted(names)
    title = next(name for name in listed if name.endswith(".json"))
    paths = {name: str(folder / name) for name in listed}
    return f"{GROUP_PREFIX}{title}", json.dumps({"child_paths": paths}).encode()


def _is_worth_packing(path: Path) -> bool:
    return path.suffix in (".json", *MACHINE_CODE) and not path.name.startswith(GROUP_PREFIX)


def _describe(content: bytes) -> PackedFile:
    return PackedFile(len(content), hashlib.sha256(content).hexdigest())


def _checked(content: bytes, expected: PackedFile, place: str) -> bytes:
    if _describe(content) != expected:
        raise PackError(f"{place} differs from the manifest")
    return content


def _files(binaries: Sequence[PackedBinary]) -> Iterator[tuple[str, str, PackedFile]]:
    """Yield entry, name and description of every file, each once."""
    named = {entry: files for binary in binaries for entry, files in binary.entries.items()}
    return ((entry, name, file) for entry, files in named.items() for name, file in files.items())


@contextmanager
def _opened(path: Path) -> Iterator[zipfile.ZipFile]:
    try:
        with opened(path) as file, zipfile.ZipFile(file) as archive:
            yield archive
    except PackError as error:
        raise PackError(f"{path}: {error}") from None
    except OSError as error:
        raise PackError(f"{path}: {os_error_text(error)}") from None
    except _DAMAGE as error:
        raise PackError(f"{path}: this pack is damaged, or it is not a pack: {one_line(error)}") from None


def _manifest(archive: zipfile.ZipFile) -> Manifest:
    """Read the manifest, and check that the archive holds the files that it names and nothing else."""
    if MANIFEST not in archive.namelist():
        raise PackError(f"this is not a pack: it has no {MANIFEST}")
    manifest = from_json(Manifest, _read(archive, MANIFEST, MOST_MANIFEST_BYTES))
    expected = {f"{ENTRIES}/{entry}/{name}" for entry, name, _ in _files(manifest.binaries)}
    if sum(file.size for _, _, file in _files(manifest.binaries)) > MOST_UNPACKED_BYTES:
        raise PackError(f"this pack holds more than {MOST_UNPACKED_BYTES >> 30} GiB")
    found = set(archive.namelist()) - {MANIFEST}
    if expected != found:
        odd = min(expected ^ found)
        raise PackError(f"{odd!r} is {'missing' if odd in expected else 'not in the manifest'}")
    return manifest


def _read(archive: zipfile.ZipFile, member: str, most_bytes: int) -> bytes:
    """Read one member up to its allowed length. The size in its header may be a lie."""
    with archive.open(member) as file:
        content = file.read(most_bytes + 1)
    if len(content) > most_bytes:
        raise PackError(f"{member!r} is longer than {most_bytes} B")
    return content


def _unpack_entry(archive: zipfile.ZipFile, entry: str, files: Mapping[str, PackedFile], folder: Path) -> Path:
    """Write one entry, to be moved to the folder above.

    The list of its files is written anew, because it holds absolute paths.
    """
    endings = {Path(name).suffix for name in files}
    if ".json" not in endings or endings.isdisjoint(MACHINE_CODE):
        raise PackError(f"{entry} has no machine code, or no description of it")
    half = folder / entry
    half.mkdir()
    for file, expected in files.items():
        content = _read(archive, f"{ENTRIES}/{entry}/{file}", min(expected.size, MOST_FILE_BYTES))
        (half / file).write_bytes(_checked(content, expected, f"{entry}/{file}"))
    listing, text = group(folder.parent / entry, files)
    (half / listing).write_bytes(text)
    return half
