"""Assigns tokens to adapters, in the form that the kernels read."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from bo_tune.core.conditions import Conditions, Tokens


@dataclass(frozen=True, slots=True)
class TokenGroups:
    """Tokens grouped by adapter. T tokens, L adapter slots of the engine; all int32.

    Attributes:
        assignment: adapter of each token ``[T]``; -1 for none.
        tokens: token numbers sorted by adapter ``[T]``.
        rows: tokens of each group ``[L + 1]``; 0 beyond the groups in use.
        starts: first position of each group in ``tokens`` ``[L + 2]``.
        adapters: adapter of each group ``[L + 1]``; -1 for tokens without an adapter, and beyond the groups in use.
    """

    assignment: torch.Tensor
    tokens: torch.Tensor
    rows: torch.Tensor
    starts: torch.Tensor
    adapters: torch.Tensor

    @classmethod
    def of(cls, assignment: torch.Tensor, max_loras: int, *, empty: Sequence[int] = ()) -> "TokenGroups":
        """Group tokens.

        Args:
            assignment: adapter of each token ``[T]``, -1 for none.
            max_loras: adapter slots of the engine, L.
            empty: adapters that get a group even though no token uses them.

        Raises:
            ValueError: for an adapter outside -1 … L - 1.
        """
        if len(assignment) and not -1 <= int(assignment.min()) <= int(assignment.max()) < max_loras:
            raise ValueError(f"adapters: expected numbers from -1 to {max_loras - 1}")
        used = sorted({*assignment.tolist(), *empty})
        counts = [int((assignment == adapter).sum()) for adapter in used]
        rows = torch.zeros(max_loras + 1, dtype=torch.int32)
        rows[: len(used)] = torch.tensor(counts, dtype=torch.int32)
        adapters = torch.full((max_loras + 1,), -1, dtype=torch.int32)
        adapters[: len(used)] = torch.tensor(used, dtype=torch.int32)
        starts = torch.zeros(max_loras + 2, dtype=torch.int32)
        starts[1:] = rows.cumsum(0)
        device = assignment.device
        return cls(
            assignment=assignment.to(torch.int32),
            tokens=assignment.sort(stable=True).indices.to(torch.int32),
            rows=rows.to(device),
            starts=starts.to(device),
            adapters=adapters.to(device),
        )

    @property
    def arguments(self) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
        """The tensors in the order in which the kernels take them."""
        return self.tokens, self.rows, self.starts, self.adapters


def draw_assignment(
    tokens: int, max_loras: int, generator: torch.Generator, device: torch.device, conditions: Conditions
) -> torch.Tensor:
    """Give every token one of the adapters in use. int32 ``[tokens]``."""
    adapters = min(max_loras, conditions.adapters or max_loras)
    match conditions.tokens:
        case Tokens.UNIFORM:
            return torch.randint(adapters, (tokens,), generator=generator, device=device, dtype=torch.int32)
        case Tokens.ONE:
            return torch.zeros(tokens, dtype=torch.int32, device=device)
        case Tokens.ZIPF:
            weights = 1.0 / torch.arange(1, adapters + 1, dtype=torch.float32, device=device)
            return torch.multinomial(weights, tokens, replacement=True, generator=generator).to(torch.int32)
