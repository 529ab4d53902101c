"""Shared by the GPUs of one host: the fork server, packs of binaries, and the compilers."""

import os
import threading
from collections.abc import Hashable, Mapping, Sequence
from pathlib import Path

from bo_tune.core.problem import GpuInfo
from bo_tune.errors import DeviceError, PackError, WorkerError
from bo_tune.files import check_file_writable, os_error_text
from bo_tune.measure.compile.compilers import Compilers
from bo_tune.measure.compile.farm import CompileFarm
from bo_tune.measure.compile.packed import PackedBinaries
from bo_tune.measure.compile.times import CompileTimes
from bo_tune.processes.fork_server import ForkServer, Imports
from bo_tune.processes.importing import missing_packages


class CompileHost:
    """Forks the processes of all GPUs, and compiles once for those that run the same binaries.

    Args:
        modules: modules that the fork server imports.
        environment: variables of its children.
        source: the kernel source, see ``measure.source``.
        workers: compile processes for each kind of GPU.
        deadline_s: seconds after which a compile is given up, at most.
        packs: files of binaries that need no compiling here.
        imports: a process that has begun to import some of the modules.

    Raises:
        DeviceError: torch or Triton is not installed, or Triton's cache cannot be written.
        PackError: a pack is damaged.
    """

    def __init__(
        self,
        modules: Sequence[str],
        environment: Mapping[str, str],
        source: str,
        *,
        workers: int,
        deadline_s: float,
        packs: Sequence[Path] = (),
        imports: Imports | None = None,
    ) -> None:
        _check_packages()
        check_cache({**os.environ, **environment})
        self._source, self.workers, self._deadline_s = source, workers, deadline_s
        self._packs = PackedBinaries(packs)
        self.server = ForkServer(modules, {**environment, **self._packs.environment}, imports)
        self._farms: dict[Hashable, CompileFarm] = {}
        self._lock = threading.Lock()
        try:
            self._packs.unpack()  # while the server imports
        except PackError:
            self.close()
            raise

    def compilers(self, gpu: GpuInfo) -> Compilers:
        """Return the compilers for a GPU. They are started now if the GPU is the first of its kind.

        GPUs are of one kind if they have the same target and kernels cannot tell them apart. Launchers may count
        multiprocessors.

        Raises:
            DeviceError: the kernel source cannot be used.
            PackError: a pack was made for something else.
        """
        kind = (gpu.target, gpu.sm_count, gpu.shared_memory_bytes)
        with self._lock:
            farm = self._farms.get(kind)
            if farm is None:
                times = CompileTimes(self._deadline_s)
                farm = CompileFarm(self.server, gpu, self._source, workers=self.workers, times=times)
                self._farms[kind] = farm
                try:
                    farm.wait_until_started()
                except WorkerError as error:
                    raise DeviceError(f"bo_tune cannot load the kernels of {self._source}: {error}") from error
                self._packs.teach(Compilers(farm, gpu))
            return Compilers(farm, gpu)

    def close(self) -> None:
        """End the compilers and the fork server, with every process it forked."""
        for farm in self._farms.values():
            farm.close()
        self.server.close()
        self._packs.close()


def cache_folder(environment: Mapping[str, str]) -> Path:
    """Return the folder in which Triton keeps binaries."""
    home = environment.get("TRITON_HOME", os.path.expanduser("~/"))  # noqa: PTH111 - as Triton does
    return Path(environment.get("TRITON_CACHE_DIR", Path(home, ".triton", "cache")))


def check_cache(environment: Mapping[str, str], remedy: str = "set TRITON_CACHE_DIR to another folder") -> None:
    """Check that Triton's cache can be written, since otherwise every compile would fail. Raises DeviceError."""
    folder = cache_folder(environment)
    try:
        check_file_writable(folder / "probe")
    except OSError as error:
        raise DeviceError(f"{folder}: Triton's cache cannot be written: {os_error_text(error)}; {remedy}") from None


def _check_packages() -> None:
    """Raise DeviceError if a package that compiles or measures kernels is not installed."""
    if missing := missing_packages():
        raise DeviceError(
            f"compiling and measuring kernels needs {' and '.join(missing)}: pip install 'bo_tune[gpu]'; to "
            "replay recorded grids without them, use --device replay:DIR"
        )


def cores(kept: int = 0) -> int:
    """Return how many compile processes this host should have: all usable cores except those kept free.

    In a container that may use only some of the host's cores, only those count.
    """
    return max(1, len(os.sched_getaffinity(0)) - kept)
