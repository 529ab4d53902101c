"""From layers and the engine's settings to the problems that it looks up."""

from collections.abc import Iterable, Sequence

from bo_tune.core.problem import LoraProblem
from bo_tune.engines.models.engine import MAX_SEQUENCES
from bo_tune.engines.models.layers import LoraLayer
from bo_tune.engines.vllm.lookup import nearest_of
from bo_tune.errors import ModelError

SHRINK = "lora_shrink"
EXPAND = "lora_expand"
DENSE_KERNELS = (SHRINK, EXPAND)
"""Kernels whose problems can be told from a dense layer."""


def problems_by_layer(
    layers: Sequence[LoraLayer],
    *,
    ranks: Sequence[int],
    max_loras: Sequence[int],
    ms: Sequence[int],
    kernels: Sequence[str] = DENSE_KERNELS,
    dtype: str = "bfloat16",
    add_inputs: Sequence[bool] | None = None,
    max_sequences: int = MAX_SEQUENCES,
    dual_stream: bool = False,
) -> dict[LoraProblem, tuple[str, ...]]:
    """Return the problems that layers pose, each once, with the names of the layers it serves.

    Two layers pose the same problem where the engine looks up the same entry: expand of o_proj and down_proj, say.
    Equal lookups whose slices differ in the narrower ones count as one problem, the first.

    Args:
        ranks: values of the engine's ``--max-lora-rank``.
        max_loras: values of the engine's ``--max-loras``.
        ms: tokens in a step.
        add_inputs: whether expand adds to its output, for all layers; None for what the engine asks of each.
        max_sequences: the engine's ``--max-num-seqs``; what runs once for each sequence has no larger m.
        dual_stream: whether the engine runs adapters on a stream of their own.

    Raises:
        ModelError: a kernel is none of ``DENSE_KERNELS``, or a rank does not divide among the ranks that share it.
    """
    first: dict[tuple[object, ...], LoraProblem] = {}
    served: dict[LoraProblem, tuple[str, ...]] = {}
    for kernel in kernels:
        if kernel not in DENSE_KERNELS:
            raise ModelError(f"no problems of {kernel} can be told from a model; expected {' or '.join(DENSE_KERNELS)}")
        for slots in max_loras:
            for rank in ranks:
                for layer in layers:
                    adds = add_inputs or layer.adds(dual_stream=dual_stream)
                    for m in _asked(layer, ms, max_sequences):
                        for problem in _layer_problems(kernel, layer, slots, rank, m, dtype, adds):
                            problem = first.setdefault(lookup_of(problem), problem)
                            names = served.get(problem, ())
                            served[problem] = names if layer.name in names else (*names, layer.name)
    return served


def lookup_of(problem: LoraProblem) -> tuple[object, ...]:
    """Return what tells the entries of the JSON files apart: equal for problems that share one entry."""
    return (
        problem.kernel, problem.max_loras, problem.num_slices, problem.m, problem.k, problem.n, problem.i,
        problem.add_inputs,
    )  # fmt: skip


def _asked(layer: LoraLayer, ms: Sequence[int], max_sequences: int) -> Sequence[int]:
    """Return the keys m under which a layer is looked up, where the file has the keys ``ms``.

    One of them may lie above the largest m that is asked for: the nearest to it. An entry has to be there, or another
    layer's config is taken.
    """
    if not layer.per_sequence or not ms:
        return ms
    last = nearest_of(sorted(ms), max_sequences)
    return [m for m in ms if m <= last]


def _layer_problems(
    kernel: str, layer: LoraLayer, max_loras: int, rank: int, m: int, dtype: str, add_inputs: Iterable[bool]
) -> list[LoraProblem]:
    slices, shrunk = len(layer.slice_sizes), layer.shrink_n(rank)
    if kernel == SHRINK:
        return (
            [LoraProblem(kernel, max_loras, slices, m, layer.shrink_k, shrunk, dtype=dtype)] if layer.shrink_k else []
        )
    return [
        LoraProblem(
            kernel, max_loras, slices, m, rank, max(layer.slice_sizes), dtype=dtype, slice_sizes=layer.slice_sizes,
            add_inputs=adds,
        )
        for adds in add_inputs
    ]  # fmt: skip
