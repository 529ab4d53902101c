"""What timing configs in turn does to their times: trials, races, one config alone, on an idle host and a busy one.

``python benchmarks/in_turn.py`` needs a GPU. All of it happens in one GPU process, whose requests are made here: of
configs of one shrink problem that take 10 to 13 us, each loaded beforehand. It prints times in us, a row for each way.
"""

import subprocess
import sys
import time
from collections.abc import Iterable, Sequence

from bo_tune.core.conditions import Conditions
from bo_tune.core.outcome import Measurement, estimate_us
from bo_tune.core.problem import LoraProblem
from bo_tune.core.repetitions import TimingProtocol
from bo_tune.measure.backends.nvidia.children import GpuSide
from bo_tune.measure.gpu.process import GpuServer
from bo_tune.measure.source import BUILTIN

PROBLEM = LoraProblem("lora_shrink", 4, 1, 256, 4096, 16)
BASE = {"block_m": 16, "block_n": 32, "num_warps": 4, "split_k": 8, "num_ctas": 1}
CONFIGS = [{**BASE, "block_k": block_k, "num_stages": stages} for block_k in (64, 128, 256) for stages in (2, 3)]
ROUNDS = 60
BUSY_PROCESSES = 40


def trial_us(server: GpuServer, config: dict[str, int], repetitions: int = 10) -> float:
    """Time of a config measured as a trial is."""
    protocol = TimingProtocol(first=3, repetitions=repetitions)
    answer = server.measure(PROBLEM, config, protocol, None)
    assert isinstance(answer.outcome, Measurement)
    return answer.outcome.time_us


def race_us(server: GpuServer, configs: Sequence[dict[str, int]]) -> list[float]:
    """Times of configs measured in turn."""
    answer = server.remeasure(PROBLEM, configs, ROUNDS)
    return [estimate_us(runtimes) for runtimes in answer.runtimes_us]


def rows(server: GpuServer) -> Iterable[tuple[str, list[float]]]:
    """Yield ways of timing, each with the times of all configs."""
    yield "trial", [trial_us(server, config) for config in CONFIGS]
    yield "trial again", [trial_us(server, config) for config in CONFIGS]
    yield "trial of 60 repetitions", [trial_us(server, config, ROUNDS) for config in CONFIGS]
    yield "race of one", [race_us(server, [config])[0] for config in CONFIGS]
    for is_led in (True, False, True):
        server._timer.is_led = is_led
        yield f"race, {'led' if is_led else 'not led'}", race_us(server, CONFIGS)


def shown(state: str, server: GpuServer) -> None:
    """Print all rows."""
    for name, times in rows(server):
        print(f"{state:6s}{name:26s}" + "".join(f"{time_us:8.2f}" for time_us in times), flush=True)


def main() -> None:
    """Print everything, first with nothing beside, then with more busy processes than there are cores."""
    server = GpuServer(GpuSide(0), BUILTIN, Conditions())
    loading = [trial_us(server, config) for config in CONFIGS]
    print("".join(f"{time_us:8.2f}" for time_us in loading), " right after each was loaded")
    shown("idle", server)
    busy = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(BUSY_PROCESSES)]
    try:
        time.sleep(0.5)
        shown("busy", server)
    finally:
        for process in busy:
            process.kill()
            process.wait()


if __name__ == "__main__":
    main()
