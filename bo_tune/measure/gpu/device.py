"""A GPU of this host: a compile farm and a GPU process behind the ``Device`` interface."""

import json
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np

from bo_tune.core.activity import DeviceActivity
from bo_tune.core.conditions import Conditions, toolchain_label
from bo_tune.core.outcome import Invalid, InvalidReason, Launches, LaunchPurpose, Measurement, Outcome
from bo_tune.core.problem import DEFAULT_BACKEND, GpuInfo, Problem
from bo_tune.core.repetitions import TimingProtocol
from bo_tune.core.space import Config
from bo_tune.core.surroundings import Batch, Choice, Layer, Surroundings
from bo_tune.errors import DeviceError, PackError
from bo_tune.kernels.spec import AnySpec
from bo_tune.measure.backends.base import GpuIdentity
from bo_tune.measure.backends.registry import backend_named
from bo_tune.measure.compile.host import CompileHost, cores
from bo_tune.measure.deadlines import Deadlines
from bo_tune.measure.device import Build, Compiled, Device, HaveBinaries, Remeasured, Slowness, StepTimes
from bo_tune.measure.gpu.owner import GpuOwner
from bo_tune.measure.occupancy import Occupancy
from bo_tune.measure.source import BUILTIN, SGLANG, VLLM
from bo_tune.measure.watch.monitor import GpuMonitor, monitored
from bo_tune.measure.watch.neighbours import GpuWatch, WatchError
from bo_tune.processes.fork_server import IMPORTED_FIRST, Imports
from bo_tune.processes.pipeline import NotStartedError
from bo_tune.processes.worker import Call, WorkerDiedError, WorkerTimeoutError

GPU_MODULE = "bo_tune.measure.gpu.process"
COMPILE_MODULE = "bo_tune.measure.compile.worker"

CORES_KEPT = 1
"""Cores without a compiler. With compilers on all cores, those would hold up the GPU process, whose launches must not
wait, and the tuner and its searches."""


STANDBYS = 4
"""GPU processes that stand ready at most. One is enough if a config breaks its process now and then. Four, which start
in a second or two each, keep up with a fault in every third config."""


MOST_IN_TURN = 2
"""GPU processes that may have the GPU open at once, besides standbys, after one was lost: the new one, and the one that
is ending."""


