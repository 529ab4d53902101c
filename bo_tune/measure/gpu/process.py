"""The child process that owns a GPU.

It checks and times configs, and nothing else. A config that breaks the GPU's context, hangs or kills the process costs
only its own trial, because the parent starts another process.
"""

import json
from collections import Counter, OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from triton.runtime.errors import OutOfResources

from bo_tune.core.conditions import Conditions
from bo_tune.core.outcome import Invalid, InvalidReason, Launches, LaunchPurpose, Measurement, Outcome
from bo_tune.core.problem import GpuInfo, Problem
from bo_tune.core.repetitions import TimingProtocol, take_repetitions
from bo_tune.core.space import Config, ConfigKey, config_key
from bo_tune.core.surroundings import Batch, Choice, Layer, Surroundings
from bo_tune.errors import one_line
from bo_tune.kernels.operation import Operation, Right, Verdict
from bo_tune.measure.backends.base import GpuSide, gpu_side
from bo_tune.measure.compile.identity import versions
from bo_tune.measure.device import MeasureAnswer, Remeasured, StepTimes
from bo_tune.measure.gpu.layer import LayerTimer
from bo_tune.measure.gpu.timing import Timed
from bo_tune.measure.source import operations_of
from bo_tune.processes.fork_server import leave
from bo_tune.processes.worker import called, serve

INPUTS_MEMORY_SHARE = 0.5
"""Share of the GPU's free memory for the inputs of problems in flight."""


@dataclass(frozen=True, slots=True)
class Prepared:
    """A problem with its inputs and the right result for them, on the GPU.

    Attributes:
        gpu: where the inputs are.
        checked: whether the result was right, for each finalist checked so far.
    """

    gpu: GpuSide
    operation: Operation[Any, Any]
    inputs: Any
    right: Right
    checked: dict[ConfigKey, bool] = field(default_factory=dict)

    @property
    def bytes(self) -> int:
        """Device memory held."""
        return self.operation.inputs_bytes(self.inputs) + self.right.nbytes

    def verdict_on(self, config: Mapping[str, int]) -> Verdict:
        """Launch a config once and say whether its result is right. Resets the output afterwards."""
        self.operation.poison(self.inputs)
        self.operation.launch(self.inputs, config)
        self.gpu.synchronize()
        verdict = self.operation.judge(self.inputs, self.right)
        self.operation.reset(self.inputs)
        return verdict

    def launching(self, config: Mapping[str, int]) -> Callable[[], None]:
        """Return a function that launches a config on the inputs."""
        return partial(self.operation.launch, self.inputs, config)

    def restore(self) -> None:
        """Restore the inputs before a launch that is timed."""
        self.operation.restore(self.inputs)


