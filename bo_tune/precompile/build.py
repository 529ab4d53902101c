"""Builds a pack: compiles binaries, most wanted first, until a budget ends or someone has had enough.

While it grows, a pack is a folder beside its file: Triton's cache, and a journal with a line for each binary, written
when it is done. Killing the process at any instant loses only the compiles under way. The file is written at the end.
The same command with more budget then goes on from the file.
"""

import os
import shutil
import time
from collections.abc import Callable
from concurrent.futures import FIRST_COMPLETED, Future, wait
from dataclasses import dataclass
from itertools import islice
from math import inf
from pathlib import Path
from typing import IO

from filelock import FileLock, Timeout

from bo_tune.core.outcome import Invalid, InvalidReason
from bo_tune.core.problem import GpuInfo
from bo_tune.errors import PackError
from bo_tune.files import os_error_text, write_atomically
from bo_tune.formats.pack.archive import files_of, unpack, write_pack
from bo_tune.formats.pack.contents import MACHINE_CODE, Manifest, PackedBinary, from_json, to_json
from bo_tune.formats.pack.identity import Identity
from bo_tune.measure.compile.compilers import Compilers
from bo_tune.measure.compile.farm import COMPILER_DIED
from bo_tune.measure.device import Build
from bo_tune.precompile.ranking import Likely, Wanted


class Workbench:
    """The folder in which a pack grows, and its journal. For one process at a time; a context manager.

    Attributes:
        cache: Triton's cache.
        binaries: all that are done.

    Raises:
        PackError: another process uses the folder, or it cannot be written.
    """

    def __init__(self, pack: Path) -> None:
        self.pack = pack
        self.folder = pack.with_name(f".{pack.name}.work")
        self.cache = self.folder / "cache"
        self.binaries: list[PackedBinary] = []
        self._journal_path = self.folder / "journal.jsonl"
        self._journal: IO[bytes] | None = None
        self._was_there = self.folder.exists()
        try:
            self.folder.mkdir(exist_ok=True)
            if self.folder.is_symlink() or self.folder.stat().st_uid != os.geteuid():
                raise PackError(f"{self.folder} belongs to another user; remove it, or name another file with --out")
            self.cache.mkdir(exist_ok=True)
            self._lock = FileLock(self.folder / "lock", timeout=0)
            self._lock.acquire()
        except Timeout:
            raise PackError(
                f"{pack}: another process is compiling for this pack; wait for it, or name another file with --out"
            ) from None
        except OSError as error:
            raise PackError(f"{self.folder}: {os_error_text(error)}") from None

    def __enter__(self) -> "Workbench":
        return self

    def __exit__(self, *_: object) -> None:
        if self._journal is not None:
            self._journal.close()
        elif not self._was_there:  # nothing was begun
            shutil.rmtree(self.folder)
        self._lock.release()

    def resume(self, identity: Identity) -> None:
        """Continue from what an earlier run left: its folder if it was killed, else its pack.

        Raises:
            PackError: what it left is for another GPU, Triton or kernel text, or is damaged.
        """
        lines = self._journal_path.read_bytes().splitlines(keepends=True) if self._journal_path.exists() else []
        whole = [line for line in lines if line.endswith(b"\n")]
        if whole:
            self._check(self.folder, from_json(Identity, whole[0]), identity)
            known = [from_json(PackedBinary, line) for line in whole[1:]]
            self.binaries = [b for b in known if all((self.cache / entry).is_dir() for entry in b.entries)]
        elif self.pack.exists():
            manifest = unpack(self.pack, self.cache)
            self._check(self.pack, manifest.identity, identity)
            self.binaries = list(manifest.binaries)
        kept = [to_json(identity), *map(to_json, self.binaries)]
        write_atomically(self._journal_path, b"".join(line + b"\n" for line in kept))
        self._journal = self._journal_path.open("ab", buffering=0)

    @staticmethod
    def _check(place: Path, before: Identity, now: Identity) -> None:
        difference = before.difference(now)
        if difference is not None:
            raise PackError(f"{place}: {difference}; remove it, or name another file with --out")

    def note(self, binary: PackedBinary) -> None:
        """Record the result of a compile."""
        assert self._journal is not None
        self.binaries.append(binary)
        self._journal.write(to_json(binary) + b"\n")

    def finish(self, identity: Identity, gpu: GpuInfo, study: str) -> None:
        """Write the pack and remove the folder. Raises PackError."""
        write_pack(self.pack, Manifest(identity, gpu, study, tuple(self.binaries)), self.cache)
        shutil.rmtree(self.folder)


