"""A GPU process without a GPU that fails as one can, for ``test_faults``: by its config, 5 % of all in each way."""

import os
import sys
import time
import zlib
from collections.abc import Sequence
from functools import partial

from fake_gpu import GPU, LAUNCHES

from bo_tune.core.outcome import Invalid, InvalidReason, Launches, LaunchPurpose, Measurement
from bo_tune.core.problem import GpuInfo, LoraProblem
from bo_tune.core.space import Config
from bo_tune.measure.device import MeasureAnswer, Remeasured
from bo_tune.processes.worker import called, serve

FAULTS = ("illegal address", "infinite loop", "device assert", "exit", "out of memory")
PERCENT_EACH = 5


def fault_of(problem: LoraProblem, config: Config) -> str | None:
    """Say how a config fails, or None."""
    drawn = zlib.crc32(f"{problem.m} {sorted(config.items())}".encode()) % 100 // PERCENT_EACH
    return FAULTS[drawn] if drawn < len(FAULTS) else None


def time_us(config: Config) -> float:
    """Time of a config, in us."""
    return 5.0 + zlib.crc32(str(sorted(config.items())).encode()) % 1000 / 100


class FaultyGpu:
    """What the parent calls."""

    def hello(self) -> tuple[GpuInfo, dict[str, str]]:
        return GPU, {"driver": "1"}

    def prepare(self, problem: LoraProblem) -> None:
        return

    def remeasure(self, problem: LoraProblem, configs: Sequence[Config], rounds: int) -> Remeasured:
        times = [(time_us(config),) * rounds for config in configs]
        return Remeasured(times, Launches({LaunchPurpose.FINALISTS: rounds * len(configs)}))

    def measure(
        self, problem: LoraProblem, config: Config, protocol: object, stop_above_us: float | None
    ) -> MeasureAnswer:
        return _measure(config, fault_of(problem, config))


def _measure(config: Config, fault: str | None) -> MeasureAnswer:
    match fault:
        case None:
            return MeasureAnswer(Measurement((time_us(config),) * 3, launches=LAUNCHES))
        case "illegal address" | "device assert":
            return MeasureAnswer(Invalid(InvalidReason.LAUNCH_ERROR, f"CUDA error: {fault}"), healthy=False)
        case "infinite loop":
            time.sleep(600)
        case "exit":
            sys.stderr.write("the kernel's last words\n")
            sys.stderr.flush()
            os._exit(3)
    return MeasureAnswer(Invalid(InvalidReason.LAUNCH_ERROR, "CUDA out of memory"))


def main(arguments: list[str], fd: int) -> None:
    """Serve the parent."""
    serve(fd, partial(called, FaultyGpu()))
