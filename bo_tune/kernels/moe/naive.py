"""Reference of fused MoE LoRA in float32, one pair of adapter and expert at a time.

Notation: T tokens, K experts per token, P = T·K pairs, S slices, L adapter slots, E experts on this rank.
"""

from collections.abc import Iterator, Sequence

import torch


def groups(assignment: torch.Tensor, chosen: torch.Tensor, local: int) -> Iterator[tuple[int, int, torch.Tensor]]:
    """Yield each adapter and expert that have tokens, with their pairs.

    Args:
        assignment: adapter of each token ``[T]``; -1 for none.
        chosen: experts of each token ``[T, K]``.
        local: number of experts on this rank, which are the first ones.
    """
    adapters, experts = assignment.repeat_interleave(chosen.shape[1]), chosen.flatten()
    here = ((adapters >= 0) & (experts < local)).nonzero().flatten()
    keys = adapters[here].long() * local + experts[here]
    order = keys.sort(stable=True).indices
    found, counts = torch.unique(keys, return_counts=True)
    for key, pairs in zip(found.tolist(), torch.split(here[order], counts.tolist()), strict=True):
        yield key // local, key % local, pairs


def moe_shrink(
    x: torch.Tensor,
    weights: Sequence[torch.Tensor],
    assignment: torch.Tensor,
    chosen: torch.Tensor,
) -> torch.Tensor:
    """Shrink activations.

    Args:
        x: ``[T, H]``, the same for all experts of a token, or ``[P, H]``.
        weights: S tensors ``[L, E, R, H]``.

    Returns:
        float32 ``[S, P, R]``; zero for pairs without an adapter, or of other ranks.
    """
    out = x.new_zeros((len(weights), chosen.numel(), weights[0].shape[2]), dtype=torch.float32)
    share = chosen.numel() // x.shape[0]
    for adapter, expert, pairs in groups(assignment, chosen, weights[0].shape[1]):
        for index, weight in enumerate(weights):
            out[index, pairs] = x[pairs // share].float() @ weight[adapter, expert].float().T
    return out


def moe_expand(
    x: torch.Tensor,
    weights: Sequence[torch.Tensor],
    assignment: torch.Tensor,
    chosen: torch.Tensor,
    initial: torch.Tensor,
    routing: torch.Tensor | None,
) -> torch.Tensor:
    """Expand shrunk activations and add them.

    Args:
        x: ``[S, P, R]``.
        weights: S tensors ``[L, E, N, R]``.
        initial: content of the output before the launch, ``[P, S·N]``.
        routing: weight of each pair ``[P]``; None for 1.

    Returns:
        float32 ``[P, S·N]``.
    """
    out, width = initial.float(), weights[0].shape[2]
    for adapter, expert, pairs in groups(assignment, chosen, weights[0].shape[1]):
        for index, weight in enumerate(weights):
            product = x[index, pairs].float() @ weight[adapter, expert].float().T
            product *= 1.0 if routing is None else routing[pairs, None]
            out[pairs, index * width : (index + 1) * width] += product
    return out
