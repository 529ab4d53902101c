"""A GPU process without a GPU: makes the arguments of calls on the CPU, and takes times from the config."""

from collections.abc import Sequence
from functools import partial

import torch

from bo_tune.core.outcome import Launches, LaunchPurpose, Measurement
from bo_tune.core.problem import GpuInfo, SizedProblem
from bo_tune.core.space import Config
from bo_tune.measure.device import MeasureAnswer, Remeasured
from bo_tune.measure.source import operations_of
from bo_tune.processes.worker import called, serve

GPU = GpuInfo("NVIDIA Fake 1", (9, 0), sm_count=132, shared_memory_bytes=232448)


class FakeGpu:
    """What the parent calls."""

    def __init__(self, source: str) -> None:
        self._operation = operations_of(source)

    def hello(self) -> tuple[GpuInfo, dict[str, str]]:
        return GPU, {"driver": "1", "torch": "2", "triton": "3"}

    def remeasure(self, problem: SizedProblem, configs: Sequence[Config], rounds: int) -> Remeasured:
        times = [(time_us(config),) * rounds for config in configs]
        return Remeasured(times, Launches({LaunchPurpose.FINALISTS: rounds * len(configs)}))

    def measure(
        self, problem: SizedProblem, config: Config, protocol: object, stop_above_us: float | None
    ) -> MeasureAnswer:
        launches = Launches({LaunchPurpose.CHECK: 1, LaunchPurpose.TIMING: 3})
        return MeasureAnswer(Measurement((time_us(config),) * 3, launches=launches))

    def prepare(self, problem: SizedProblem) -> None:
        operation = self._operation(problem.kernel)
        assert operation.make_inputs(problem, seed=0, device=torch.device("cpu")).arguments


def time_us(config: Config) -> float:
    """The best has the largest block and 4 warps."""
    return 1000.0 / config["BLOCK"] + abs(config["num_warps"] - 4)


def main(arguments: list[str], fd: int) -> None:
    """Serve the parent."""
    serve(fd, partial(called, FakeGpu(arguments[1])))
