"""A GPU process without a GPU for ``test_gpu_device``: answers as the real one, and misbehaves by block_m."""

import os
import sys
import time
from collections.abc import Sequence
from functools import partial

from bo_tune.core.outcome import Invalid, InvalidReason, Launches, LaunchPurpose, Measurement
from bo_tune.core.problem import GpuInfo, LoraProblem
from bo_tune.core.space import Config
from bo_tune.measure.device import MeasureAnswer, Remeasured
from bo_tune.processes.worker import called, serve

GPU = GpuInfo("NVIDIA Fake 1", (9, 0), sm_count=1, shared_memory_bytes=100_000)
LAUNCHES: Launches = Launches({LaunchPurpose.CHECK: 1, LaunchPurpose.TIMING: 3})


class FakeGpu:
    """What the parent calls."""

    def hello(self) -> tuple[GpuInfo, dict[str, str]]:
        return GPU, {"driver": "1", "torch": "2", "triton": "3", "pid": str(os.getpid())}

    def prepare(self, problem: LoraProblem) -> None:
        if problem.m == 13:
            raise MemoryError("out of memory")

    def remeasure(self, problem: LoraProblem, configs: Sequence[Config], rounds: int) -> Remeasured:
        alone = len(configs) == 1
        if any(config["block_m"] == 64 or (config["num_warps"] == 1 and not alone) for config in configs):
            os._exit(1)
        if any(config["block_m"] == 32 for config in configs):
            time.sleep(600)
        times = [(float(config["block_m"]),) * rounds for config in configs]
        return Remeasured(times, Launches({LaunchPurpose.FINALISTS: rounds * len(configs)}))

    def measure(
        self, problem: LoraProblem, config: Config, protocol: object, stop_above_us: float | None
    ) -> MeasureAnswer:
        block_m = config["block_m"]
        if block_m == 32:
            time.sleep(600)
        if block_m == 64:
            sys.stderr.write("CUDA error: an illegal memory access was encountered\n")
            sys.stderr.flush()
            os._exit(1)
        if block_m == 128:
            return MeasureAnswer(Invalid(InvalidReason.LAUNCH_ERROR, "unspecified launch failure"), healthy=False)
        times = (float(os.getpid()), 1.0 if stop_above_us is None else stop_above_us)
        return MeasureAnswer(Measurement(times, launches=LAUNCHES))


def main(arguments: list[str], fd: int) -> None:
    """Serve the parent."""
    serve(fd, partial(called, FakeGpu()))
