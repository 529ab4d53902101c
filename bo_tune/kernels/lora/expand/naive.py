"""Multi-LoRA expand, adapter by adapter, in float32."""

from collections.abc import Sequence

import torch


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
        assignment: adapter of each token ``[T]``; -1 for none.
        initial: what the output holds before, ``[T, sum of N_s]``.
        add_inputs: whether the product is added to ``initial`` or replaces it.

    Returns:
        float32 ``[T, sum of N_s]``; rows of tokens without an adapter are those of ``initial``.
    """
    out = initial.float()
    for adapter in sorted(set(assignment.tolist()) - {-1}):
        tokens = (assignment == adapter).nonzero().flatten()
        first = 0
        for index, weight in enumerate(weights):
            last = first + weight.shape[2]
            product = x[index, tokens].to(weight.dtype).float() @ weight[adapter, 0].float().T
            out[tokens, first:last] = out[tokens, first:last] + product if add_inputs else product
            first = last
    return out
