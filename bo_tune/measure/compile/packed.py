"""Packs that a session uses: unpacked for its processes, and registered with its compile farm."""

import tempfile
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

from bo_tune.core.outcome import Compilation, Invalid
from bo_tune.core.problem import Problem
from bo_tune.errors import PackError, WorkerError, one_line
from bo_tune.formats.pack.archive import unpack
from bo_tune.formats.pack.contents import Manifest, PackedBinary
from bo_tune.formats.pack.identity import Identity
from bo_tune.measure.compile.compilers import Compilers
from bo_tune.measure.device import Build, Compiled

FOLDER_VARIABLE = "BO_TUNE_PACKED"
"""Variable that names the folder of unpacked entries. Triton creates its cache managers itself and gives them only a
key."""

CACHE_MANAGER = "bo_tune.measure.compile.packed_cache:PackedCache"

PROBES = 4
"""Binaries of each kernel that Triton must find before a pack is trusted. This shows differences that the identity does
not cover."""

PROBE_TIMEOUT_S = 120.0
"""Time for a worker to find a binary, on a loaded machine."""


class PackedBinaries:
    """Packs, unpacked in a folder of their own until they are closed.

    Args:
        paths: the packs; may be empty.
    """

    def __init__(self, paths: Sequence[Path]) -> None:
        self._paths = paths
        self._folder = tempfile.TemporaryDirectory(prefix="bo-tune-pack-") if paths else None
        self._manifests: dict[Path, Manifest] = {}

    def unpack(self) -> None:
        """Unpack the files where processes look for them.

        Raises:
            PackError: a pack is damaged.
        """
        for path in self._paths:
            self._manifests[path] = unpack(path, Path(self._place))

    @property
    def _place(self) -> str:
        return self._folder.name if self._folder else ""

    @property
    def environment(self) -> Mapping[str, str]:
        """Variables that let Triton find the binaries."""
        if self._folder is None:
            return {}
        return {"TRITON_CACHE_MANAGER": CACHE_MANAGER, FOLDER_VARIABLE: self._place}

    def teach(self, compilers: Compilers) -> None:
        """Check that the packs fit this host and GPU, and register their binaries with the farm.

        Raises:
            DeviceError: the compilers cannot be asked.
            PackError: a pack does not fit; the message names the difference.
        """
        for path, manifest in self._manifests.items():
            try:
                _check(compilers, manifest)
            except (PackError, WorkerError) as error:
                raise PackError(f"{path}: {one_line(error)}") from None
            by_problem: defaultdict[Problem, list[PackedBinary]] = defaultdict(list)
            for binary in manifest.binaries:
                by_problem[binary.problem].append(binary)
            for problem, binaries in by_problem.items():
                numbers = compilers.numbers(problem, [binary.config for binary in binaries])
                for number, binary in zip(numbers, binaries, strict=True):
                    compilers.farm.know(number, build_of(binary), binary.compile_s)

    def close(self) -> None:
        """Remove the unpacked files."""
        if self._folder is not None:
            self._folder.cleanup()


def build_of(binary: PackedBinary) -> Build:
    """Return the result of compiling a packed binary, now that it is there."""
    there = Compilation(cached=True)
    if binary.reason is not None:
        return Invalid(binary.reason, binary.detail, compilation=there, resources=binary.resources)
    return Compiled(there, binary.resources, binary.entry, tuple(binary.more))


def _check(compilers: Compilers, manifest: Manifest) -> None:
    farm = compilers.farm
    first = {b.problem.kernel: (b.problem, dict(b.config)) for b in reversed(manifest.binaries)}
    made_for = replace(manifest.identity, kernels={name: manifest.identity.kernels[name] for name in first})
    outside = Identity(made_for.toolchain, compilers.gpu.target, farm.source, made_for.kernels)
    difference = made_for.difference(outside)  # checked first, because the source may lack these kernels
    if difference is None:
        difference = made_for.difference(compilers.identity(first))
    if difference is not None:
        raise PackError(difference)
    probes = list(_probes(manifest))
    calls = [("compile", binary.problem, dict(binary.config)) for binary in probes]
    # Side by side, because the first compile of each process takes some tenths of a second.
    with ThreadPoolExecutor(max(1, len(probes))) as threads:
        builds: list[Build] = list(threads.map(lambda call: farm.ask(call, PROBE_TIMEOUT_S), calls))
    for binary, build in zip(probes, builds, strict=True):
        if not (isinstance(build, Compiled) and build.compilation.cached):
            raise PackError(
                f"Triton would not use this pack's binary of {binary.problem}, for an unknown reason; make the pack "
                "again"
            )


def _probes(manifest: Manifest) -> Iterator[PackedBinary]:
    """Yield a few binaries of each kernel, evenly spread."""
    for kernel in manifest.identity.kernels:
        binaries = [b for b in manifest.binaries if b.problem.kernel == kernel and b.entry is not None]
        yield from binaries[:: max(1, len(binaries) // PROBES)][:PROBES]
