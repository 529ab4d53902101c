"""Tells under which names studies are measured on this host, without starting a GPU or a compiler.

A study's name depends on what the GPU says about itself, on the kernel's code, and on the versions of Triton, its
assembler and torch. Child processes answer all of that, and they take seconds to start. A finished study needs none of
them: their last answers hold as long as nothing has changed that could alter them. This module computes one digest of
everything that could: the files that would be imported, the environment, the driver and the GPUs themselves. If any of
this cannot be determined, there is no digest, and the children are asked.
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
"""The packages that affect the answers, by kernel source. We cannot know what a user's script imports, so it has no
digest."""

SHALLOW = ("torch",)
"""Packages that have ten thousand files: of these we look at the version, the top folder and the libraries only."""

LIBRARIES = "lib"

DIGITS = 32

COMPILED = "__pycache__"
"""Folders that come and go with the files beside them."""

_DECIDES = re.compile(r"CUDA|NVIDIA|NVPTX|TRITON|TORCH|VLLM|PTXAS|LLVM|MLIR|AMD|HIP|ROC|DISABLE_|^LD_|^PYTHON|^PATH$")
"""Matches environment variables, some of which torch, Triton and vLLM read."""


@dataclass(frozen=True, slots=True)
class HostState:
    """The state of a host in which devices were opened.

    Attributes:
        digest: see ``host_digest``.
        gpus: names of the GPU types that were opened together.
    """

    digest: str
    gpus: tuple[str, ...]


def host_digest(
    vendor: Backend, source: str, gpus: Sequence[GpuIdentity | None], *, unchanged_since: float = inf
) -> str | None:
    """Return a digest of everything that studies' names depend on here, or None if part of it cannot be determined.

    Args:
        source: the kernel source, see ``measure.source``.
        gpus: the GPUs that will measure.
        unchanged_since: seconds of ``time.time``. If a file has changed since then, there is no digest: a process
            started at that time may have imported the old file.
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
    """Yield the files of a folder in a fixed order, each with its state; the state is None if it cannot be read."""
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
    """Return what distinguishes a file from older versions. It includes ctime, which no package manager sets back."""
    numbers = (state.st_size, state.st_mtime_ns, state.st_ctime_ns) if state is not None else ()
    return repr((path, numbers)).encode()


def _variables() -> Iterator[bytes]:
    """Yield the variables that matter, and for each that names a file, also that file's state."""
    for name in sorted(filter(_DECIDES.search, os.environ)):
        value = os.environ[name]
        state = _state(value)
        yield _line(f"{name}={value}", state if state is not None and S_ISREG(state.st_mode) else None)
