"""Compiles what an engine with a tuned folder will launch, into the cache in which its Triton looks.

At its start vLLM compiles for the sizes of its CUDA graphs and for its largest step. A tuned folder has a config for
each number of tokens, so steps of other sizes find kernels that nobody has compiled, and their requests wait for the
compiler.
"""

import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import as_completed
from dataclasses import dataclass, replace
from itertools import pairwise

from bo_tune.core.outcome import Invalid
from bo_tune.core.problem import LoraProblem
from bo_tune.core.space import Config
from bo_tune.engines.check.findings import Report
from bo_tune.engines.models.problems import DENSE_KERNELS, EXPAND, SHRINK
from bo_tune.engines.vllm.lookup import Found
from bo_tune.measure.compile.compilers import Compilers

DIVISOR = 16
"""Triton compiles a kernel anew for a number of tokens that is 1, for multiples of this, and for others."""

Launch = tuple[LoraProblem, Config]


@dataclass(frozen=True, slots=True)
class Warmed:
    """What is in the cache.

    Attributes:
        binaries: all that the launches need.
        there: of these, those that were there before.
        failed: why others could not be compiled, in one line each.
        elapsed_s: of compiling.
    """

    binaries: int
    there: int
    failed: tuple[str, ...]
    elapsed_s: float


def engine_launches(report: Report) -> list[Launch]:
    """Return launches of dense adapters' kernels that have all binaries which an engine with the folder asks for."""
    by_layer: defaultdict[LoraProblem, dict[int, Config]] = defaultdict(dict)
    for one in report.lookups:
        problem, found = one.problem, None if one.faults else one.found
        if isinstance(problem, LoraProblem) and problem.kernel in DENSE_KERNELS and isinstance(found, Found):
            by_layer[replace(problem, m=1)][problem.m] = found.config
    return [
        (replace(layer, m=m), configs[start])
        for layer, configs in by_layer.items()
        for start, end in pairwise([*sorted(configs), max(configs) + 1])
        for m in _of_each_kind(start, end)
    ]


def left_out(report: Report) -> Iterator[str]:
    """Yield, for kernels of an engine that ``engine_launches`` leaves out, what that means.

    An embedding shrinks by reading rows, so it asks for expand alone. Its expand kernel has another type of input.
    """
    layers = {kernel: {layer for one in report.lookups for layer in one.layers if one.problem.kernel == kernel}
              for kernel in DENSE_KERNELS}  # fmt: skip
    left = {
        "experts": any(one.problem.kernel not in DENSE_KERNELS for one in report.lookups),
        "embeddings": bool(layers[EXPAND] - layers[SHRINK]),
    }
    if any(left.values()):
        names = " and ".join(name for name, is_there in left.items() if is_there)
        yield f"the kernels of {names} are left to the engine, which compiles them when it needs them"


def _of_each_kind(start: int, end: int) -> Iterator[int]:
    """Yield numbers of tokens from ``start`` to below ``end``, which find one entry: one of each kind of binary."""
    multiple = -(-start // DIVISOR) * DIVISOR
    yield from sorted({m for m in (start, start + 1, multiple) if m < end})


def warm(launches: Sequence[Launch], target: Compilers, progress: Callable[[int, int], None]) -> Warmed:
    """Compile the binaries of launches that are not in the cache yet.

    Args:
        progress: is told how many binaries are done, and of how many.

    Raises:
        DeviceError: the kernel source cannot serve.
        KeyboardInterrupt: Ctrl-C. What was compiled stays in the cache.
    """
    start = time.perf_counter()
    distinct = {target.key(problem, config): (problem, config) for problem, config in launches}
    futures = [target.compile(problem, config) for problem, config in distinct.values()]
    progress(0, len(futures))
    try:
        for done, _ in enumerate(as_completed(futures), 1):
            progress(done, len(futures))
    except KeyboardInterrupt:
        for problem, config in distinct.values():
            target.withdraw(problem, config)
        raise
    builds = [future.result() for future in futures]
    failed = tuple(f"{build.reason}: {build.detail}" for build in builds if isinstance(build, Invalid))
    there = sum(build.compilation.cached for build in builds)
    return Warmed(len(builds), there, failed, time.perf_counter() - start)
