"""How the time of an engine's steps is spread over its lookups, before anything is measured, and which m to give keys.

A lookup's time is estimated from the bytes that its kernel moves: adapters are of low rank, so their kernels wait for
memory. Shares alone are made of it.
"""

from collections.abc import Mapping, Sequence

from bo_tune.core.problem import LoraProblem
from bo_tune.engines.vllm.lookup import nearest_of
from bo_tune.kernels.moe.spec import MOE_SPEC

LAUNCH_US = 3.0
"""Of a kernel that moves nothing."""

BYTES_PER_US = 2e6
"""What these kernels move of an H100's or H200's 3.4 to 4.8 TB/s."""

OWN_KEY_SHARE, OWN_KEY_APART = 0.01, 1 / 16
"""A number of tokens that takes so much of the time gets a key, unless there is one so near it."""

ANY_KEY_APART = 1 / 3
"""Others get one where there is none so near, as between powers of two."""

COVERED_SHARE = 0.995
"""Keys are placed until so much of the time has one near."""


def estimate_us(problem: LoraProblem, adapters: int) -> float:
    """Return about how long a kernel takes of a problem.

    Args:
        adapters: that the tokens of the step use.
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
        times: how much of the time each takes, in any unit.
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
