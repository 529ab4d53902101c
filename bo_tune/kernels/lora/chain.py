"""LoRA kernels where an engine runs them: linears in one CUDA graph, each with its base product.

An engine's decode step runs base product, shrink and expand of one linear after another, each with weights of its own,
in a CUDA graph. So weights are cold (hundreds of MB went through the L2 cache since they were last read), activations
are warm, and a kernel shares the GPU with the end of the one before. A config that is the fastest alone, behind a
cleared cache, need not be the fastest there.

An engine finds one entry however many adapters a step uses. So the copies may serve steps of several numbers of them,
in turn, and the time is the mean over the mix.

A chain is some linears, one after the other, in ``copies``: as many as it takes for none to find its weights in the
cache. A graph is captured for each choice of configs; two graphs differ in these launches alone.

Where expand overwrites (``Linear.adds`` is false), shrink and it run beside the base product, on a stream of their own,
into zeros that are then added.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import torch

from bo_tune.core.conditions import Conditions
from bo_tune.core.surroundings import Batch, Linear, Pair
from bo_tune.kernels.lora.inputs import ExpandInputs, ShrinkInputs
from bo_tune.kernels.lora.operation import draw, draw_weights, dtype_of
from bo_tune.kernels.lora.tokens import TokenGroups, draw_assignment
from bo_tune.kernels.operation import Operation

COLD_BYTES = 4
"""Weights of the other copies are so many times the L2 cache."""

FEWEST, MOST = 3, 16
"""Copies of the linears."""

WEIGHT_SCALE = 0.02

LAUNCHES_BEFORE = 2
"""Launches for each copy before a graph is timed: the first ones, and a replay."""

OperationOf = Callable[[str], Operation[Any, Any]]
"""Returns how a kernel of a name is launched."""


class LinearCopies:
    """Copies of one linear: weights of their own, activations and results in common.

    Args:
        groups: the tokens of each copy, by adapter.

    Attributes:
        shrinks: inputs of shrink, a copy each.
        expands: inputs of expand, a copy each.
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
        shape = (sum(linear.widths), linear.k)
        self._base = [draw(shape, self._x.dtype, generator, device, WEIGHT_SCALE) for _ in groups]
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
        """Device memory held."""
        adapters = sum(w.nbytes for inputs in (*self.shrinks, *self.expands) for w in inputs.weights)
        shared = self._x.nbytes + 2 * self._y.nbytes + self._rank.nbytes
        return sum(weights.nbytes for weights in self._base) + adapters + shared

    def run(self, copy: int, configs: Pair | None) -> None:
        """Launch one copy; without shrink and expand for None."""
        if configs is None:
            torch.mm(self._x, self._base[copy].t(), out=self._y)
        elif self._side is None:
            torch.mm(self._x, self._base[copy].t(), out=self._y)
            self._adapters(copy, configs)
        else:
            self._beside_base(copy, configs, self._side)

    def _beside_base(self, copy: int, configs: Pair, side: torch.cuda.Stream) -> None:
        here = torch.cuda.current_stream()
        side.wait_stream(here)
        torch.mm(self._x, self._base[copy].t(), out=self._y)
        with torch.cuda.stream(side):
            self._z.zero_()
            self._adapters(copy, configs)
        here.wait_stream(side)
        self._y.add_(self._z)

    def _adapters(self, copy: int, configs: Pair) -> None:
        self._rank.zero_()
        self.shrink.launch(self.shrinks[copy], configs[0])
        self.expand.launch(self.expands[copy], configs[1])


class Chain:
    """Linears one after the other, in copies.

    Args:
        operation: returns how a kernel of a name is launched.
        l2_bytes: size of the L2 cache.
        active: how many adapters the copies' steps use, in turn; nothing for what the conditions say.
        seed: of the inputs.
    """

    def __init__(
        self,
        linears: Sequence[Linear],
        batch: Batch,
        operation: OperationOf,
        *,
        l2_bytes: int,
        device: torch.device,
        conditions: Conditions,
        active: Sequence[int] = (),
        seed: int = 0,
    ) -> None:
        weight_bytes = sum(linear.weight_bytes for linear in linears)
        mix = [replace(conditions, adapters=count) for count in active] or [conditions]
        copies = max(FEWEST, min(MOST, 1 + -(-COLD_BYTES * l2_bytes // weight_bytes)))
        rounds = -(-copies // len(mix))
        self.copies = rounds * len(mix)
        generator = torch.Generator(device).manual_seed(seed)
        assigned = [draw_assignment(batch.m, batch.max_loras, generator, device, one) for one in mix]
        groups = [TokenGroups.of(assignment, batch.max_loras) for assignment in assigned] * rounds
        self.linears = [LinearCopies(linear, batch, operation, groups, generator, device) for linear in linears]

    @property
    def bytes(self) -> int:
        """Device memory held."""
        return sum(linear.bytes for linear in self.linears)

    def graph(self, configs: Sequence[Pair | None]) -> torch.cuda.CUDAGraph:
        """Capture the chain.

        Args:
            configs: of each linear's kernels; None for one without adapters.

        Raises:
            RuntimeError: a launch fails.
        """
        self._run(configs)  # first launches compile and load, which nothing may do while a graph is captured
        torch.cuda.synchronize()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            self._run(configs)
        graph.replay()
        torch.cuda.synchronize()
        return graph

    def _run(self, configs: Sequence[Pair | None]) -> None:
        for copy in range(self.copies):
            for linear, pair in zip(self.linears, configs, strict=True):
                linear.run(copy, pair)


def _stream(device: torch.device) -> torch.cuda.Stream:
    return torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
