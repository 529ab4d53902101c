"""The child process that owns a GPU.

It checks and times configs, and nothing else. A config that breaks the GPU's context, hangs or kills the process
costs its own trial: the parent starts another.
"""

import json
from collections import Counter, OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
import triton
from triton.runtime.errors import OutOfResources

from bo_tune.core.conditions import Conditions
from bo_tune.core.outcome import Invalid, InvalidReason, Launches, LaunchPurpose, Measurement, Outcome
from bo_tune.core.problem import Problem
from bo_tune.core.repetitions import take_repetitions
from bo_tune.core.space import ConfigKey, config_key
from bo_tune.errors import one_line
from bo_tune.kernels.operation import Operation, Right, Verdict
from bo_tune.measure.backends.base import GpuSide, gpu_side
from bo_tune.measure.device import Remeasured, StepTimes
from bo_tune.measure.gpu.layer import LayerTimer
from bo_tune.measure.messages import (
    Hello,
    HelloRequest,
    MeasureAnswer,
    MeasureRequest,
    PrepareRequest,
    RemeasureRequest,
    StepRequest,
)
from bo_tune.measure.source import operations_of
from bo_tune.processes.fork_server import leave
from bo_tune.processes.worker import serve

INPUTS_MEMORY_SHARE = 0.5
"""Of the GPU's free memory, for the inputs of problems in flight."""


@dataclass(frozen=True, slots=True)
class Prepared:
    """A problem with its inputs and what is right for them on the GPU.

    Attributes:
        gpu: where they are.
        checked: of the finalists checked so far, whether their results are right.
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
        """Launch a config once and say whether its result is right; leaves the output reset."""
        self.operation.poison(self.inputs)
        self.operation.launch(self.inputs, config)
        self.gpu.synchronize()
        verdict = self.operation.judge(self.inputs, self.right)
        self.operation.reset(self.inputs)
        return verdict

    def restore(self) -> None:
        """Bring the inputs back before a launch that is timed."""
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

    def answer(self, request: object) -> object:
        """Answer one request of any kind."""
        match request:
            case PrepareRequest(problem):
                self._prepare(problem)
                return None
            case MeasureRequest():
                return self._measure(request)
            case RemeasureRequest():
                return self._remeasure(request)
            case StepRequest():
                return self._step(request)
            case HelloRequest():
                return self._hello()
            case _:
                raise TypeError(f"not a request: {request!r}")

    def _hello(self) -> Hello:
        return Hello(self._gpu.info(), {"driver": self._gpu.driver_version(), **versions()})

    def _prepare(self, problem: Problem) -> Prepared:
        prepared = self._prepared.pop(problem, None)
        if prepared is None:
            kernel = self._operation(problem.kernel)
            inputs = kernel.make_inputs(problem, seed=self._seed, device=self._gpu.device, conditions=self._conditions)
            prepared = Prepared(self._gpu, kernel, inputs, kernel.right(inputs))
            while self._prepared and prepared.bytes + sum(p.bytes for p in self._prepared.values()) > self._budget:
                self._prepared.popitem(last=False)
        self._prepared[problem] = prepared  # the last used is the last to go
        return prepared

    def _measure(self, request: MeasureRequest) -> MeasureAnswer:
        prepared = self._prepare(request.problem)
        launches: Launches = Counter()
        try:
            outcome = self._check_and_time(prepared, request, launches)
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

    def _check_and_time(self, prepared: Prepared, request: MeasureRequest, launches: Launches) -> Outcome:
        error, wrong = self._check(prepared, request, launches)
        if wrong is not None:
            return wrong
        launch = partial(prepared.operation.launch, prepared.inputs, request.config)

        def draw(count: int) -> list[float]:
            timed = self._timer.time_in_turn([launch], count, prepared.restore)
            launches[LaunchPurpose.TIMING] += timed.launches
            launches[LaunchPurpose.LATE] += timed.late
            return timed.runtimes_us[0]

        taken = take_repetitions(draw, request.protocol, request.stop_above_us)
        measurement = Measurement(taken.runtimes_us, taken.stopped, launches, relative_error=error)
        if request.stop_above_us is not None and measurement.time_us < request.stop_above_us:
            _, wrong = self._check(prepared, request, launches)  # a new incumbent: right once could have been luck
        return measurement if wrong is None else wrong

    def _check(
        self, prepared: Prepared, request: MeasureRequest, launches: Launches
    ) -> tuple[float | None, Invalid | None]:
        """Launch once and compare with what is right; leaves the inputs ready to be timed."""
        launches[LaunchPurpose.CHECK] += 1
        verdict = prepared.verdict_on(request.config)
        if request.protocol.check and verdict.wrong:
            return verdict.error, Invalid(InvalidReason.WRONG_RESULT, verdict.wrong, launches)
        return verdict.error, None

    def _remeasure(self, request: RemeasureRequest) -> Remeasured:
        configs, rounds, prepared = request.configs, request.rounds, self._prepare(request.problem)
        launches: Launches = Counter()
        right = [config for config in configs if self._is_right(prepared, config, launches)]
        if request.around is not None:
            try:
                timed = self._layer.time_in_turn(request.problem, request.around, (*right, None), rounds)
            except RuntimeError:  # the layer needs memory for many copies
                if not self._is_healthy():
                    raise
                return Remeasured([() for _ in configs], launches)
        else:
            timed = self._timer.time_in_turn(
                [partial(prepared.operation.launch, prepared.inputs, c) for c in right], rounds, prepared.restore
            )
        launches[LaunchPurpose.FINALISTS] += timed.launches
        launches[LaunchPurpose.LATE] += timed.late
        times = iter(timed.runtimes_us)
        runtimes = [tuple(next(times)) if config in right else () for config in configs]
        return Remeasured(runtimes, launches, tuple(next(times, ())))

    def _step(self, request: StepRequest) -> StepTimes:
        bare = (None,) * len(request.linears)
        choices = [bare if choice is None else choice for choice in request.choices]
        timed = self._layer.time_step(request.linears, request.batch, choices, request.rounds)
        python_us = self._layer.python_us(request.linears, request.batch)
        return StepTimes(tuple(map(tuple, timed.runtimes_us)), python_us)

    def _is_right(self, prepared: Prepared, config: Mapping[str, int], launches: Launches) -> bool:
        """Check a finalist before it is timed for the first time: it is timed in many batches."""
        key = config_key(config)
        if key not in prepared.checked:
            launches[LaunchPurpose.CHECK] += 1
            prepared.checked[key] = not prepared.verdict_on(config).wrong
        return prepared.checked[key]


def versions() -> dict[str, str]:
    """Return the versions of torch and Triton.

    As plain text: torch's own is an object of a class of torch, and whoever unpickled it would import torch.
    """
    return {"torch": str(torch.__version__), "triton": triton.__version__}


def main(arguments: list[str], fd: int) -> None:
    """Serve one GPU until the parent is gone.

    Args:
        arguments: index of the GPU, kernel source, conditions, and the vendor's module (``Backend.children``).
        fd: where the parent is.
    """
    number, source, conditions, children = arguments
    index, side = int(number), gpu_side(children)
    refused = side.refusal(index)
    if refused is not None:
        leave(refused)
    serve(fd, GpuServer(side(index), source, Conditions.from_json(json.loads(conditions))).answer)
