"""A GPU process without a GPU: makes a user's inputs and references on the CPU, and takes times from the config."""

import torch

from bo_tune.core.outcome import Launches, LaunchPurpose, Measurement
from bo_tune.core.problem import GpuInfo, SizedProblem
from bo_tune.core.space import Config
from bo_tune.measure.device import Remeasured
from bo_tune.measure.messages import (
    Hello,
    HelloRequest,
    MeasureAnswer,
    MeasureRequest,
    PrepareRequest,
    RemeasureRequest,
)
from bo_tune.measure.source import operations_of
from bo_tune.processes.worker import serve

GPU = GpuInfo("NVIDIA Fake 1", (9, 0), sm_count=132, shared_memory_bytes=232448)


class FakeGpu:
    """Answers as the real one."""

    def __init__(self, source: str) -> None:
        self._operation = operations_of(source)

    def answer(self, request: object) -> object:
        match request:
            case HelloRequest():
                return Hello(GPU, {"driver": "1", "torch": "2", "triton": "3"})
            case PrepareRequest(problem):
                self._prepare(problem)
                return None
            case RemeasureRequest(_, configs, rounds):
                times = [(time_us(config),) * rounds for config in configs]
                return Remeasured(times, Launches({LaunchPurpose.FINALISTS: rounds * len(configs)}))
            case MeasureRequest(_, config, _, _):
                launches = Launches({LaunchPurpose.CHECK: 1, LaunchPurpose.TIMING: 3})
                return MeasureAnswer(Measurement((time_us(config),) * 3, launches=launches))
        raise TypeError(request)

    def _prepare(self, problem: SizedProblem) -> None:
        operation = self._operation(problem.kernel)
        inputs = operation.make_inputs(problem, seed=0, device=torch.device("cpu"))
        assert operation.right(inputs).nbytes > 0


def time_us(config: Config) -> float:
    """The best has the largest block and 4 warps."""
    return 1000.0 / config.get("BLOCK", 64) + abs(config["num_warps"] - 4) + (config.get("CLAMP", 1) - 1) / 4


def main(arguments: list[str], fd: int) -> None:
    """Serve the parent."""
    serve(fd, FakeGpu(arguments[1]).answer)
