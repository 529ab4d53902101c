"""From layers and the engine's settings to the problems that it looks up."""

from collections.abc import Iterable, Sequence
from dataclasses import replace

from bo_tune.core.problem import LoraProblem
from bo_tune.engines.models.layers import LoraLayer
from bo_tune.engines.vllm.lookup import nearest_of

SHRINK = "lora_shrink"
EXPAND = "lora_expand"
DENSE_KERNELS = (SHRINK, EXPAND)
"""Kernels whose problems follow from a dense layer."""


def lookup_of(problem: LoraProblem) -> tuple[object, ...]:
    """Return a key that is equal for problems that share one entry in the JSON files."""
    return (
        problem.kernel, problem.max_loras, problem.num_slices, problem.m, problem.k, problem.n, problem.i,
        problem.add_inputs,
    )  # fmt: skip


def keys_m(layer: LoraLayer, ms: Sequence[int], most_logits: int) -> Sequence[int]:
    """Return the keys m under which a layer is looked up, if the file has the keys ``ms``.

    One of them may be above the largest m that is asked for, as the nearest key to it. Without an entry there, another
    layer's config would be taken.

    Args:
        most_logits: most rows that become logits in a step, and so the largest m of a layer that runs only for them.
    """
    if not layer.per_sequence or not ms:
        return ms
    last = nearest_of(sorted(ms), most_logits)
    return [m for m in ms if m <= last]


def layer_problems(
    kernel: str, layer: LoraLayer, max_loras: int, rank: int, m: int, dtype: str, add_inputs: Iterable[bool]
) -> list[LoraProblem]:
    """Return the problems of a layer for one of ``DENSE_KERNELS``.

    Args:
        add_inputs: whether expand adds to its output, with a problem for each value.

    Raises:
        ModelError: the rank is not divisible by the number of ranks that share it.
    """
    slices, shrunk = len(layer.slice_sizes), layer.shrink_n(rank)
    if kernel == SHRINK:
        k = layer.shrink_k
        return [] if k is None else [LoraProblem(kernel, max_loras, slices, m, k, shrunk, dtype=dtype)]
    expand = LoraProblem(
        kernel, max_loras, slices, m, rank, max(layer.slice_sizes), dtype=dtype, slice_sizes=layer.slice_sizes
    )
    return [replace(expand, add_inputs=adds) for adds in add_inputs]