class GpuServer:
    """Answers the parent's requests on one GPU."""

    def __init__(self, gpu: GpuSide, source: str, conditions: Conditions, *, seed: int = 0) -> None:
        self._gpu = gpu
        self._operation = operations_of(source)
        self._timer = gpu.timer(conditions.timing)
        self._layer = LayerTimer(self._operation, gpu.info(), gpu.device, conditions)
        self._conditions = conditions
        self._seed = seed
        self._budget = INPUTS_MEMORY_SHARE * gpu.free_bytes()
        self._prepared: OrderedDict[Problem, Prepared] = OrderedDict()

    def hello(self) -> tuple[GpuInfo, dict[str, str]]:
        """Return the GPU's description of itself and the versions of its software."""
        return self._gpu.info(), {"driver": self._gpu.driver_version(), **versions()}

    def prepare(self, problem: Problem) -> None:
        """Make the inputs and the reference of a problem."""
        self._prepare(problem)

    def _prepare(self, problem: Problem) -> Prepared:
        prepared = self._prepared.pop(problem, None)
        if prepared is None:
            kernel = self._operation(problem.kernel)
            inputs = kernel.make_inputs(problem, seed=self._seed, device=self._gpu.device, conditions=self._conditions)
            prepared = Prepared(self._gpu, kernel, inputs, kernel.right(inputs))
            while self._prepared and prepared.bytes + sum(p.bytes for p in self._prepared.values()) > self._budget:
                self._prepared.popitem(last=False)
        self._prepared[problem] = prepared  # the most recently used is dropped last
        return prepared

    def measure(
        self, problem: Problem, config: Config, protocol: TimingProtocol, stop_above_us: float | None
    ) -> MeasureAnswer:
        """Check and time one config."""
        prepared = self._prepare(problem)
        launches: Launches = Counter()
        try:
            outcome = self._check_and_time(prepared, config, protocol, stop_above_us, launches)
        except OutOfResources as error:
            outcome = Invalid(InvalidReason.OUT_OF_SHARED_MEMORY, one_line(error), launches)
        except RuntimeError as error:
            outcome = Invalid(InvalidReason.LAUNCH_ERROR, one_line(error), launches)
        return MeasureAnswer(outcome, self._is_healthy())

    def _is_healthy(self) -> bool:
        try:
            self._gpu.synchronize()
        except RuntimeError:
            return False
        return True

    def _check_and_time(
        self,
        prepared: Prepared,
        config: Config,
        protocol: TimingProtocol,
        stop_above_us: float | None,
        launches: Launches,
    ) -> Outcome:
        def check() -> Verdict:
            launches[LaunchPurpose.CHECK] += 1
            verdict = prepared.verdict_on(config)
            return verdict if protocol.check else Verdict(verdict.error, "")

        def draw(count: int) -> list[float]:
            timed = self._timer.time_in_turn([prepared.launching(config)], count, prepared.restore)
            launches[LaunchPurpose.TIMING] += timed.launches
            launches[LaunchPurpose.LATE] += timed.late
            return timed.runtimes_us[0]

        verdict = check()
        if not verdict.wrong:
            taken = take_repetitions(draw, protocol, stop_above_us)
            measurement = Measurement(taken.runtimes_us, taken.stopped, launches, relative_error=verdict.error)
            if stop_above_us is None or measurement.time_us >= stop_above_us:
                return measurement
            verdict = check()  # a new incumbent is checked again, because one right result could be luck
            if not verdict.wrong:
                return measurement
        return Invalid(InvalidReason.WRONG_RESULT, verdict.wrong, launches)

    def remeasure(self, problem: Problem, configs: Sequence[Config], rounds: int) -> Remeasured:
        """Check several configs and time them in turn."""
        prepared = self._prepare(problem)
        launches: Launches = Counter()
        right = [self._is_right(prepared, config, launches) for config in configs]
        launching = [prepared.launching(config) for config, is_right in zip(configs, right, strict=True) if is_right]
        timed = self._timer.time_in_turn(launching, rounds, prepared.restore)
        return _remeasured(right, timed, launches)

    def remeasure_in_place(
        self, problems: Sequence[Problem], choices: Sequence[Sequence[Config]], rounds: int, around: Surroundings
    ) -> Remeasured:
        """Check several choices of configs, one for each problem, and time them in turn in their layer."""
        prepared = [self._prepare(problem) for problem in problems]
        launches: Launches = Counter()
        right = [
            all(self._is_right(one, config, launches) for one, config in zip(prepared, configs, strict=True))
            for configs in choices
        ]
        chosen = [configs for configs, is_right in zip(choices, right, strict=True) if is_right]
        try:
            timed = self._layer.time_in_turn(problems, around, (*chosen, None), rounds)
        except RuntimeError:  # the layer needs memory for many copies
            if not self._is_healthy():
                raise
            return Remeasured([() for _ in choices], launches)
        return _remeasured(right, timed, launches)

    def step(
        self, layers: Sequence[Layer], batch: Batch, choices: Sequence[Sequence[Choice] | None], rounds: int
    ) -> StepTimes:
        """Time all parts of a decoder layer that take adapters, one after the other, with each choice in turn."""
        bare = (None,) * len(layers)
        chosen = [bare if one is None else one for one in choices]
        timed, python_us = self._layer.time_step(layers, batch, chosen, rounds)
        return StepTimes(tuple(map(tuple, timed.runtimes_us)), python_us)

    def _is_right(self, prepared: Prepared, config: Mapping[str, int], launches: Launches) -> bool:
        """Check a finalist before its first timing. It is timed in many batches, but checked once."""
        key = config_key(config)
        if key not in prepared.checked:
            launches[LaunchPurpose.CHECK] += 1
            prepared.checked[key] = not prepared.verdict_on(config).wrong
        return prepared.checked[key]


def _remeasured(right: Sequence[bool], timed: Timed, launches: Launches) -> Remeasured:
    """Return the result of timing the configs that are right. A timing after theirs is the layer without adapters."""
    launches[LaunchPurpose.FINALISTS] += timed.launches
    launches[LaunchPurpose.LATE] += timed.late
    times = iter(timed.runtimes_us)
    runtimes = [tuple(next(times)) if is_right else () for is_right in right]
    return Remeasured(runtimes, launches, tuple(next(times, ())))


def main(arguments: list[str], fd: int) -> None:
    """Serve one GPU until the parent is gone.

    Args:
        arguments: index of the GPU, kernel source, conditions, and the vendor's module (``Backend.children``).
        fd: connection to the parent.
    """
    number, source, conditions, children = arguments
    index, side = int(number), gpu_side(children)
    refused = side.refusal(index)
    if refused is not None:
        leave(refused)
    server = GpuServer(side(index), source, Conditions.from_json(json.loads(conditions)))
    serve(fd, partial(called, server))
