"""From layers and the engine's settings to the problems that it looks up."""

from collections.abc import Iterable, Sequence
from dataclasses import replace

from bo_tune.core.problem import LoraProblem
from bo_tune.engines.models.layers import LoraLayer
from bo_tune.engines.vllm.lookup import nearest_of

SHRINK = "lora_shrink"
EXPAND = "lora_expand"
DENSE_KERNELS = (SHRINK, EXPAND)
"""Kernels whose problems can be told from a dense layer."""


def lookup_of(problem: LoraProblem) -> tuple[object, ...]:
    """Return what tells the entries of the JSON files apart: equal for problems that share one entry."""
    return (
        problem.kernel, problem.max_loras, problem.num_slices, problem.m, problem.k, problem.n, problem.i,
        problem.add_inputs,
    )  # fmt: skip


def keys_m(layer: LoraLayer, ms: Sequence[int], most_logits: int) -> Sequence[int]:
    """Return the keys m under which a layer is looked up, where the file has the keys ``ms``.

    One of them may lie above the largest m that is asked for: the nearest to it. An entry has to be there, or another
    layer's config is taken.

    Args:
        most_logits: rows that become logits in a step; what runs for these alone has no larger m.
    """
    if not layer.per_sequence or not ms:
        return ms
    last = nearest_of(sorted(ms), most_logits)
    return [m for m in ms if m <= last]


def layer_problems(
    kernel: str, layer: LoraLayer, max_loras: int, rank: int, m: int, dtype: str, add_inputs: Iterable[bool]
) -> list[LoraProblem]:
    """Return the problems that a layer poses to one of ``DENSE_KERNELS``.

    Args:
        add_inputs: whether expand adds to its output: a problem for each.

    Raises:
        ModelError: the rank does not divide among the ranks that share it.
    """
    slices, shrunk = len(layer.slice_sizes), layer.shrink_n(rank)
    if kernel == SHRINK:
        k = layer.shrink_k
        return [] if k is None else [LoraProblem(kernel, max_loras, slices, m, k, shrunk, dtype=dtype)]
    expand = LoraProblem(
        kernel, max_loras, slices, m, rank, max(layer.slice_sizes), dtype=dtype, slice_sizes=layer.slice_sizes
    )
    return [replace(expand, add_inputs=adds) for adds in add_inputs]
