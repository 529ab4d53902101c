"""What decides on this host under which names studies are measured, told without starting a GPU or a compiler.

A study is named by what the GPU says of itself, by which code of the kernel there is, and by the versions of Triton,
its assembler and torch. All of it is asked of child processes, which take seconds to start. A finished study needs none
of them: what they said last time holds for as long as nothing has changed that they could say something else of. Here
that is one digest: of the files that would be imported, the environment, the driver and the GPUs themselves. Where any
of this cannot be told there is no digest, and the children are asked.
"""

import hashlib
import json
import os
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib import metadata
from importlib.util import find_spec
from math import inf
from stat import S_ISREG

from bo_tune.measure.backends.base import Backend, GpuIdentity
from bo_tune.measure.source import BUILTIN, SGLANG, VLLM

PACKAGES: Mapping[str, tuple[str, ...]] = {
    BUILTIN: ("bo_tune", "triton", "torch"),
    VLLM: ("bo_tune", "triton", "torch", "vllm"),
    SGLANG: ("bo_tune", "triton", "torch", "sglang"),
}
"""The packages that decide, by kernel source. What a script of a user's imports is not known: it has no digest."""

SHALLOW = ("torch",)
"""Packages of which the version alone counts, and not each of ten thousand files: the top folder, and the libraries."""

LIBRARIES = "lib"

DIGITS = 32

COMPILED = "__pycache__"
"""Folders that come and go with the files beside them."""

_DECIDES = re.compile(r"CUDA|NVIDIA|NVPTX|TRITON|TORCH|VLLM|PTXAS|LLVM|MLIR|AMD|HIP|ROC|DISABLE_|^LD_|^PYTHON|^PATH$")
"""Variables of which torch, Triton and vLLM read some."""


@dataclass(frozen=True, slots=True)
class HostState:
    """The state of a host in which devices were opened.

    Attributes:
        digest: see ``host_digest``.
        gpus: the names of the types of GPU that were opened together.
    """

    digest: str
    gpus: tuple[str, ...]


def host_digest(
    vendor: Backend, source: str, gpus: Sequence[GpuIdentity | None], *, unchanged_since: float = inf
) -> str | None:
    """Return a digest of what decides on studies' names here; None where something of it cannot be told.

    Args:
        source: the kernel source, see ``measure.source``.
        gpus: those that are to measure.
        unchanged_since: seconds of ``time.time``. There is no digest of files that have changed since: a process that
            was started then may have imported what was there before.
    """
    driver = vendor.driver_release()
    uuids = [gpu.uuid for gpu in gpus if gpu is not None and gpu.uuid]
    packages = PACKAGES.get(source, ())
    if driver is None or not packages or not uuids or len(uuids) < len(gpus):
        return None
    told = hashlib.sha256()
    for name in packages:
        folders = _folders(name)
        if not folders:
            return None
        told.update(repr((name, _version(name), folders)).encode())
        for folder in folders:
            for path, state in _files(folder, deep=name not in SHALLOW):
                if state is not None and state.st_ctime > unchanged_since:
                    return None
                told.update(_line(path, state))
    rest = [driver, vendor.name, source, sorted(uuids), sys.version, sys.executable, sys.path]
    told.update(json.dumps(rest).encode())
    for line in _variables():
        told.update(line)
    return told.hexdigest()[:DIGITS]


def _folders(package: str) -> list[str]:
    """Return the folders from which a package would be imported, without importing it."""
    try:
        found = find_spec(package)
    except (ImportError, ValueError):
        return []
    return list((found.submodule_search_locations if found is not None else None) or ())


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return ""


def _files(folder: str, *, deep: bool) -> Iterator[tuple[str, os.stat_result | None]]:
    """Yield the files of a folder, in an order of their own, each with its state; none for one that cannot be asked."""
    for here, folders, names in os.walk(folder):
        folders[:] = sorted(name for name in folders if name != COMPILED and (deep or name == LIBRARIES))
        for name in sorted(names):
            path = os.path.join(here, name)  # noqa: PTH118 - thousands of them
            yield path, _state(path)


def _state(path: str) -> os.stat_result | None:
    try:
        return os.stat(path)  # noqa: PTH116 - thousands of them
    except OSError:
        return None


def _line(path: str, state: os.stat_result | None) -> bytes:
    """Return what tells a file from what it was before. The time of its last change no package manager sets back."""
    numbers = (state.st_size, state.st_mtime_ns, state.st_ctime_ns) if state is not None else ()
    return repr((path, numbers)).encode()


def _variables() -> Iterator[bytes]:
    """Yield the variables that decide; of one that names a file, that one's state too."""
    for name in sorted(filter(_DECIDES.search, os.environ)):
        value = os.environ[name]
        state = _state(value)
        yield _line(f"{name}={value}", state if state is not None and S_ISREG(state.st_mode) else None)
