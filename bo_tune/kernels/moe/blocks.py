"""Tokens sorted into blocks of one adapter and one expert each, in the form that the kernels read.

Notation: T tokens, K experts per token, P = T·K pairs of a token and an expert, numbered token · K + choice; L adapter
slots, E experts on all ranks, b block_m.
"""

from dataclasses import dataclass

import torch

from bo_tune.core.conditions import Conditions, Routing
from bo_tune.core.problem import Experts


@dataclass(frozen=True, slots=True)
class MoeBlocks:
    """Pairs sorted by adapter and expert. Each such group is padded to whole blocks. All int32.

    Attributes:
        pairs: pairs of each adapter ``[L, room]``; P in the padding of a block, and behind the last block.
        experts: expert of each block, numbered as on this rank, ``[L, ceil(room / b)]``; -1 for an expert of another
            rank, and behind the last block.
        padded: number of pairs of each adapter, with the padding, ``[L]``.
    """

    pairs: torch.Tensor
    experts: torch.Tensor
    padded: torch.Tensor

    @classmethod
    def of(
        cls, assignment: torch.Tensor, chosen: torch.Tensor, max_loras: int, experts: Experts, block_m: int
    ) -> "MoeBlocks":
        """Sort pairs.

        Args:
            assignment: adapter of each token ``[T]``; -1 for none.
            chosen: experts of each token ``[T, K]``. On the meta device, only shapes result.
        """
        device, count = chosen.device, chosen.numel()
        width = room(count, experts.count, block_m)
        shape = (max_loras, -(-width // block_m))
        if chosen.is_meta:
            sizes = ((max_loras, width), shape, (max_loras,))
            return cls(*(torch.empty(size, dtype=torch.int32, device=device) for size in sizes))
        adapters, visited = assignment.repeat_interleave(experts.top_k), chosen.flatten().long()
        pairs = torch.full((max_loras, width), count, dtype=torch.int32, device=device)
        blocks = torch.full(shape, -1, dtype=torch.int32, device=device)
        padded = torch.zeros(max_loras, dtype=torch.int32, device=device)
        local = torch.arange(experts.count, dtype=torch.int32, device=device)
        local[experts.local :] = -1
        for adapter in range(max_loras):
            own = (adapters == adapter).nonzero().flatten()
            own = own[visited[own].sort(stable=True).indices]
            rows = visited[own].bincount(minlength=experts.count)
            filled = -(-rows // block_m)
            gaps = (filled * block_m - rows).cumsum(0) - (filled * block_m - rows)
            pairs[adapter, torch.arange(len(own), device=device) + gaps[visited[own]]] = own.to(torch.int32)
            blocks[adapter, : int(filled.sum())] = local.repeat_interleave(filled)
            padded[adapter] = filled.sum() * block_m
        return cls(pairs, blocks, padded)

    def places(self, count: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the places that hold one of ``count`` pairs, and the pair in each.

        Places are numbered across adapters.

        Returns:
            Two int64 tensors, with one element for each pair that has an adapter.
        """
        places = (self.pairs.flatten() < count).nonzero().flatten()
        return places, self.pairs.flatten()[places].long()

    @property
    def nbytes(self) -> int:
        """Device memory in use, in bytes."""
        return self.pairs.nbytes + self.experts.nbytes + self.padded.nbytes


def room(pairs: int, experts: int, block_m: int) -> int:
    """Return the most pairs an adapter may take up with padding. vLLM 0.33.0 sizes its grid by the same formula."""
    return pairs * block_m if pairs < experts else pairs + experts * (block_m - 1)


def draw_experts(
    tokens: int, experts: Experts, generator: torch.Generator | None, device: torch.device, conditions: Conditions
) -> torch.Tensor:
    """Let every token choose different experts. int32 ``[T, K]``.

    Raises:
        ValueError: the recorded hits do not have one count per expert, or too few experts were hit.
    """
    match conditions.routing:
        case Routing.UNIFORM:
            weights = torch.ones(experts.count)
        case Routing.ZIPF:
            weights = 1.0 / torch.arange(1, experts.count + 1, dtype=torch.float32)
        case Routing.RECORDED:
            weights = torch.tensor(conditions.hits, dtype=torch.float32)
            if len(weights) != experts.count or int((weights > 0).sum()) < experts.top_k:
                raise ValueError(
                    f"expected the numbers of hits of {experts.count} experts, at least {experts.top_k} of them above "
                    "zero"
                )
    # The largest of log w + Gumbel noise are a draw without replacement, in proportion to w.
    uniform = torch.rand((tokens, experts.count), generator=generator, device=device).clamp_min(1e-20)
    noisy = weights.log().to(device) - (-uniform.log()).log()
    return noisy.topk(experts.top_k, dim=1).indices.to(torch.int32)