@dataclass(frozen=True, slots=True)
class PackBudget:
    """Limits on a pack; None for no limit.

    Attributes:
        configs: binaries in the pack, including those that proved impossible.
        minutes: of compiling, in this run.
    """

    configs: int | None = None
    minutes: float | None = None


@dataclass(frozen=True, slots=True)
class Packed:
    """The progress of a pack.

    Attributes:
        done: binaries in it, including those that proved impossible.
        of: how many there will be at most.
        compiled: by this run.
        elapsed_s: of this run.
        budget: of this run.
    """

    done: int
    of: int
    compiled: int
    elapsed_s: float
    budget: PackBudget

    @classmethod
    def nothing(cls, budget: PackBudget) -> "Packed":
        """Return the progress before anything is known."""
        return cls(0, 0, 0, 0.0, budget)

    @property
    def left_s(self) -> float | None:
        """Seconds left at the pace so far, limited by the budget; None before there is a pace."""
        limit_s = inf if self.budget.minutes is None else 60.0 * self.budget.minutes - self.elapsed_s
        pace_s = (self.of - self.done) * self.elapsed_s / self.compiled if self.compiled else inf
        left_s = min(limit_s, pace_s)
        return max(0.0, left_s) if left_s < inf else None


def build(
    bench: Workbench,
    target: Compilers,
    wanted: Likely,
    budget: PackBudget,
    progress: Callable[[Packed], None],
) -> None:
    """Compile binaries in their order until the budget ends or none is left. Those already on the bench are kept.

    An exception raised by ``progress``, or a ``KeyboardInterrupt``, ends it. Finished binaries stay on the bench.
    """
    start = time.perf_counter()
    known = {target.key(binary.problem, binary.config) for binary in bench.binaries}
    most = min(len(wanted), budget.configs or len(wanted))
    before = len(bench.binaries)
    new = (w for w in wanted if w.key not in known)
    under_way: dict[Future[Build], Wanted] = {}

    def told() -> Packed:
        done = len(bench.binaries)
        return Packed(done, max(most, done), done - before, time.perf_counter() - start, budget)

    def has_time() -> bool:
        return budget.minutes is None or time.perf_counter() - start < 60.0 * budget.minutes

    progress(told())
    while True:
        room = min(target.workers + 1, most - len(bench.binaries)) - len(under_way)
        if room > 0 and has_time():
            under_way |= {target.compile(w.problem, w.config): w for w in islice(new, room)}
        if not under_way:
            return
        done, _ = wait(under_way, return_when=FIRST_COMPLETED)
        for future in done:
            binary = packed_binary(bench.cache, under_way.pop(future), future.result(), target.gpu)
            if binary is not None:
                bench.note(binary)
                progress(told())


def packed_binary(cache: Path, wanted: Wanted, build: Build, gpu: GpuInfo) -> PackedBinary | None:
    """Return what to keep of a compile. None if the compiler was killed, which says nothing about the config.

    A binary that needs more shared memory than the GPU has is recorded as impossible, and not kept.
    """
    problem, config, took_s = wanted.problem, wanted.config, build.compilation.compile_s
    if isinstance(build, Invalid):
        if build.detail.startswith(COMPILER_DIED):
            return None
        return PackedBinary(problem, config, took_s, build.resources, reason=build.reason, detail=build.detail)
    assert build.entry is not None
    needed, limit = build.resources.shared_memory_bytes, gpu.shared_memory_bytes
    if needed is not None and needed > limit:
        reason, detail = InvalidReason.OUT_OF_SHARED_MEMORY, f"it needs {needed} B, but the GPU has {limit} B"
        return PackedBinary(problem, config, took_s, build.resources, reason=reason, detail=detail)
    files, *others = (files_of(cache / entry) for entry in (build.entry, *build.more))
    more = dict(zip(build.more, others, strict=True))
    everything = [named for each in (files, *others) for named in each.items()]
    cubin_bytes = sum(file.size for name, file in everything if name.endswith(MACHINE_CODE))
    return PackedBinary(problem, config, took_s, build.resources, cubin_bytes, build.entry, files, more=more)
