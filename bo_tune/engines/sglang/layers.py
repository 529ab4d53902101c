"""The layers of a model whose adapters SGLang's chunked kernels serve, and the problems of these kernels in a step."""

from collections.abc import Iterator, Sequence

from bo_tune.engines.models.layers import LoraLayer
from bo_tune.engines.models.serving import ModelStudy
from bo_tune.errors import ModelError
from bo_tune.kernels.csgmv.step import EXPAND, SHRINK, CsgmvStep, chunk_of

SERVED = ("qkv_proj", "o_proj", "gate_up_proj", "down_proj")
"""Layers whose adapters SGLang divides as vLLM does, into the same slices and widths."""

APART = ("embed_tokens", "lm_head")
"""Layers that SGLang wraps only if its target modules name them. They are not tuned."""


def served_layers(model: ModelStudy) -> list[LoraLayer]:
    """Return the layers, as one rank holds them. Raises ModelError if it is not known here what SGLang wraps."""
    source = model.shape.source
    for said, option in ((model.fully_sharded, "--fully-sharded-loras"), (model.dual_stream, "--dual-stream")):
        if said:
            raise ModelError(f"{source}: {option}: SGLang has no such option; leave it out")
    layers = [layer for layer in model.layers if layer.name not in APART]
    others = [layer.name for layer in layers if layer.name not in SERVED]
    if others or model.has_experts:
        what = ", ".join(dict.fromkeys([*others, *["experts"] * model.has_experts]))
        raise ModelError(
            f"{source}: bo_tune does not know how SGLang handles adapters of {what}; choose some of "
            f"{', '.join(SERVED)} with --target-modules"
        )
    return layers


def csgmv_steps(model: ModelStudy) -> Iterator[tuple[str, CsgmvStep]]:
    """Yield each layer's problem of each kernel, with the layer's name. Raises ModelError.

    Several numbers of tokens share a chunk size, and so an entry. The middle one of them counts.
    """
    adapters, dtype = max(model.max_loras), model.dtype or model.shape.dtype
    layers = served_layers(model)
    for chunk, m in middle_tokens(model.ms, model.chunk_size).items():
        for rank in model.ranks:
            for layer in layers:
                slices = len(layer.slice_sizes)
                if layer.shrink_k is not None:
                    yield layer.name, CsgmvStep(SHRINK, m, chunk, adapters, rank, layer.shrink_k, slices, dtype=dtype)
                widths = layer.slice_sizes
                yield layer.name, CsgmvStep(EXPAND, m, chunk, adapters, rank, 0, slices, widths, dtype)


def middle_tokens(ms: Sequence[int], most: int) -> dict[int, int]:
    """Return the chunk sizes of steps, each with the middle of the numbers of tokens that lead to it.

    Args:
        ms: numbers of tokens in a step.
        most: the engine's ``--max-lora-chunk-size``.
    """
    found: dict[int, list[int]] = {}
    for m in sorted(ms):
        found.setdefault(chunk_of(m, most), []).append(m)
    return {chunk: tokens[(len(tokens) - 1) // 2] for chunk, tokens in found.items()}