class GpuDevice(Device):
    """Compiles on this host's cores and measures on one of its GPUs.

    Args:
        index: which GPU.
        backend: the name of its vendor's backend, see ``measure.backends``.
        source: the kernel source, see ``measure.source``.
        compile_workers: number of compile processes; by default one less than the cores.
        packs: files of binaries that need no compiling here.
        standbys: GPU processes that stand ready at most once one was lost (``processes.standby``). Each holds a context
            and the memory that clears the L2 cache, about 0.8 GB.
        host: what GPUs share. By default this GPU has a host of its own, with the compile workers and packs given here.
        identity: of the GPU, needed to ask the driver who else uses it; None if it is not known. If it describes the
            GPU, the compilers begin before the GPU can be used.
        require_idle: whether to refuse a GPU that others use, or that cannot be watched.

    Raises:
        DeviceError: the GPU cannot be used. If ``identity`` describes it, measuring raises UnusableDeviceError instead.
        PackError: a pack is damaged, or was made for something else.
    """

    def __init__(
        self,
        index: int = 0,
        *,
        backend: str = DEFAULT_BACKEND,
        source: str = BUILTIN,
        conditions: Conditions | None = None,
        compile_workers: int | None = None,
        deadlines: Deadlines | None = None,
        protocol: TimingProtocol | None = None,
        packs: Sequence[Path] = (),
        standbys: int = STANDBYS,
        host: CompileHost | None = None,
        identity: GpuIdentity | None = None,
        require_idle: bool = False,
    ) -> None:
        self._vendor = backend_named(backend)
        deadlines = deadlines or Deadlines()
        self._protocol = protocol or TimingProtocol()
        self.conditions = conditions or Conditions()
        self.times_in_place = self._vendor.has_graphs and source in (BUILTIN, VLLM)
        self._described = identity.info if identity is not None else None
        self._own_host: CompileHost | None = None
        self.monitor: GpuMonitor | None = None
        if host is None:
            host = self._own_host = compile_host(
                source, self.conditions, compile_workers, deadlines, packs, backend=backend
            )
        self.compile_workers = host.workers
        self.occupancy = Occupancy(host.workers)
        self._owner = GpuOwner(
            host.server,
            GPU_MODULE,
            [str(index), source, json.dumps(self.conditions.to_json()), self._vendor.children],
            deadlines,
            self.occupancy,
            name=f"{self._vendor.device} {index}",
            advice="; to replay recorded grids, use --device replay:DIR" if source in (BUILTIN, SGLANG, VLLM) else "",
            standbys=standbys,
        )
        try:
            self.monitor, self.unwatched = self._watched(index, identity, host, standbys, require_idle=require_idle)
            self._told = self._owner.start(self._described)
            self._told.add_done_callback(self._begin_to_watch)
            self.gpu = self._described or self._told.result()[0]
            self._compilers = host.compilers(self.gpu)
        except (DeviceError, PackError):
            self.close()
            raise
        self._compilers.farm.watched_by(self.occupancy)

    def _watched(
        self, index: int, identity: GpuIdentity | None, host: CompileHost, standbys: int, *, require_idle: bool
    ) -> tuple[GpuMonitor | None, str | None]:
        """Return what watches the GPU, before anything here uses it. See ``monitored``."""

        def watch() -> GpuWatch:
            if identity is None:
                raise WatchError("the driver does not say which GPU it is")
            return self._vendor.watch(identity)

        return monitored(
            f"GPU {index}",
            watch,
            lambda: host.server.forked,
            lambda: 1 if self._owner.worker.starts <= 1 else MOST_IN_TURN + standbys,
            require_idle=require_idle,
        )

    def _begin_to_watch(self, told: Future[tuple[GpuInfo, Mapping[str, str]]]) -> None:
        """Start to watch who else uses the GPU, now that the session uses it."""
        if self.monitor is not None and not told.cancelled() and told.exception() is None:
            self.monitor.begin()

    @property
    def provenance(self) -> Mapping[str, str]:
        """The GPU process's versions of driver, torch and Triton, and the compilers' assembler. Raises DeviceError."""
        return {**self._told.result()[1], self._vendor.assembler: self._compilers.assembler()}

    @property
    def toolchain(self) -> str:
        """See ``Device``. The compilers know it before the GPU can be used. Raises DeviceError."""
        versions = self._compilers.versions() if self._described else self._told.result()[1]
        return toolchain_label({**versions, self._vendor.assembler: self._compilers.assembler()})

    @property
    def activity(self) -> DeviceActivity:
        return DeviceActivity(self._compilers.farm.activity, self._owner.activity)

    def kernel_source(self, kernel: str) -> str:
        return self._compilers.kernel_source(kernel)

    def note(self, problem: Problem) -> str | None:
        return self._compilers.note(problem)

    def decided_by(self, problem: Problem) -> tuple[str, ...]:
        return self._compilers.decided_by(problem)

    def default_config(self, spec: AnySpec, problem: Problem) -> dict[str, int]:
        """Ask the kernel's engine, if it has one: what it runs without tuned files may depend on the GPU."""
        return self._compilers.default_config(spec, problem)

    def effective_configs(self, problem: Problem, configs: Sequence[Config]) -> list[Config]:
        return self._compilers.effective_configs(problem, configs)

    def binaries(self, problem: Problem, configs: Sequence[Config]) -> HaveBinaries:
        numbers = np.array(self._compilers.numbers(problem, configs), dtype=np.intp)
        return partial(self._compilers.farm.has, numbers)

    def slowness(self, problem: Problem, configs: Sequence[Config]) -> Slowness:
        return self._compilers.farm.times.slowness(problem.kernel, configs)

    def compile(self, problem: Problem, config: Config) -> Future[Build]:
        return self._compilers.compile(problem, config)

    def withdraw(self, problem: Problem, config: Config) -> None:
        self._compilers.withdraw(problem, config)

    def measure(self, problem: Problem, config: Config, compiled: Compiled, *, stop_above_us: float | None) -> Outcome:
        """Measure in the GPU process. Configs that need too much shared memory are refused without loading."""
        outcome = self._measure(problem, config, compiled, stop_above_us)
        return replace(outcome, compilation=compiled.compilation, resources=compiled.resources)

    def _measure(self, problem: Problem, config: Config, compiled: Compiled, stop_above_us: float | None) -> Outcome:
        needed, limit = compiled.resources.shared_memory_bytes, self.gpu.shared_memory_bytes
        if needed is not None and needed > limit:
            return Invalid(InvalidReason.OUT_OF_SHARED_MEMORY, f"it needs {needed} B, but the GPU has {limit} B")
        request = ("measure", problem, dict(config), self._protocol, stop_above_us)
        launched: Launches = Launches({LaunchPurpose.CHECK: 1})
        try:
            answer = self._owner.measure(problem, request)
        except WorkerTimeoutError as error:
            return Invalid(InvalidReason.HANG, str(error), launched)
        except WorkerDiedError as error:
            return Invalid(InvalidReason.GPU_PROCESS_DIED, str(error), launched)
        if answer.healthy and isinstance(answer.outcome, Measurement):
            self._owner.learn(problem, dict(config), self._protocol)
        return answer.outcome

    def expect(self, problem: Problem) -> None:
        self._owner.expect(problem)

    def restart_gpu_process(self) -> None:
        """End the GPU process. The next measurement starts another."""
        self._owner.restart()

    def remeasure(self, problem: Problem, configs: Sequence[Config], rounds: int, *, taken: int = 0) -> Remeasured:
        """Check the configs and time them in turn in the GPU process.

        If a process is lost meanwhile, each config is tried alone, and only those that break the process again get no
        times.

        Raises:
            DeviceError: the process is lost again when the others are timed in turn.
        """
        return self._in_turn((problem,), [(config,) for config in configs], rounds, None)

    def remeasure_in_place(
        self, problems: Sequence[Problem], choices: Sequence[Sequence[Config]], rounds: int, around: Surroundings
    ) -> Remeasured:
        """Check the configs and time them in their layer. See ``remeasure``."""
        return self._in_turn(problems, choices, rounds, around)

    def _in_turn(
        self,
        problems: Sequence[Problem],
        choices: Sequence[Sequence[Config]],
        rounds: int,
        around: Surroundings | None,
    ) -> Remeasured:
        timed = partial(self._remeasure, problems, around)
        try:
            return timed(choices, rounds, self._owner.deadlines.prepare_s)
        except (WorkerDiedError, WorkerTimeoutError):
            sound = [configs for configs in choices if self._survives(timed, configs)]
        try:
            found = timed(sound, rounds, self._owner.deadlines.prepare_s)
        except (WorkerDiedError, WorkerTimeoutError) as error:
            raise DeviceError(f"the finalists of {problems[0]} cannot be re-measured: {error}") from error
        times = iter(found.runtimes_us)
        runtimes = [next(times) if configs in sound else () for configs in choices]
        return Remeasured(runtimes, found.launches, found.bare_us)

    def _remeasure(
        self,
        problems: Sequence[Problem],
        around: Surroundings | None,
        choices: Sequence[Sequence[Config]],
        rounds: int,
        deadline_s: float,
    ) -> Remeasured:
        plain = [[dict(config) for config in configs] for configs in choices]
        request: Call
        if around is None:
            request = ("remeasure", problems[0], [configs[0] for configs in plain], rounds)
        else:
            request = ("remeasure_in_place", problems, plain, rounds, around)
        answer: Remeasured = self._owner.ask(problems[0], request, lambda: deadline_s, "finalists")
        return answer

    def _survives(self, timed: Callable[..., Remeasured], configs: Sequence[Config]) -> bool:
        """Say whether the GPU process survives timing one choice."""
        try:
            timed([configs], 1, self._owner.deadlines.first_s)
        except (WorkerDiedError, WorkerTimeoutError):
            return False
        return True

    def time_step(
        self, layers: Sequence[Layer], batch: Batch, choices: Sequence[Sequence[Choice] | None], rounds: int
    ) -> StepTimes:
        """Time the layers in the GPU process."""
        request = ("step", layers, batch, choices, rounds)
        try:
            answer: StepTimes = self._owner.request(request)
        except (WorkerDiedError, WorkerTimeoutError, NotStartedError) as error:
            raise DeviceError(f"a step of {batch.m} tokens cannot be timed on {self.gpu.name}: {error}") from error
        return answer

    def close(self) -> None:
        """End the GPU process, and the compile workers that no other GPU uses."""
        if self.monitor is not None:
            self.monitor.close()
        self._owner.close()
        if self._own_host is not None:
            self._own_host.close()


def compile_host(
    source: str,
    conditions: Conditions,
    workers: int | None,
    deadlines: Deadlines,
    packs: Sequence[Path],
    *,
    backend: str = DEFAULT_BACKEND,
    imports: Imports | None = None,
) -> CompileHost:
    """Start what GPUs of this host may share, with ``workers`` compile processes, by default one less than the cores.

    Args:
        imports: a process that has begun to import ``IMPORTED_FIRST``.

    Raises:
        PackError: a pack is damaged.
    """
    vendor = backend_named(backend)
    modules = [*IMPORTED_FIRST, GPU_MODULE, COMPILE_MODULE, vendor.children, source]
    workers, deadline_s = workers or cores(CORES_KEPT), deadlines.compile_s
    environment = {**vendor.environment, **conditions.environment}
    return CompileHost(
        modules, environment, source, workers=workers, deadline_s=deadline_s, packs=packs, imports=imports
    )
