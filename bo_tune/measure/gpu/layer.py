"""Kernels timed where an engine runs them: in the GPU process, one layer at a time, a CUDA graph for each config."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch

from bo_tune.core.conditions import Conditions
from bo_tune.core.problem import GpuInfo, Problem, lora
from bo_tune.core.space import ConfigKey, config_key
from bo_tune.core.surroundings import Surroundings
from bo_tune.kernels.lora.chain import LAUNCHES_BEFORE, LinearChain
from bo_tune.kernels.operation import Operation
from bo_tune.measure.gpu.timing import ReplayTimer, Timed


class LayerTimer:
    """The layer that finalists are raced in; that of the race before makes room for the next.

    Args:
        operation: returns how a kernel of a name is launched.
    """

    def __init__(
        self,
        operation: Callable[[str], Operation[Any, Any]],
        gpu: GpuInfo,
        device: torch.device,
        conditions: Conditions,
    ) -> None:
        self._operation, self._gpu, self._device, self._conditions = operation, gpu, device, conditions
        self._here: tuple[Problem, Surroundings] | None = None
        self._chain: LinearChain | None = None
        self._graphs: dict[ConfigKey | None, torch.cuda.CUDAGraph] = {}

    def time_in_turn(
        self, problem: Problem, around: Surroundings, configs: Sequence[Mapping[str, int] | None], rounds: int
    ) -> Timed:
        """Time a layer with each config in turn, round by round.

        Args:
            configs: of the problem's kernel; None for the layer without adapters.

        Returns:
            Times of one layer in us, and the launches of the problem's kernel.

        Raises:
            RuntimeError: a launch fails, or memory is short. The layer is given up.
        """
        try:
            return self._in_turn(problem, around, configs, rounds)
        except RuntimeError:
            self._graphs, self._chain = {}, None
            raise

    def _in_turn(
        self, problem: Problem, around: Surroundings, configs: Sequence[Mapping[str, int] | None], rounds: int
    ) -> Timed:
        chain = self._chain_in(problem, around)
        replays, captured = [], 0
        for config in configs:
            key = None if config is None else config_key(config)
            if key not in self._graphs:
                self._graphs[key] = chain.graph(config)
                captured += LAUNCHES_BEFORE * chain.copies if config is not None else 0
            replays.append(self._graphs[key].replay)
        timed = ReplayTimer(chain.copies).time_in_turn(replays, rounds)
        bare = rounds * chain.copies * sum(config is None for config in configs)
        return replace(timed, launches=timed.launches + captured - bare)

    def _chain_in(self, problem: Problem, around: Surroundings) -> LinearChain:
        if self._chain is None or self._here != (problem, around):
            self._graphs, self._chain = {}, None
            self._chain = LinearChain(
                lora(problem),
                around.linear,
                around.beside,
                self._operation,
                l2_bytes=self._gpu.l2_bytes,
                device=self._device,
                conditions=self._conditions,
            )
            self._here = problem, around
        return self._chain
