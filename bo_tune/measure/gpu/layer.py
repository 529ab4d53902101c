"""Times kernels where an engine runs them.

This happens in the GPU process, with one chain of layers at a time and a CUDA graph for each choice of configs.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import replace

import torch

from bo_tune.core.conditions import Conditions
from bo_tune.core.problem import GpuInfo, Problem, lora
from bo_tune.core.space import Config, ConfigKey, config_key
from bo_tune.core.surroundings import Batch, Choice, Layer, Surroundings
from bo_tune.kernels.chain import LAUNCHES_BEFORE, Chain
from bo_tune.kernels.lora.linear import LinearCopies
from bo_tune.kernels.operation import OperationOf
from bo_tune.measure.gpu.timing import ReplayTimer, Timed

PYTHON_LAUNCHES = 50
"""Launches in a row through the engine's Python: few enough to fit into the GPU's queue."""

PYTHON_ROUNDS = 5
"""Number of such rows. The fastest counts."""


class LayerTimer:
    """Holds the layer in which finalists race. The layer of the previous race is released for the next one.

    Args:
        operation: returns the operation of a kernel by name.
    """

    def __init__(self, operation: OperationOf, gpu: GpuInfo, device: torch.device, conditions: Conditions) -> None:
        self._operation, self._gpu, self._device, self._conditions = operation, gpu, device, conditions
        self._here: tuple[tuple[Problem, ...], Surroundings] | None = None
        self._chain: Chain | None = None
        self._graphs: dict[tuple[ConfigKey, ...] | None, torch.cuda.CUDAGraph] = {}

    def time_in_turn(
        self, problems: Sequence[Problem], around: Surroundings, choices: Sequence[Sequence[Config] | None], rounds: int
    ) -> Timed:
        """Time a layer with each choice of configs in turn, round by round.

        Args:
            problems: of those kernels of the layer whose configs are chosen: one kernel of a linear, or all that
                experts run.
            choices: for each choice, a config for every problem; None for the layer without adapters.

        Returns:
            Times of one layer in us, and the launches of the problems' kernels.

        Raises:
            RuntimeError: a launch fails, or memory is short. The layer is then released.
        """
        try:
            return self._in_turn(tuple(problems), around, choices, rounds)
        except RuntimeError:
            self._give_up()
            raise

    def _give_up(self) -> None:
        self._graphs, self._chain = {}, None

    def _in_turn(
        self,
        problems: tuple[Problem, ...],
        around: Surroundings,
        choices: Sequence[Sequence[Config] | None],
        rounds: int,
    ) -> Timed:
        chain = self._chain_in(problems, around)
        replays, captured = [], 0
        for configs in choices:
            key = None if configs is None else tuple(map(config_key, configs))
            if key not in self._graphs:
                self._graphs[key] = chain.graph([None if configs is None else _choice(problems, around, configs)])
                captured += LAUNCHES_BEFORE * chain.copies if configs is not None else 0
            replays.append(self._graphs[key].replay)
        timed = ReplayTimer(chain.copies).time_in_turn(replays, rounds)
        bare = rounds * chain.copies * sum(configs is None for configs in choices)
        return replace(timed, launches=len(problems) * (timed.launches + captured - bare))

    def _chain_in(self, problems: tuple[Problem, ...], around: Surroundings) -> Chain:
        if self._chain is None or self._here != (problems, around):
            self._give_up()
            self._chain = self._made([around.layer], Batch.of(lora(problems[0])), around.active)
            self._here = problems, around
        return self._chain

    def _made(self, layers: Sequence[Layer], batch: Batch, active: Sequence[int] = ()) -> Chain:
        return Chain(
            layers, batch, self._operation,
            l2_bytes=self._gpu.l2_bytes, device=self._device, conditions=self._conditions, active=active,
        )  # fmt: skip

    def time_step(
        self, layers: Sequence[Layer], batch: Batch, choices: Sequence[Sequence[Choice | None]], rounds: int
    ) -> tuple[Timed, float | None]:
        """Time a decoder's layers that take adapters, one after the other, with each choice of configs in turn.

        Args:
            choices: for each choice, the configs of every layer's kernels; None for a layer without adapters.

        Returns:
            Times of all layers together in us, and how long the engine's own Python takes to launch the adapters'
            kernels of all of them, in us. The latter is None if the kernels are not an engine's, and with experts.

        Raises:
            RuntimeError: a launch fails, or memory is short.
        """
        self._give_up()
        chain = self._made(layers, batch)
        replays = [chain.graph(configs).replay for configs in choices]
        return ReplayTimer(chain.copies).time_in_turn(replays, rounds), _python_us(chain)


def _choice(problems: Sequence[Problem], around: Surroundings, configs: Sequence[Config]) -> Choice:
    chosen = zip(problems, configs, strict=True)
    return {**around.beside, **{problem.kernel: config for problem, config in chosen}}


def _python_us(chain: Chain) -> float | None:
    known = []
    for layer in chain.layers:
        if not isinstance(layer, LinearCopies):
            return None
        for launch in _engine_launches(layer):
            if launch is None:
                return None
            known.append(launch)
    return sum(1e6 * _seconds_each(launch) for launch in known)


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
