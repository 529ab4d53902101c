"""NVIDIA's management library as a ``GpuWatch``. It needs no CUDA, and makes no context."""

from collections.abc import Callable
from functools import partial
from importlib import import_module
from typing import Any, TypeVar

from bo_tune.errors import one_line
from bo_tune.measure.backends.base import GpuIdentity
from bo_tune.measure.watch.neighbours import Reading, WatchError

Answer = TypeVar("Answer")

SLOWED = {
    0x20: "too hot",
    0x40: "too hot",
    0x80: "limited by its power supply",
}
"""Bits of ``nvmlDeviceGetCurrentClocksEventReasons``. The power cap is left out: a GPU that serves reaches it as
well."""

SLOWED_BY_HARDWARE = 0x08
"""Set together with two of those bits, or alone."""


def driver_release() -> str | None:
    """Return the driver's release; None if the library, its Python package or the driver is missing."""
    return _asked(lambda nvml: str(nvml.nvmlSystemGetDriverVersion()))


def fitted_gpus() -> list[tuple[str, bool]]:
    """Return the names of the host's GPUs and whether each is partitioned into instances.

    The list is empty if the library, its Python package or the driver is missing.
    """
    return _asked(lambda nvml: [_fitted(nvml, index) for index in range(nvml.nvmlDeviceGetCount())]) or []


def _fitted(nvml: Any, index: int) -> tuple[str, bool]:
    gpu = nvml.nvmlDeviceGetHandleByIndex(index)
    try:
        current, _ = nvml.nvmlDeviceGetMigMode(gpu)
    except nvml.NVMLError:  # this GPU cannot be partitioned
        current = 0
    return str(nvml.nvmlDeviceGetName(gpu)), bool(current)


def _asked(ask: Callable[[Any], Answer]) -> Answer | None:
    """Return an answer of the library; None if the library, its Python package or the driver is missing."""
    try:
        nvml: Any = import_module("pynvml")
    except ImportError:
        return None
    try:
        nvml.nvmlInit()
        try:
            return ask(nvml)
        finally:
            nvml.nvmlShutdown()
    except nvml.NVMLError:
        return None


class NvmlWatch:
    """Asks NVML about one GPU.

    Raises:
        WatchError: the library, its Python package or the GPU is missing.
    """

    def __init__(self, identity: GpuIdentity) -> None:
        try:
            self._nvml: Any = import_module("pynvml")
        except ImportError:
            raise WatchError("the package nvidia-ml-py is not installed") from None
        try:
            self._nvml.nvmlInit()
        except self._nvml.NVMLError as error:
            raise WatchError(f"NVML does not work: {one_line(error)}") from error
        try:
            self._gpu, self.is_slice = self._found(identity)
        except WatchError:
            self.close()
            raise
        self._asked_at_us = 0

    def _found(self, identity: GpuIdentity) -> tuple[Any, bool]:
        """Return the handle of a GPU, and whether it is an instance of a partitioned one.

        The GPU's number is of no use here: NVML counts all GPUs in bus order, while CUDA counts only those that it may
        use, the fastest first.
        """
        nvml = self._nvml
        ways: list[tuple[Callable[[str], Any], str, bool]] = [
            (nvml.nvmlDeviceGetHandleByUUID, f"GPU-{identity.uuid}", False),
            (nvml.nvmlDeviceGetHandleByUUID, f"MIG-{identity.uuid}", True),
            (nvml.nvmlDeviceGetHandleByPciBusId, identity.bus_id, False),
        ]
        for ask, name, is_slice in ways:
            if name.rpartition("-")[2]:
                handle = self._told(partial(ask, name))
                if handle is not None:
                    return handle, is_slice
        raise WatchError(f"NVML does not know the GPU {identity.uuid or identity.bus_id or 'that CUDA counts'}")

    def _told(self, ask: Callable[[], Answer]) -> Answer | None:
        """Return an answer; None if the driver has none, or an older package does not know the question."""
        try:
            return ask()
        except (self._nvml.NVMLError, AttributeError):
            return None

    def read(self) -> Reading:
        nvml, gpu = self._nvml, self._gpu
        computing = self._told(lambda: nvml.nvmlDeviceGetComputeRunningProcesses_v3(gpu))
        sharing = self._told(lambda: nvml.nvmlDeviceGetMPSComputeRunningProcesses_v3(gpu))
        rates = self._told(lambda: nvml.nvmlDeviceGetUtilizationRates(gpu))
        if computing is None and rates is None:
            raise WatchError("NVML says neither which processes use the GPU nor how busy it is")
        memory = self._told(lambda: nvml.nvmlDeviceGetMemoryInfo(gpu, nvml.nvmlMemory_v2))
        reasons = self._told(lambda: nvml.nvmlDeviceGetCurrentClocksEventReasons(gpu))
        if reasons is None:  # its name before driver 535
            reasons = self._told(lambda: nvml.nvmlDeviceGetCurrentClocksThrottleReasons(gpu)) or 0
        slowed = {text: None for bit, text in SLOWED.items() if reasons & bit}
        return Reading(
            processes=None if computing is None else frozenset(one.pid for one in [*computing, *(sharing or ())]),
            working_percent=self._working(),
            utilisation_percent=None if rates is None else int(rates.gpu),
            used_bytes=None if memory is None else int(memory.used),
            slowed=tuple(slowed) or ("slowed by its hardware",) * bool(reasons & SLOWED_BY_HARDWARE),
        )

    def _working(self) -> dict[int, int] | None:
        """Return which processes have worked since the last call; None if the driver does not say."""
        nvml = self._nvml
        try:
            samples = nvml.nvmlDeviceGetProcessUtilization(self._gpu, self._asked_at_us)
        except nvml.NVMLError as error:
            return {} if error.value in (nvml.NVML_SUCCESS, nvml.NVML_ERROR_NOT_FOUND) else None
        fresh = [sample for sample in samples if sample.timeStamp > self._asked_at_us]
        self._asked_at_us = max((sample.timeStamp for sample in fresh), default=self._asked_at_us)
        working: dict[int, int] = {}
        for sample in fresh:
            working[sample.pid] = max(working.get(sample.pid, 0), int(sample.smUtil))
        return working

    def close(self) -> None:
        self._told(self._nvml.nvmlShutdown)
