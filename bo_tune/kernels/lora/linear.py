"""Copies of a linear layer with its adapters, run as an engine does: base product, shrink and expand.

If expand overwrites its output (``Linear.adds`` is false), shrink and expand run beside the base product, on their own
stream. They write into zeros that are added afterwards.
"""

from collections.abc import Sequence

import torch

from bo_tune.core.surroundings import EXPAND, SHRINK, Batch, Choice, Linear
from bo_tune.kernels.lora.base import PRODUCTS
from bo_tune.kernels.lora.inputs import ExpandInputs, ShrinkInputs
from bo_tune.kernels.lora.operation import draw, draw_weights, dtype_of
from bo_tune.kernels.lora.tokens import TokenGroups
from bo_tune.kernels.operation import OperationOf


class LinearCopies:
    """Copies of one linear layer. Each has its own weights; activations and results are shared.

    Args:
        groups: the tokens of each copy, by adapter.

    Attributes:
        shrinks: inputs of shrink, one per copy.
        expands: inputs of expand, one per copy.
    """

    def __init__(
        self,
        linear: Linear,
        batch: Batch,
        operation: OperationOf,
        groups: Sequence[TokenGroups],
        generator: torch.Generator,
        device: torch.device,
    ) -> None:
        shrink, expand = linear.kernels(batch)
        self.shrink, self.expand = operation(shrink.kernel), operation(expand.kernel)
        self._x = draw((batch.m, linear.k), dtype_of(shrink), generator, device)
        self._y = torch.zeros((batch.m, sum(linear.widths)), dtype=self._x.dtype, device=device)
        self._z = self._y if linear.adds else torch.zeros_like(self._y)
        self._rank = torch.zeros((shrink.num_slices, shrink.m, shrink.n), dtype=torch.float32, device=device)
        self.base = PRODUCTS[linear.weights](linear, len(groups), self._x, self._y, generator)
        self.shrinks = [
            ShrinkInputs(
                problem=shrink, x=self._x, weights=draw_weights(shrink, generator, device), groups=own,
                out=self._rank,
            )
            for own in groups
        ]  # fmt: skip
        self.expands = [
            ExpandInputs(
                problem=expand, x=self._rank, weights=draw_weights(expand, generator, device), groups=own,
                out=self._z, initial=self._z,
            )
            for own in groups
        ]  # fmt: skip
        self._side = None if linear.adds else _stream(device)

    @property
    def bytes(self) -> int:
        """Device memory in use, in bytes."""
        adapters = sum(w.nbytes for inputs in (*self.shrinks, *self.expands) for w in inputs.weights)
        shared = self._x.nbytes + 2 * self._y.nbytes + self._rank.nbytes
        return self.base.nbytes + adapters + shared

    def run(self, copy: int, configs: Choice | None) -> None:
        """Launch one copy. If configs is None, leave out shrink and expand."""
        if configs is None:
            self.base.run(copy)
        elif self._side is None:
            self.base.run(copy)
            self._adapters(copy, configs)
        else:
            self._beside_base(copy, configs, self._side)

    def _beside_base(self, copy: int, configs: Choice, side: torch.cuda.Stream) -> None:
        here = torch.cuda.current_stream()
        side.wait_stream(here)
        self.base.run(copy)
        with torch.cuda.stream(side):
            self._z.zero_()
            self._adapters(copy, configs)
        here.wait_stream(side)
        self._y.add_(self._z)

    def _adapters(self, copy: int, configs: Choice) -> None:
        self._rank.zero_()
        self.shrink.launch(self.shrinks[copy], configs[SHRINK])
        self.expand.launch(self.expands[copy], configs[EXPAND])


def _stream(device: torch.device) -> torch.cuda.Stream:
    return torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
