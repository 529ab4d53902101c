"""A LoRA kernel where an engine runs it: a chain of linears in one CUDA graph, each with its base product.

An engine's decode step runs base product, shrink and expand of one linear after another, each with weights of its own,
in a CUDA graph. So weights are cold (hundreds of MB went through the L2 cache since they were last read), activations
are warm, and a kernel shares the GPU with the end of the one before. A config that is the fastest alone, behind a
cleared cache, need not be the fastest there.

``C`` copies of the linear follow each other, as many as it takes for none to find its weights in the cache. A graph is
captured for each config; what differs between two graphs are the ``C`` launches of the kernel in question.

Where expand overwrites (``Linear.adds`` is false), shrink and it run beside the base product, on a stream of their own,
into zeros that are then added.
"""

from collections.abc import Callable
from typing import Any

import torch

from bo_tune.core.conditions import Conditions
from bo_tune.core.problem import LoraProblem
from bo_tune.core.space import Config
from bo_tune.core.surroundings import SHRINK, Linear
from bo_tune.kernels.lora.inputs import ExpandInputs, ShrinkInputs
from bo_tune.kernels.lora.operation import draw, draw_weights, dtype_of
from bo_tune.kernels.lora.tokens import TokenGroups, draw_assignment
from bo_tune.kernels.operation import Operation

COLD_BYTES = 4
"""Weights of the other copies are so many times the L2 cache."""

FEWEST, MOST = 3, 16
"""Copies of the linear."""

WEIGHT_SCALE = 0.02

LAUNCHES_BEFORE = 2
"""Launches for each copy before a graph is timed: the first ones, and a replay."""


class LinearChain:
    """Copies of a linear with its adapters.

    Args:
        problem: of the kernel whose configs are compared.
        beside: config of the linear's other kernel.
        operation: returns how a kernel of a name is launched.
        l2_bytes: size of the L2 cache.
        seed: of the inputs.
    """

    def __init__(
        self,
        problem: LoraProblem,
        linear: Linear,
        beside: Config,
        operation: Callable[[str], Operation[Any, Any]],
        *,
        l2_bytes: int,
        device: torch.device,
        conditions: Conditions,
        seed: int = 0,
    ) -> None:
        self.copies = max(FEWEST, min(MOST, 1 + -(-COLD_BYTES * l2_bytes // linear.weight_bytes)))
        self._shrinks, self._beside = problem.kernel == SHRINK, dict(beside)
        shrink, expand = linear.problems(problem)
        self._shrink, self._expand = operation(shrink.kernel), operation(expand.kernel)
        generator = torch.Generator(device).manual_seed(seed)
        assignment = draw_assignment(problem.m, problem.max_loras, generator, device, conditions)
        groups = TokenGroups.of(assignment, problem.max_loras)
        self._x = draw((problem.m, linear.k), dtype_of(problem), generator, device)
        self._y = torch.zeros((problem.m, sum(linear.widths)), dtype=self._x.dtype, device=device)
        self._z = self._y if linear.adds else torch.zeros_like(self._y)
        self._rank = torch.zeros((shrink.num_slices, shrink.m, shrink.n), dtype=torch.float32, device=device)
        shape = (sum(linear.widths), linear.k)
        self._base = [draw(shape, self._x.dtype, generator, device, WEIGHT_SCALE) for _ in range(self.copies)]
        self._shrink_inputs = [
            ShrinkInputs(
                problem=shrink, x=self._x, weights=draw_weights(shrink, generator, device), groups=groups,
                out=self._rank,
            )
            for _ in range(self.copies)
        ]  # fmt: skip
        self._expand_inputs = [
            ExpandInputs(
                problem=expand, x=self._rank, weights=draw_weights(expand, generator, device), groups=groups,
                out=self._z, initial=self._z,
            )
            for _ in range(self.copies)
        ]  # fmt: skip
        self._side = None if linear.adds else _stream(device)

    @property
    def bytes(self) -> int:
        """Device memory held."""
        adapters = sum(w.nbytes for inputs in (*self._shrink_inputs, *self._expand_inputs) for w in inputs.weights)
        shared = self._x.nbytes + 2 * self._y.nbytes + self._rank.nbytes
        return sum(weights.nbytes for weights in self._base) + adapters + shared

    def graph(self, config: Config | None) -> torch.cuda.CUDAGraph:
        """Capture the chain with a config of the kernel in question; without shrink and expand for None.

        Raises:
            RuntimeError: a launch fails.
        """
        self._run(config)  # first launches compile and load, which nothing may do while a graph is captured
        torch.cuda.synchronize()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            self._run(config)
        graph.replay()
        torch.cuda.synchronize()
        return graph

    def _run(self, config: Config | None) -> None:
        for copy in range(self.copies):
            if config is None:
                torch.mm(self._x, self._base[copy].t(), out=self._y)
            elif self._side is None:
                torch.mm(self._x, self._base[copy].t(), out=self._y)
                self._adapters(copy, config)
            else:
                self._beside_base(copy, config, self._side)

    def _beside_base(self, copy: int, config: Config, side: torch.cuda.Stream) -> None:
        here = torch.cuda.current_stream()
        side.wait_stream(here)
        torch.mm(self._x, self._base[copy].t(), out=self._y)
        with torch.cuda.stream(side):
            self._z.zero_()
            self._adapters(copy, config)
        here.wait_stream(side)
        self._y.add_(self._z)

    def _adapters(self, copy: int, config: Config) -> None:
        shrink, expand = (config, self._beside) if self._shrinks else (self._beside, config)
        self._rank.zero_()
        self._shrink.launch(self._shrink_inputs[copy], shrink)
        self._expand.launch(self._expand_inputs[copy], expand)


def _stream(device: torch.device) -> torch.cuda.Stream:
    return torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
