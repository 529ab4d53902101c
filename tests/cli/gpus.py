"""``bo-tune`` on GPUs that are not there, for ``test_host_workers``: ``python gpus.py tune … --gpus 0,1``.

The kernels, the compile farm and the GPU processes' protocol are the real ones; nothing is compiled, though it may take
a while all the same (``FAKE_COMPILE_S``), and a time follows from the config. Workers are started anew from this file,
and find the same GPUs.
"""

import json
import math
import os
import sys
from collections.abc import Sequence
from functools import partial
from importlib import import_module
from pathlib import Path

from bo_tune.cli import main as bo_tune
from bo_tune.core.outcome import Launches, LaunchPurpose, Measurement
from bo_tune.core.problem import GpuInfo, Problem
from bo_tune.core.space import Config
from bo_tune.measure.backends.base import GpuIdentity
from bo_tune.measure.backends.nvidia.backend import Nvidia
from bo_tune.measure.compile import farm as compile_farm
from bo_tune.measure.device import MeasureAnswer, Remeasured
from bo_tune.measure.gpu import device as cuda
from bo_tune.measure.watch.neighbours import Reading, WatchError
from bo_tune.processes.worker import called, serve
from bo_tune.session.workers import host as host_workers

NAME = "gpus"
GPU = GpuInfo("NVIDIA Fake 9", (9, 0), sm_count=100, shared_memory_bytes=200_000)
BEST = {"block_m": 32, "block_n": 64, "block_k": 64, "num_warps": 4}


def time_us(config: Config) -> float:
    """Farther from the best by a factor of two, slower by a tenth."""
    return 10.0 + sum(abs(math.log2(config[name] / best)) for name, best in BEST.items())


class FakeGpu:
    """What the parent calls in a GPU process."""

    def hello(self) -> tuple[GpuInfo, dict[str, str]]:
        """Say what it is."""
        return GPU, {"driver": "1", "torch": "2", "triton": "3"}

    def prepare(self, problem: Problem) -> None:
        """Nothing is prepared."""

    def remeasure(self, problem: Problem, configs: Sequence[Config], rounds: int) -> Remeasured:
        """Time configs in turn."""
        times = [(time_us(config),) * rounds for config in configs]
        return Remeasured(times, Launches({LaunchPurpose.FINALISTS: rounds * len(configs)}))

    def measure(self, problem: Problem, config: Config, protocol: object, stop_above_us: float | None) -> MeasureAnswer:
        """Time a config."""
        launches = Launches({LaunchPurpose.CHECK: 1, LaunchPurpose.TIMING: 10})
        return MeasureAnswer(Measurement((time_us(config),) * 10, launches=launches))


class Watch:
    """What the driver says of the GPUs: what the file ``FAKE_WATCH`` holds, read anew every time."""

    is_slice = False

    def __init__(self) -> None:
        self.read()

    def read(self) -> Reading:
        """Read it. Raises WatchError where there is no such file."""
        file = os.environ.get("FAKE_WATCH")
        if file is None:
            raise WatchError("there is no FAKE_WATCH")
        said = json.loads(Path(file).read_text())
        return Reading(frozenset(said["processes"]), utilisation_percent=said["utilisation_percent"])

    def close(self) -> None:
        """Nothing is held."""


def identities(vendor: Nvidia) -> list[GpuIdentity]:
    """Return the GPUs."""
    return [GpuIdentity(str(number), "") for number in range(2)]


def before_forking() -> None:
    """Import what imports torch: where children are forked, and nowhere else, as in the real thing."""
    import_module("no_compiler")


def main(arguments: list[str] | None = None, fd: int = -1) -> None:
    """Serve as a GPU process, which is told its number, or as a compiler; or be a worker, which is told nothing."""
    if arguments is None:
        host_workers.main()
        return
    if arguments[0].isdecimal():
        serve(fd, partial(called, FakeGpu()))
    import_module("no_compiler").main(arguments, fd)


Nvidia.watch = lambda self, identity: Watch()  # type: ignore[method-assign]
Nvidia.identities = identities  # type: ignore[method-assign]
Nvidia.driver_release = lambda self: os.environ.get("FAKE_DRIVER") or None  # type: ignore[method-assign]
cuda.GPU_MODULE = cuda.COMPILE_MODULE = compile_farm.MODULE = host_workers.MODULE = NAME

if __name__ == "__main__":
    sys.argv[0] = "bo-tune"
    bo_tune()
