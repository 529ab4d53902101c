"""Reference of multi-LoRA shrink and expand in float32, one adapter at a time.

Notation: T tokens, S slices, L adapter slots, H input size, R rank, N_s width of slice s. ``assignment`` holds the
adapter of each token ``[T]``; -1 for none.
"""

from collections.abc import Iterator, Sequence

import torch


def _groups(assignment: torch.Tensor) -> Iterator[tuple[int, torch.Tensor]]:
    """Yield each adapter in use with its tokens."""
    for adapter in sorted(set(assignment.tolist()) - {-1}):
        yield adapter, (assignment == adapter).nonzero().flatten()


def lora_shrink(
    x: torch.Tensor, weights: Sequence[torch.Tensor], assignment: torch.Tensor, scale: float
) -> torch.Tensor:
    """Shrink activations.

    Args:
        x: activations ``[T, H]``.
        weights: S tensors ``[L, 1, R, H]``.
        scale: factor of the product.

    Returns:
        float32 ``[S, T, R]``; zero for tokens without an adapter.
    """
    out = x.new_zeros((len(weights), x.shape[0], weights[0].shape[2]), dtype=torch.float32)
    for adapter, tokens in _groups(assignment):
        for index, weight in enumerate(weights):
            out[index, tokens] = scale * (x[tokens].float() @ weight[adapter, 0].float().T)
    return out


def lora_expand(
    x: torch.Tensor,
    weights: Sequence[torch.Tensor],
    assignment: torch.Tensor,
    initial: torch.Tensor,
    *,
    add_inputs: bool,
) -> torch.Tensor:
    """Expand shrunk activations.

    Args:
        x: float32 ``[S, T, R]``, rounded to the weights' type before the product.
        weights: S tensors ``[L, 1, N_s, R]``.
        initial: content of the output before the launch, ``[T, sum of N_s]``.
        add_inputs: whether the product is added to ``initial`` or replaces it.

    Returns:
        float32 ``[T, sum of N_s]``; rows of tokens without an adapter are those of ``initial``.
    """
    out = initial.float()
    for adapter, tokens in _groups(assignment):
        first = 0
        for index, weight in enumerate(weights):
            last = first + weight.shape[2]
            product = x[index, tokens].to(weight.dtype).float() @ weight[adapter, 0].float().T
            out[tokens, first:last] = out[tokens, first:last] + product if add_inputs else product
            first = last
    return out
