"""A GPU process without a GPU for sessions of kernels with sizes: large blocks and many warps are slow."""

from collections.abc import Sequence
from functools import partial

from bo_tune.core.outcome import Launches, LaunchPurpose, Measurement
from bo_tune.core.problem import GpuInfo, SizedProblem
from bo_tune.core.space import Config
from bo_tune.measure.device import MeasureAnswer, Remeasured
from bo_tune.processes.worker import called, serve

GPU = GpuInfo("NVIDIA H200", (9, 0), sm_count=132, shared_memory_bytes=232448)
TRITON = "3.6.0"


def time_us(config: Config) -> float:
    """Time of a config, in us."""
    return 10.0 + sum(value / 64 for value in config.values())


class FakeGpu:
    """What the parent calls."""

    def hello(self) -> tuple[GpuInfo, dict[str, str]]:
        return GPU, {"driver": "1", "torch": "2", "triton": TRITON}

    def prepare(self, problem: SizedProblem) -> None:
        return

    def remeasure(self, problem: SizedProblem, configs: Sequence[Config], rounds: int) -> Remeasured:
        times = [(time_us(config),) * rounds for config in configs]
        return Remeasured(times, Launches({LaunchPurpose.FINALISTS: rounds * len(configs)}))

    def measure(
        self, problem: SizedProblem, config: Config, protocol: object, stop_above_us: float | None
    ) -> MeasureAnswer:
        launches = Launches({LaunchPurpose.CHECK: 1, LaunchPurpose.TIMING: 3})
        return MeasureAnswer(Measurement((time_us(config),) * 3, launches=launches))


def main(arguments: list[str], fd: int) -> None:
    """Serve the parent."""
    serve(fd, partial(called, FakeGpu()))
