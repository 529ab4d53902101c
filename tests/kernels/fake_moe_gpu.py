"""A GPU process without a GPU for ``test_vllm_moe_session``.

One launch is fastest under block_m 32, the two kernels are under 16.
"""

from collections.abc import Sequence
from functools import partial

from bo_tune.core.outcome import Launches, LaunchPurpose, Measurement
from bo_tune.core.problem import GpuInfo, LoraProblem
from bo_tune.core.space import Config
from bo_tune.measure.device import MeasureAnswer, Remeasured
from bo_tune.processes.worker import called, serve

GPU = GpuInfo("NVIDIA H100 80GB HBM3", (9, 0), sm_count=132, shared_memory_bytes=232448)


def time_us(problem: LoraProblem, config: Config) -> float:
    """Time of a config, in us."""
    if problem.kernel in ("fused_moe_lora_w13", "fused_moe_lora_w2"):
        return 10.0 + abs(config["block_m"] - 32) / 10
    return 5.0 + config["block_m"] / 100


class FakeGpu:
    """What the parent calls."""

    def hello(self) -> tuple[GpuInfo, dict[str, str]]:
        return GPU, {"driver": "1", "torch": "2", "triton": "3"}

    def prepare(self, problem: LoraProblem) -> None:
        return

    def remeasure(self, problem: LoraProblem, configs: Sequence[Config], rounds: int) -> Remeasured:
        times = [(time_us(problem, config),) * rounds for config in configs]
        return Remeasured(times, Launches({LaunchPurpose.FINALISTS: rounds * len(configs)}))

    def measure(
        self, problem: LoraProblem, config: Config, protocol: object, stop_above_us: float | None
    ) -> MeasureAnswer:
        launches = Launches({LaunchPurpose.CHECK: 1, LaunchPurpose.TIMING: 3})
        return MeasureAnswer(Measurement((time_us(problem, config),) * 3, launches=launches))


def main(arguments: list[str], fd: int) -> None:
    """Serve the parent."""
    serve(fd, partial(called, FakeGpu()))
