"""A GPU on another host: described here, and measured by the workers that have it."""

from collections.abc import Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass

import numpy as np

from bo_tune.core.conditions import Conditions
from bo_tune.core.outcome import Outcome
from bo_tune.core.problem import GpuInfo, Problem
from bo_tune.core.space import Config
from bo_tune.errors import DeviceError
from bo_tune.kernels.registry import IN_ORDER, OF_BASE_MODEL, OF_SGLANG, kernel_spec
from bo_tune.kernels.spec import AnySpec
from bo_tune.measure.device import Build, Compiled, Device, HaveBinaries, Remeasured


@dataclass(frozen=True)
class Description:
    """A worker's description of its GPU.

    Attributes:
        sources: which code of each kernel the worker measures. Kernels that its kernel source lacks are left out.
        decided_by: which kernels decide for a problem's kernel, see ``Device``.
        notes: what the user should know about tuning a problem's kernel.
        times_in_place: see ``Device``.
        defaults: the config that runs on the GPU if nothing was tuned, for kernels whose spec alone cannot tell.
    """

    gpu: GpuInfo
    sources: Mapping[str, str]
    conditions: Conditions
    provenance: Mapping[str, str]
    decided_by: Mapping[Problem, tuple[str, ...]]
    notes: Mapping[Problem, str | None]
    defaults: Mapping[Problem, dict[str, int]]
    times_in_place: bool = False

    @classmethod
    def of(cls, device: Device, problems: Sequence[Problem]) -> "Description":
        """Describe a device for the given problems. Raises DeviceError."""
        sources = {kernel: source for kernel in IN_ORDER if (source := source_of(device, kernel)) is not None}
        joint = [problem for problem in problems if kernel_spec(problem.kernel).joint_group(problem) is not None]
        of_base = [problem for problem in problems if problem.kernel in {**OF_BASE_MODEL, **OF_SGLANG}]
        return cls(
            device.gpu,
            sources,
            device.conditions,
            dict(device.provenance),
            {problem: device.decided_by(problem) for problem in joint},
            {problem: device.note(problem) for problem in joint},
            {problem: device.default_config(kernel_spec(problem.kernel), problem) for problem in (*joint, *of_base)},
            device.times_in_place,
        )


def source_of(device: Device, kernel: str) -> str | None:
    """Return which code of a kernel a device measures, or None if its kernel source lacks the kernel."""
    try:
        return device.kernel_source(kernel)
    except DeviceError:
        return None


class DescribedDevice(Device):
    """Stands for a GPU of other workers: names its studies and collects their results, but measures nothing."""

    def __init__(self, description: Description) -> None:
        self._description = description
        self.gpu = description.gpu
        self.conditions = description.conditions
        self.times_in_place = description.times_in_place

    @property
    def provenance(self) -> Mapping[str, str]:
        return self._description.provenance

    def kernel_source(self, kernel: str) -> str:
        """Return the source as described. Raises DeviceError if the description has none."""
        if kernel not in self._description.sources:
            raise DeviceError(f"{self.gpu.name}: the kernel source of its worker has no {kernel}")
        return self._description.sources[kernel]

    def note(self, problem: Problem) -> str | None:
        return self._description.notes.get(problem)

    def decided_by(self, problem: Problem) -> tuple[str, ...]:
        return self._description.decided_by.get(problem, ())

    def default_config(self, spec: AnySpec, problem: Problem) -> dict[str, int]:
        return self._description.defaults.get(problem) or spec.default_config(problem)

    def binaries(self, problem: Problem, configs: Sequence[Config]) -> HaveBinaries:
        none = np.zeros(len(configs), dtype=bool)
        return lambda: none

    def compile(self, problem: Problem, config: Config) -> Future[Build]:
        raise self._is_elsewhere()

    def measure(self, problem: Problem, config: Config, compiled: Compiled, *, stop_above_us: float | None) -> Outcome:
        raise self._is_elsewhere()

    def remeasure(self, problem: Problem, configs: Sequence[Config], rounds: int, *, taken: int = 0) -> Remeasured:
        raise self._is_elsewhere()

    def _is_elsewhere(self) -> DeviceError:
        return DeviceError(f"{self.gpu.name} is not a GPU of this host")
