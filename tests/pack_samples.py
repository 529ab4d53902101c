"""Packs for tests, without anything compiled."""

import hashlib
import json
import zipfile
from collections.abc import Mapping
from pathlib import Path

from helpers import H100

from bo_tune.core.outcome import InvalidReason, Resources
from bo_tune.core.problem import LoraProblem
from bo_tune.formats.pack.archive import files_of, write_pack
from bo_tune.formats.pack.contents import Manifest, PackedBinary, PackedFile, to_json
from bo_tune.formats.pack.identity import Identity, KernelText, Toolchain

PROBLEM = LoraProblem("lora_shrink", 4, 1, 16, 4096, 16)
CONFIG = {
    "block_m": 16, "block_n": 32, "block_k": 64, "num_warps": 4, "num_stages": 2, "split_k": 8, "num_ctas": 1
}  # fmt: skip
IDENTITY = Identity(
    Toolchain("3.6.0", "ab", "12.8 (ab)", "CPython 3.12"),
    "cuda:90",
    "bo_tune.kernels.operations",
    {"lora_shrink": KernelText("bo_tune 1", "d1")},
)
ENTRY = "A" * 52
FILES = {"k.json": b'{"name": "k"}', "k.cubin": b"\x7fELF" + bytes(range(256)) * 20}
OTHER = {"k.json": b"{}", "k.cubin": b"other"}


def described(files: Mapping[str, bytes]) -> dict[str, PackedFile]:
    return {name: PackedFile(len(text), hashlib.sha256(text).hexdigest()) for name, text in files.items()}


def binary(entry: str = ENTRY, files: Mapping[str, bytes] = FILES, **config: int) -> PackedBinary:
    """A binary that is there."""
    return PackedBinary(PROBLEM, {**CONFIG, **config}, 0.5, Resources(1024, 32, 0), 10, entry, described(files))


def failure() -> PackedBinary:
    """A binary that cannot be."""
    return PackedBinary(PROBLEM, CONFIG, 0.1, reason=InvalidReason.COMPILE_ERROR, detail="no")


def manifest(*binaries: PackedBinary) -> Manifest:
    return Manifest(IDENTITY, H100, "study", binaries)


def cache_folder(folder: Path, **entries: Mapping[str, bytes]) -> Path:
    """Write entries of Triton's cache, as Triton would."""
    for entry, files in entries.items():
        (folder / entry).mkdir(parents=True)
        for name, text in files.items():
            (folder / entry / name).write_bytes(text)
        group = {"child_paths": {name: f"/elsewhere/{entry}/{name}" for name in files}}
        (folder / entry / "__grp__k.json").write_text(json.dumps(group))
        (folder / entry / "k.source").write_text("source")
    return folder


def sample_pack(folder: Path) -> Path:
    """Write a pack of two binaries and one that cannot be."""
    cache = cache_folder(folder / "made", **{ENTRY: FILES, "B" * 52: OTHER})
    assert files_of(cache / ENTRY) == described(FILES)
    path = folder / "sample.pack"
    write_pack(path, manifest(binary(), binary("B" * 52, OTHER, block_m=32), failure()), cache)
    return path


def zipped(path: Path, members: Mapping[str | zipfile.ZipInfo, bytes], *binaries: PackedBinary) -> Path:
    """Write an archive by hand: a manifest of these binaries, and these members."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("manifest.json", to_json(manifest(*binaries)))
        for name, text in members.items():
            archive.writestr(name, text, zipfile.ZIP_DEFLATED)
    return path
