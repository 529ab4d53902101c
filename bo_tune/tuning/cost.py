"""What trying a config costs: the price that a study's sampler weighs its promise against.

A config whose binary exists costs the GPU some milliseconds. One that must be compiled costs more, how much more
depends on what the session lacks. Where all compilers are at work it is their time: 40 to 70 ms of the session for each
compile, against 2 to 5 ms. Where they idle, as with a pack, a compile delays nothing but its own study, and the
session has dozens: in one of 84 on an H100 a trial took its study 0.34 s on average, waiting for the GPU included, and
a compile 0.74 s more. Between the two, the price is a geometric mean by the share of the time that compilers work.

Compiles differ by as much: of the recorded shrink grids half take less than 0.6 s of a core, and 2 % more than 8. One
that is expected to take more than twice the usual costs in proportion (improvement per second: Snoek, Larochelle &
Adams, "Practical Bayesian optimization of machine learning algorithms", 2012, section 3.2). One that takes less costs
no less: where good configs are among the large, as they often are, a search that shuns them finds them late.

So prices depend on what the compilers are doing and on which binaries other studies have had compiled by then. A
proposal follows from the seed, the study's content and the prices: replays, where nothing is compiled, repeat exactly;
on a GPU two sessions may differ.
"""

import time
from collections.abc import Callable, Sequence

import numpy as np

from bo_tune.core.problem import Problem
from bo_tune.core.space import Config
from bo_tune.measure.device import Device
from bo_tune.search import Cost
from bo_tune.search.gp.correlation import Array, Indices

COMPILED_WHERE_BUSY = 0.1
"""Cost of a config whose binary exists over one to be compiled, where all compilers are at work."""

COMPILED_WHERE_IDLE = 0.3
"""The same where they idle. On recorded grids of which a pack holds a part, a study without history that pays it has
a compile for 1.5 % of 40 trials instead of 7.9 %, and leaves as little regret as if compiling were for nothing. So does
0.1; with packs as they were filled before, it left more at 20 trials (``benchmarks/results/pack_price.md``)."""


SLOW = 2.0
"""Times the usual that a compile may take at no further cost. On 19 bundled grids without history, 4 seeds, it saved
11 % of the compile seconds of 20 trials, and regret changed by -0.2 ± 0.3 points. ``1`` saved more, and found good
configs later: 1.4 ± 0.8 points of regret more on 8 grids."""


def cost(device: Device, problem: Problem, configs: Sequence[Config]) -> Cost:
    """Return what says of configs, by index, what trying each costs, as a share of one that must be compiled."""
    have, slowness = device.binaries(problem, configs), device.slowness(problem, configs)
    load = compiler_load(device)

    def costs(indices: Indices) -> Array:
        slow = np.maximum(1.0, slowness()[indices] / SLOW)
        return np.where(have()[indices], cost_of_compiled(load()), slow)

    return costs


def cost_of_compiled(load: float) -> float:
    """Return the cost of a config whose binary exists.

    Args:
        load: share of the time that compilers work, 0 to 1.
    """
    return float(COMPILED_WHERE_IDLE ** (1.0 - load) * COMPILED_WHERE_BUSY**load)


def compiler_load(device: Device, clock: Callable[[], float] = time.perf_counter) -> Callable[[], float]:
    """Return what says, whenever it is called, which share of the time since now the device's compilers worked.

    1 where a compile is waiting for a worker, and for a device that compiles nothing.
    """
    first, start = device.activity.farm, clock()

    def load() -> float:
        farm, passed_s = device.activity.farm, clock() - start
        if farm is None or first is None or farm.waiting > 0:
            return 1.0
        return min(1.0, (farm.busy_s - first.busy_s) / (farm.workers * passed_s)) if passed_s > 0 else 0.0

    return load
