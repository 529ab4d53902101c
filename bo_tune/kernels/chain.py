"""Adapters as an engine runs them: layers one after the other in one CUDA graph, each with its base products.

The decode step of an engine runs one layer after another in a CUDA graph, and each layer has its own weights. So
weights are cold: hundreds of MB went through the L2 cache since they were last read. Activations are warm, and a kernel
shares the GPU with the end of the kernel before it. The config that is fastest alone, behind a cleared cache, need not
be the fastest there.

An engine looks up the same entry no matter how many adapters a step uses. So the copies can take turns with different
numbers of adapters. The time is then the mean over this mix.

A chain is a few layers one after the other, in ``copies``: as many as it takes until no layer finds its weights in the
cache. A graph is captured for each choice of configs. Two graphs differ in these launches alone.
"""

from collections.abc import Sequence
from dataclasses import replace

import torch

from bo_tune.core.conditions import Conditions
from bo_tune.core.surroundings import Batch, Choice, Layer, Linear
from bo_tune.kernels.lora.linear import LinearCopies
from bo_tune.kernels.lora.tokens import TokenGroups, draw_assignment
from bo_tune.kernels.moe.mixture import MixtureCopies
from bo_tune.kernels.operation import OperationOf

COLD_BYTES = 4
"""The weights of the other copies take up this many times the L2 cache."""

FEWEST, MOST = 3, 16
"""Fewest and most copies of the layers."""

LAUNCHES_BEFORE = 2
"""Launches per copy before a graph is timed: the first launch, and a replay."""


class Chain:
    """Layers one after the other, in copies.

    Args:
        operation: returns the operation of a kernel, given its name.
        l2_bytes: size of the L2 cache.
        active: numbers of adapters that the copies' steps use, in turn. If empty, the conditions say.
        seed: seed of the inputs.
    """

    def __init__(
        self,
        layers: Sequence[Layer],
        batch: Batch,
        operation: OperationOf,
        *,
        l2_bytes: int,
        device: torch.device,
        conditions: Conditions,
        active: Sequence[int] = (),
        seed: int = 0,
    ) -> None:
        weight_bytes = sum(layer.weight_bytes for layer in layers)
        mix = [replace(conditions, adapters=count) for count in active] or [conditions]
        copies = max(FEWEST, min(MOST, 1 + -(-COLD_BYTES * l2_bytes // weight_bytes)))
        rounds = -(-copies // len(mix))
        self.copies = rounds * len(mix)
        generator = torch.Generator(device).manual_seed(seed)
        assigned = [draw_assignment(batch.m, batch.max_loras, generator, device, one) for one in mix]
        groups = [TokenGroups.of(assignment, batch.max_loras) for assignment in assigned] * rounds
        self.layers = [
            LinearCopies(layer, batch, operation, groups, generator, device)
            if isinstance(layer, Linear)
            else MixtureCopies(layer, batch, operation, groups, generator, conditions)
            for layer in layers
        ]

    @property
    def bytes(self) -> int:
        """Device memory in use, in bytes."""
        return sum(layer.bytes for layer in self.layers)

    def graph(self, choices: Sequence[Choice | None]) -> torch.cuda.CUDAGraph:
        """Capture the chain.

        Args:
            choices: configs of each layer's kernels; None for a layer without adapters.

        Raises:
            RuntimeError: a launch fails.
        """
        self._run(choices)  # Compile and load before the capture, which allows neither.
        torch.cuda.synchronize()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            self._run(choices)
        graph.replay()
        torch.cuda.synchronize()
        return graph

    def _run(self, choices: Sequence[Choice | None]) -> None:
        for copy in range(self.copies):
            for layer, choice in zip(self.layers, choices, strict=True):
                layer.run(copy, choice)
