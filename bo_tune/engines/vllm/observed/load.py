"""Estimates how an engine's steps spend time on its lookups, before anything is measured, and places the keys m.

The time of a lookup is estimated from the bytes that its kernel moves. Adapters have a low rank, so their kernels wait
for memory. Only ratios of these times are used.
"""

from collections.abc import Mapping, Sequence

from bo_tune.core.problem import LoraProblem
from bo_tune.engines.vllm.lookup import nearest_of
from bo_tune.kernels.moe.spec import MOE_SPEC

LAUNCH_US = 3.0
"""Time of a kernel that moves nothing."""

BYTES_PER_US = 2e6
"""Bandwidth that these kernels reach, of the 3.4 to 4.8 TB/s of an H100 or H200."""

OWN_KEY_SHARE, OWN_KEY_APART = 0.01, 1 / 16
"""A number of tokens with at least this share of the time gets a key, unless another key is this near (relative to
it)."""

ANY_KEY_APART = 1 / 3
"""Other numbers get a key if no key is this near. The distance is that between powers of two."""

COVERED_SHARE = 0.995
"""Keys are added until this share of the time has a key nearby."""


def estimate_us(problem: LoraProblem, adapters: int) -> float:
    """Estimate the time of a kernel for a problem, in us.

    Args:
        adapters: number of adapters that the tokens of the step use.
    """
    moe = MOE_SPEC.get(problem.kernel)
    if moe is None or problem.experts is None:
        rows, pairs, k, widths = problem.m, adapters, problem.k, sum(problem.slice_sizes)
    else:
        rows = problem.m * problem.experts.top_k
        pairs = adapters * min(problem.experts.local, rows)
        k, widths = moe.product_length(problem), problem.num_slices * moe.product_width(problem)
    return LAUNCH_US + (2.0 * pairs * k * widths + 4.0 * rows * (k + widths)) / BYTES_PER_US


def place(times: Mapping[int, float]) -> list[int]:
    """Return the numbers of tokens that get a key of their own, ascending.

    Args:
        times: share of the time by number of tokens, in any unit.
    """
    total = sum(times.values())
    by_time = sorted(times, key=lambda m: (-times[m], -m))
    keys: list[int] = []
    for m in by_time:
        if times[m] >= OWN_KEY_SHARE * total and not _is_near(m, keys, OWN_KEY_APART):
            keys.append(m)
    for m in by_time:
        near = sum(times[other] for other in times if _is_near(other, keys, ANY_KEY_APART))
        if near >= COVERED_SHARE * total:
            break
        if not _is_near(m, keys, ANY_KEY_APART):
            keys.append(m)
    return sorted(keys)


def _is_near(m: int, keys: Sequence[int], apart: float) -> bool:
    return bool(keys) and abs(nearest_of(sorted(keys), m) - m) <= apart * m
