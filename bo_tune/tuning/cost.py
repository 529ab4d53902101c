"""The cost of trying a config, against which a study's sampler weighs the config's promise.

A config whose binary exists costs the GPU some milliseconds. One that must be compiled costs more, and how much more
depends on what the session lacks. If all compilers are busy, it is their time: each compile takes 40 to 70 ms of the
session, against 2 to 5 ms for a config whose binary exists. If they idle, as with a pack, a compile delays only its own
study, and a session has dozens. In a session of 84 studies on an H100, a trial took its study 0.34 s on average,
including waits for the GPU, and a compile added 0.74 s. Between the two cases, the price is a geometric mean, weighted
by the share of the time that compilers work.

Compiles differ as much: of the recorded shrink grids, half take less than 0.6 s of a core, and 2 % more than 8. A
compile that is expected to take more than twice the usual time costs in proportion (improvement per second: Snoek,
Larochelle & Adams, "Practical Bayesian optimization of machine learning algorithms", 2012, section 3.2). A faster one
costs no less: good configs are often among the large ones, and a search that shuns those finds them late.

So prices depend on what the compilers are doing, and on which binaries other studies have had compiled by then. A
proposal follows from the seed, the study's content and the prices. Replays compile nothing and so repeat exactly. On a
GPU, two sessions may differ.
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
"""Cost of a config whose binary exists over one to be compiled, if all compilers are busy."""

COMPILED_WHERE_IDLE = 0.3
"""The same if they idle. On recorded grids of which a pack holds a part, a study without history has a compile for 1.5
% of 40 trials at this price instead of 7.9 %, and leaves as little regret as if compiling were free. So does 0.1, but
with packs as they were filled before, 0.1 left more regret at 20 trials (``benchmarks/results/pack_price.md``)."""


SLOW = 2.0
"""A compile may take this many times the usual at no further cost. On 19 bundled grids without history, 4 seeds, this
saved 11 % of the compile seconds of 20 trials, and regret changed by -0.2 ± 0.3 points. ``1`` saved more, but found
good configs later: 1.4 ± 0.8 points of regret more on 8 grids."""


def cost(device: Device, problem: Problem, configs: Sequence[Config]) -> Cost:
    """Return a function from indices of configs to the cost of trying each, as a share of one that must be compiled."""
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
    """Return a function that tells, at each call, for which share of the time since now the compilers worked.

    It is 1 if a compile is waiting for a worker, and for a device that compiles nothing.
    """
    first, start = device.activity.farm, clock()

    def load() -> float:
        farm, passed_s = device.activity.farm, clock() - start
        if farm is None or first is None or farm.waiting > 0:
            return 1.0
        return min(1.0, (farm.busy_s - first.busy_s) / (farm.workers * passed_s)) if passed_s > 0 else 0.0

    return load
