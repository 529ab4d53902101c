"""The child process that owns the CUDA context: ``python -m bo_tune.measure.gpu_process INDEX FD``.

It checks and times configs, and nothing else. A config that breaks the context, hangs or kills the process
costs its own trial: the parent starts another.
"""

import subprocess
import sys
from collections import Counter, OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
import triton
from triton.runtime.errors import OutOfResources

from bo_tune.errors import one_line
from bo_tune.kernels.operation import Operation
from bo_tune.kernels.operations import operation
from bo_tune.measure.messages import (
    Hello,
    HelloRequest,
    MeasureAnswer,
    MeasureRequest,
    PrepareRequest,
    RemeasureRequest,
)
from bo_tune.measure.protocol import take_repetitions
from bo_tune.measure.timing import ColdTimer
from bo_tune.measure.worker import serve
from bo_tune.outcome import Invalid, InvalidReason, Launches, LaunchPurpose, Measurement, Outcome, Resources
from bo_tune.problem import GpuInfo, Problem

INPUTS_MEMORY_SHARE = 0.5
"""Of the GPU's free memory, for the inputs of problems in flight."""


@dataclass(frozen=True, slots=True)
class Prepared:
    """A problem with its inputs and right output on the GPU."""

    operation: Operation[Any]
    inputs: Any
    reference: torch.Tensor

    @property
    def bytes(self) -> int:
        """Device memory held."""
        return self.operation.inputs_bytes(self.inputs) + self.reference.nbytes


def relative_error(output: torch.Tensor, reference: torch.Tensor) -> float:
    """Frobenius norm of the difference over the reference's; NaN where the output holds one."""
    reference = reference.float()
    return float(torch.linalg.vector_norm(output.float() - reference) / torch.linalg.vector_norm(reference))


class GpuServer:
    """Answers the parent's requests on one CUDA device."""

    def __init__(self, index: int, *, seed: int = 0) -> None:
        self._device = torch.device("cuda", index)
        torch.cuda.set_device(self._device)
        self._timer = ColdTimer(self._device)
        self._seed = seed
        self._budget = INPUTS_MEMORY_SHARE * torch.cuda.mem_get_info()[0]
        self._prepared: OrderedDict[Problem, Prepared] = OrderedDict()

    def answer(self, request: object) -> object:
        """Answer one request of any kind."""
        match request:
            case PrepareRequest(problem):
                self._prepare(problem)
                return None
            case MeasureRequest():
                return self._measure(request)
            case RemeasureRequest(problem, configs, rounds):
                return self._remeasure(problem, configs, rounds)
            case HelloRequest():
                return self._hello()
            case _:
                raise TypeError(f"not a request: {request!r}")

    def _hello(self) -> Hello:
        properties = torch.cuda.get_device_properties(self._device)
        limits = triton.runtime.driver.active.utils.get_device_properties(self._device.index)  # what its loader checks
        gpu = GpuInfo(
            name=torch.cuda.get_device_name(self._device),
            capability=torch.cuda.get_device_capability(self._device),
            sm_count=properties.multi_processor_count,
            shared_memory_bytes=limits["max_shared_mem"],
            registers_per_sm=limits["max_num_regs"],
            threads_per_sm=properties.max_threads_per_multi_processor,
            l2_bytes=properties.L2_cache_size,
        )
        versions = {"driver": _driver_version(), "torch": torch.__version__, "triton": triton.__version__}
        return Hello(gpu, versions)

    def _prepare(self, problem: Problem) -> Prepared:
        prepared = self._prepared.pop(problem, None)
        if prepared is None:
            kernel = operation(problem.kernel)
            inputs = kernel.make_inputs(problem, seed=self._seed, device=self._device)
            prepared = Prepared(kernel, inputs, kernel.reference(inputs).to(kernel.output(inputs).dtype))
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
        return MeasureAnswer(outcome, _context_is_healthy())

    def _check_and_time(self, prepared: Prepared, request: MeasureRequest, launches: Launches) -> Outcome:
        kernel, inputs, config = prepared.operation, prepared.inputs, request.config
        kernel.poison(inputs)
        kernel.launch(inputs, config)
        torch.cuda.synchronize()
        launches[LaunchPurpose.CHECK] += 1
        error = relative_error(kernel.output(inputs), prepared.reference)
        if request.protocol.check and not error <= kernel.tolerance(request.problem):
            return Invalid(InvalidReason.WRONG_RESULT, f"relative error {error:.3g}", launches)
        kernel.reset(inputs)

        def draw(count: int) -> list[float]:
            launches[LaunchPurpose.TIMING] += count
            return self._timer.time_in_turn([partial(kernel.launch, inputs, config)], count)[0]

        taken = take_repetitions(draw, request.protocol, request.stop_above_us)
        resources = _resources(kernel, request)
        return Measurement(taken.runtimes_us, taken.stopped, launches, resources=resources, relative_error=error)

    def _remeasure(
        self, problem: Problem, configs: Sequence[Mapping[str, int]], rounds: int
    ) -> list[tuple[float, ...]]:
        prepared = self._prepare(problem)
        prepared.operation.reset(prepared.inputs)
        launches = [partial(prepared.operation.launch, prepared.inputs, config) for config in configs]
        return [tuple(times) for times in self._timer.time_in_turn(launches, rounds)]


def _resources(kernel: Operation[Any], request: MeasureRequest) -> Resources:
    compiled = kernel.warmup(request.problem, request.config)  # found in this process's cache: it has just run
    return Resources(compiled.metadata.shared, compiled.n_regs, compiled.n_spills)


def _context_is_healthy() -> bool:
    try:
        torch.cuda.synchronize()
    except RuntimeError:
        return False
    return True


def _driver_version() -> str:
    command = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    try:
        return subprocess.run(command, capture_output=True, text=True, timeout=20, check=True).stdout.split()[0]
    except (OSError, subprocess.SubprocessError, IndexError):
        return "unknown"


def refusal(index: int, torch_version: Any, cuda: Any) -> str | None:
    """Say why a device cannot be tuned on, or None.

    Args:
        torch_version: ``torch.version``.
        cuda: ``torch.cuda``.
    """
    if torch_version.hip:
        return "this is an AMD GPU (torch is built for ROCm); only NVIDIA GPUs are supported"
    if torch_version.xpu:
        return "torch is built for Intel GPUs; only NVIDIA GPUs are supported"
    if not torch_version.cuda:
        return "torch is built without CUDA"
    if not cuda.is_available():
        return "no NVIDIA GPU was found"
    if index >= cuda.device_count():
        return f"there is no such device: this host has {cuda.device_count()}"
    return None


def main() -> None:
    """Serve one CUDA device until the parent is gone."""
    index, fd = map(int, sys.argv[1:])
    refused = refusal(index, torch.version, torch.cuda)
    if refused is not None:
        sys.exit(refused)
    serve(fd, GpuServer(index).answer)


if __name__ == "__main__":
    main()
