"""Multi-LoRA shrink, adapter by adapter, in float32."""

from collections.abc import Sequence

import torch


def lora_shrink(
    x: torch.Tensor, weights: Sequence[torch.Tensor], assignment: torch.Tensor, scale: float
) -> torch.Tensor:
    """Shrink activations.

    Args:
        x: activations ``[T, H]``.
        weights: S tensors ``[L, 1, R, H]``.
        assignment: adapter of each token ``[T]``; -1 for none.
        scale: factor of the product.

    Returns:
        float32 ``[S, T, R]``; zero for tokens without an adapter.
    """
    out = x.new_zeros((len(weights), x.shape[0], weights[0].shape[2]), dtype=torch.float32)
    for adapter in sorted(set(assignment.tolist()) - {-1}):
        tokens = (assignment == adapter).nonzero().flatten()
        for index, weight in enumerate(weights):
            out[index, tokens] = scale * (x[tokens].float() @ weight[adapter, 0].float().T)
    return out
