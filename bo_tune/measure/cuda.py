"""The CUDA device: a compile farm and a GPU process behind the ``Device`` interface."""

import os
import threading
from collections.abc import Hashable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bo_tune.errors import DeviceError
from bo_tune.kernels.operations import operation
from bo_tune.kernels.spec import KernelSpec
from bo_tune.measure.compile_farm import CompileFarm
from bo_tune.measure.device import Build, Compiled, Device
from bo_tune.measure.messages import (
    Hello,
    HelloRequest,
    MeasureAnswer,
    MeasureRequest,
    PrepareRequest,
    RemeasureRequest,
)
from bo_tune.measure.protocol import TimingProtocol
from bo_tune.measure.worker import Worker, WorkerDiedError, WorkerTimeoutError
from bo_tune.outcome import Invalid, InvalidReason, Launches, LaunchPurpose, Outcome
from bo_tune.problem import GpuInfo, Problem
from bo_tune.space import Config, ConfigKey, SearchSpace

GPU_MODULE = "bo_tune.measure.gpu_process"

CORES_KEPT = 2
"""Cores without a compiler: one for the GPU process, whose launches must not wait, and one for the tuner itself."""

COMPILE_DEADLINE_S = 8.0
PREPARE_DEADLINE_S = 180.0
MEASURE_DEADLINE_S = 20.0
"""A config's check and repetitions take milliseconds; what takes this long hangs."""


class CudaDevice(Device):
    """Compiles on this host's cores and measures on one of its NVIDIA GPUs.

    Raises:
        DeviceError: if the GPU cannot be used.
    """

    def __init__(
        self,
        index: int = 0,
        *,
        compile_workers: int | None = None,
        compile_deadline_s: float = COMPILE_DEADLINE_S,
        protocol: TimingProtocol | None = None,
    ) -> None:
        self._protocol = protocol or TimingProtocol()
        self._lock = threading.Lock()
        self._keys: dict[Problem, dict[ConfigKey, Hashable]] = {}
        self._worker = Worker(GPU_MODULE, [str(index)])
        try:
            hello: Hello = self._worker.request(HelloRequest(), PREPARE_DEADLINE_S)
        except (WorkerDiedError, WorkerTimeoutError) as error:
            self._worker.kill()
            advice = "replay recorded grids with --device replay:DIR"
            raise DeviceError(f"CUDA device {index} cannot be used: {error}; {advice}") from error
        self.gpu: GpuInfo = hello.gpu
        self._versions = hello.versions
        self.compile_workers = compile_workers or max(1, (os.cpu_count() or 1) - CORES_KEPT)
        self._farm = CompileFarm(self.gpu, workers=self.compile_workers, deadline_s=compile_deadline_s)

    @property
    def provenance(self) -> Mapping[str, str]:
        """Driver, torch and Triton versions of the GPU process."""
        return self._versions

    @property
    def gpu_process_restarts(self) -> int:
        """How often the GPU process had to be started anew."""
        return max(0, self._worker.starts - 1)

    def kernel_source(self, kernel: str) -> str:
        """Which code of a kernel is measured."""
        return operation(kernel).source

    def search_space(self, spec: KernelSpec, problem: Problem) -> SearchSpace:
        """The kernel's default grid."""
        return spec.search_space

    def effective_configs(self, problem: Problem, configs: Sequence[Config]) -> list[dict[str, int]]:
        """Ask the kernel what it makes of each config on this GPU."""
        kernel = operation(problem.kernel)
        return [kernel.effective_config(problem, config, self.gpu) for config in configs]

    def has_binary(self, problem: Problem, configs: Sequence[Config]) -> NDArray[np.bool_]:
        """Ask the compile farm."""
        keys = self._keys.setdefault(problem, {})
        return np.fromiter((self._farm.has(self._key(problem, c, keys)) for c in configs), bool, len(configs))

    def _key(self, problem: Problem, config: Config, keys: dict[ConfigKey, Hashable]) -> Hashable:
        name = tuple(config.items())  # of the grid's configs, thousands of which are asked for at each proposal
        key = keys.get(name)
        if key is None:
            key = keys[name] = operation(problem.kernel).compile_key(problem, config, self.gpu)
        return key

    def compile(self, problem: Problem, config: Config) -> Future[Build]:
        """Hand the config to the compile farm."""
        key = operation(problem.kernel).compile_key(problem, config, self.gpu)
        return self._farm.submit(key, problem, config)

    def measure(self, problem: Problem, config: Config, compiled: Compiled, *, stop_above_us: float | None) -> Outcome:
        """Measure in the GPU process. Shared memory over the GPU's limit is known before loading."""
        outcome = self._measure(problem, config, compiled, stop_above_us)
        resources = outcome.resources if outcome.resources.registers_per_thread else compiled.resources
        return replace(outcome, compilation=compiled.compilation, resources=resources)

    def _measure(self, problem: Problem, config: Config, compiled: Compiled, stop_above_us: float | None) -> Outcome:
        needed, limit = compiled.resources.shared_memory_bytes, self.gpu.shared_memory_bytes
        if needed is not None and needed > limit:
            return Invalid(InvalidReason.OUT_OF_SHARED_MEMORY, f"needs {needed} B of {limit} B")
        request = MeasureRequest(problem, dict(config), self._protocol, stop_above_us)
        launched: Launches = Launches({LaunchPurpose.CHECK: 1})
        with self._lock:
            self._prepare(problem)
            try:
                answer: MeasureAnswer = self._worker.request(request, MEASURE_DEADLINE_S)
            except WorkerTimeoutError as error:
                return Invalid(InvalidReason.HANG, str(error), launched)
            except WorkerDiedError as error:
                return Invalid(InvalidReason.GPU_PROCESS_DIED, str(error), launched)
            if not answer.healthy:
                self._worker.kill()
        return answer.outcome

    def _prepare(self, problem: Problem) -> None:
        """Have the problem's inputs ready, on its own time: they take seconds where a config takes milliseconds."""
        try:
            self._worker.request(PrepareRequest(problem), PREPARE_DEADLINE_S)
        except (WorkerDiedError, WorkerTimeoutError) as error:
            raise DeviceError(f"the inputs of {problem} cannot be made on {self.gpu.name}: {error}") from error

    def remeasure(self, problem: Problem, configs: Sequence[Config], rounds: int) -> list[tuple[float, ...]]:
        """Time the configs in turn in the GPU process."""
        request = RemeasureRequest(problem, tuple(dict(c) for c in configs), rounds)
        with self._lock:
            self._prepare(problem)
            try:
                times: Any = self._worker.request(request, PREPARE_DEADLINE_S)
            except (WorkerDiedError, WorkerTimeoutError) as error:
                raise DeviceError(f"the finalists of {problem} cannot be re-measured: {error}") from error
        return list(times)

    def close(self) -> None:
        """End the compile workers and the GPU process."""
        self._farm.close()
        self._worker.kill()
