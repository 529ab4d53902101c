"""A GPU to compile for, there or not: its kernels, their keys, and a compile farm into a cache folder of one's own."""

from collections.abc import Hashable, Sequence
from concurrent.futures import Future
from pathlib import Path

from bo_tune.core.activity import FarmActivity
from bo_tune.core.conditions import Conditions
from bo_tune.core.problem import GpuInfo, Problem
from bo_tune.core.space import Config
from bo_tune.formats.pack.contents import Identity
from bo_tune.kernels.spec import AnySpec
from bo_tune.measure.backends.registry import backend_named
from bo_tune.measure.compile.facts import KernelFacts
from bo_tune.measure.compile.farm import CompileFarm, Deadline
from bo_tune.measure.compile.packed import identity
from bo_tune.measure.device import Build
from bo_tune.measure.gpu.device import COMPILE_MODULE
from bo_tune.measure.messages import IdentityRequest
from bo_tune.measure.source import default_config
from bo_tune.processes.fork_server import ForkServer

STORE_THE_BINARY_ONLY = {"TRITON_STORE_BINARY_ONLY": "1"}
"""Has Triton keep machine code without what came before it. It does not change the cache's keys."""


class CompileTarget:
    """Compiles for a GPU that is known by its data alone.

    Args:
        source: the kernel source, see ``measure.source``.
        cache: folder for Triton's cache.
        workers: compile processes.
        deadline_s: seconds after which a compile is given up.
        conditions: under which the binaries are to be launched.
    """

    def __init__(
        self,
        gpu: GpuInfo,
        source: str,
        *,
        cache: Path,
        workers: int,
        deadline_s: float,
        conditions: Conditions | None = None,
    ) -> None:
        self.gpu, self.workers = gpu, workers
        self._source = source
        vendor = backend_named(gpu.backend)
        environment = {**vendor.environment, **STORE_THE_BINARY_ONLY, "TRITON_CACHE_DIR": str(cache.resolve())}
        environment |= (conditions or Conditions()).environment
        self._server = ForkServer([COMPILE_MODULE, vendor.children, source], environment)
        self._farm = CompileFarm(self._server, gpu, source, workers=workers, deadline=Deadline(deadline_s))
        self._facts = KernelFacts(self._farm, gpu)

    def kernel_source(self, kernel: str) -> str:
        """Which code of a kernel is compiled."""
        return self._facts.source(kernel)

    def decided_by(self, problem: Problem) -> tuple[str, ...]:
        """Name the kernels that decide for a problem's, because its engine launches them in its place."""
        return self._facts.decided_by(problem)

    def default_config(self, spec: AnySpec, problem: Problem) -> dict[str, int]:
        """Return the config that runs on this GPU where nothing was tuned."""
        return default_config(self._source, spec, problem, self.gpu)

    def effective_configs(self, problem: Problem, configs: Sequence[Config]) -> list[Config]:
        """Ask the kernel what it makes of each config on this GPU."""
        return self._facts.effective_configs(problem, configs)

    def key(self, problem: Problem, config: Config) -> Hashable:
        """Return what is equal for configs that share one binary."""
        (number,) = self._facts.numbers(problem, [config])
        return number

    def compile(self, problem: Problem, config: Config) -> Future[Build]:
        """Start compiling."""
        (number,) = self._facts.numbers(problem, [config])
        return self._farm.submit(number, problem, config)

    def identity(self, examples: IdentityRequest) -> Identity:
        """Return what the binaries depend on. Raises DeviceError and WorkerError."""
        return identity(self._farm, self.gpu, self._source, examples)

    @property
    def activity(self) -> FarmActivity:
        """What the compilers have done so far."""
        return self._farm.activity

    def close(self) -> None:
        """End the compilers; compiles under way end as invalid."""
        self._farm.close()
        self._server.close()
