"""Kernels timed where an engine runs them: in the GPU process, one chain of linears at a time, a CUDA graph for each
choice of configs."""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import torch

from bo_tune.core.conditions import Conditions
from bo_tune.core.problem import GpuInfo, Problem, lora
from bo_tune.core.space import ConfigKey, config_key
from bo_tune.core.surroundings import SHRINK, Batch, Linear, Pair, Surroundings
from bo_tune.kernels.lora.chain import LAUNCHES_BEFORE, Chain, LinearCopies, OperationOf
from bo_tune.measure.gpu.timing import ReplayTimer, Timed

PYTHON_LAUNCHES = 50
"""Launches in a row through the engine's Python: few enough for the GPU's queue to take them all."""

PYTHON_ROUNDS = 5
"""Such rows, the fastest of which counts."""


class LayerTimer:
    """The layer that finalists are raced in; that of the race before makes room for the next.

    Args:
        operation: returns how a kernel of a name is launched.
    """

    def __init__(self, operation: OperationOf, gpu: GpuInfo, device: torch.device, conditions: Conditions) -> None:
        self._operation, self._gpu, self._device, self._conditions = operation, gpu, device, conditions
        self._here: tuple[Problem, Surroundings] | None = None
        self._chain: Chain | None = None
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
            self._give_up()
            raise

    def _give_up(self) -> None:
        self._graphs, self._chain = {}, None

    def _in_turn(
        self, problem: Problem, around: Surroundings, configs: Sequence[Mapping[str, int] | None], rounds: int
    ) -> Timed:
        chain = self._chain_in(problem, around)
        replays, captured = [], 0
        for config in configs:
            key = None if config is None else config_key(config)
            if key not in self._graphs:
                self._graphs[key] = chain.graph([_pair(problem, around, config)])
                captured += LAUNCHES_BEFORE * chain.copies if config is not None else 0
            replays.append(self._graphs[key].replay)
        timed = ReplayTimer(chain.copies).time_in_turn(replays, rounds)
        bare = rounds * chain.copies * sum(config is None for config in configs)
        return replace(timed, launches=timed.launches + captured - bare)

    def _chain_in(self, problem: Problem, around: Surroundings) -> Chain:
        if self._chain is None or self._here != (problem, around):
            self._give_up()
            self._chain = self._made([around.linear], Batch.of(lora(problem)), around.active)
            self._here = problem, around
        return self._chain

    def _made(self, linears: Sequence[Linear], batch: Batch, active: Sequence[int] = ()) -> Chain:
        return Chain(
            linears, batch, self._operation,
            l2_bytes=self._gpu.l2_bytes, device=self._device, conditions=self._conditions, active=active,
        )  # fmt: skip

    def time_step(
        self, linears: Sequence[Linear], batch: Batch, choices: Sequence[Sequence[Pair | None]], rounds: int
    ) -> tuple[Timed, float | None]:
        """Time a decoder's linears, one after the other, with each choice of configs in turn.

        Args:
            choices: each a pair of configs for every linear, or None for one without adapters.

        Returns:
            Times of all the linears together in us; and how long the engine's own Python takes to launch the adapters'
            kernels of all linears, in us, None where they are no engine's.

        Raises:
            RuntimeError: a launch fails, or memory is short.
        """
        self._give_up()
        chain = self._made(linears, batch)
        replays = [chain.graph(configs).replay for configs in choices]
        return ReplayTimer(chain.copies).time_in_turn(replays, rounds), _python_us(chain)


def _pair(problem: Problem, around: Surroundings, config: Mapping[str, int] | None) -> Pair | None:
    if config is None:
        return None
    return (config, around.beside) if problem.kernel == SHRINK else (around.beside, config)


def _python_us(chain: Chain) -> float | None:
    launches = [launch for linear in chain.linears for launch in _engine_launches(linear)]
    known = [launch for launch in launches if launch is not None]
    return sum(1e6 * _seconds_each(launch) for launch in known) if len(known) == len(launches) else None


def _engine_launches(linear: LinearCopies) -> tuple[Callable[[], None] | None, Callable[[], None] | None]:
    return linear.shrink.engine_launch(linear.shrinks[0]), linear.expand.engine_launch(linear.expands[0])


def _seconds_each(launch: Callable[[], None]) -> float:
    launch()  # compiles and loads
    rows = []
    for _ in range(PYTHON_ROUNDS):
        torch.cuda.synchronize()
        start = time.perf_counter()
        for _ in range(PYTHON_LAUNCHES):
            launch()
        rows.append(time.perf_counter() - start)
    return min(rows) / PYTHON_LAUNCHES
