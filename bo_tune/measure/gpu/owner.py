"""The process that owns a GPU, as seen by those who have it measure (it runs ``gpu.process``).

It starts in the background, so compiles need not wait until the GPU can be used. The first request to the process waits
for it.
"""

import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from functools import partial
from typing import Any

from bo_tune.core.activity import GpuActivity
from bo_tune.core.problem import GpuInfo, Problem
from bo_tune.core.repetitions import TimingProtocol
from bo_tune.core.space import Config
from bo_tune.errors import DeviceError, UnusableDeviceError, WorkerError
from bo_tune.measure.deadlines import Deadlines
from bo_tune.measure.device import MeasureAnswer
from bo_tune.measure.gpu.relief import WARM, Relief
from bo_tune.measure.occupancy import Occupancy
from bo_tune.processes.fork_server import ForkServer
from bo_tune.processes.pipeline import NotStartedError, Pipeline
from bo_tune.processes.worker import Call, Child, Worker, WorkerDiedError, WorkerTimeoutError

Told = tuple[GpuInfo, Mapping[str, str]]
"""A GPU's description of itself, and the versions of its software."""


class _NotPreparedError(WorkerError):
    """The GPU process was lost before it was asked about a config."""


class GpuOwner:
    """Provides a GPU process whenever one is needed. Safe to use from several threads.

    Args:
        server: forks the process.
        module: the module that it runs, with ``words`` as arguments.
        occupancy: counts when the process works.
        name: of the GPU in messages, as in "CUDA device 0".
        advice: what to do if the GPU cannot be used; follows the reason in messages.
        standbys: processes that stand ready at most, once one was lost.

    Attributes:
        worker: the process.
        relief: starts the processes that replace it.
    """

    def __init__(
        self,
        server: ForkServer,
        module: str,
        words: Sequence[str],
        deadlines: Deadlines,
        occupancy: Occupancy,
        *,
        name: str,
        advice: str,
        standbys: int,
    ) -> None:
        self.deadlines = deadlines
        self._occupancy, self._name, self._advice = occupancy, name, advice
        self._seconds: defaultdict[str, float] = defaultdict(float)
        self.relief = Relief(partial(Child, server, module, list(words)), deadlines.first_s, most=standbys)
        self.worker = Worker(server, module, list(words), relief=self.relief.relieve)
        self._pipeline = Pipeline(self.worker, partial(self._at_work, "restart"))
        self._ahead = ThreadPoolExecutor(1, thread_name_prefix="gpu-ahead")
        self._told: Future[Told] | None = None

    def start(self, expected: GpuInfo | None) -> Future[Told]:
        """Start the process in the background. The future returns the GPU's description, or raises UnusableDeviceError.

        Args:
            expected: the description to go by meanwhile. If the GPU gives another, it cannot be used.
        """
        self._told = self._ahead.submit(self._start_and_greet, expected)
        return self._told

    def _start_and_greet(self, expected: GpuInfo | None) -> Told:
        try:
            with self._at_work("start"):
                self.worker.start()
                told: Told = self._pipeline.request(("hello",), lambda: self.deadlines.prepare_s)
        except (WorkerDiedError, WorkerTimeoutError, NotStartedError) as error:
            raise UnusableDeviceError(f"{self._name} cannot be used: {error}{self._advice}") from error
        if expected is not None and told[0] != expected:
            raise UnusableDeviceError(
                f"{self._name} cannot be used: the driver describes it as {expected}, but torch as {told[0]}"
            )
        return told

    @contextmanager
    def _at_work(self, what: str) -> Iterator[None]:
        """Count the seconds of this kind of work."""
        start = time.perf_counter()
        try:
            with self._occupancy.at("measuring"):
                yield
        finally:
            self._seconds[what] += time.perf_counter() - start

    @property
    def activity(self) -> GpuActivity:
        """The work that the process has done so far."""
        return GpuActivity(
            restarts=max(0, self.worker.starts - 1),
            seconds=dict(self._seconds),
            standby_starts=self.relief.activity.starts,
            standby_s=self.relief.activity.start_s,
            warm_ups=self.relief.launches,
            held_up_s=self._occupancy.held_up_s,
        )

    @property
    def measure_deadline_s(self) -> float:
        """Deadline of the measurement whose turn it is, in seconds."""
        child = self.worker.child
        return self.deadlines.measure_s if child is not None and WARM in child.notes else self.deadlines.first_s

    def _started(self) -> None:
        """Wait until the GPU has described itself. Raises UnusableDeviceError."""
        if self._told is not None:
            self._told.result()

    def measure(self, problem: Problem, request: Call) -> MeasureAnswer:
        """Have the process check and time a config. Raises the same errors as ``ask``."""
        answer: MeasureAnswer = self.ask(problem, request, lambda: self.measure_deadline_s, "measure", self._is_unfit)
        return answer

    def learn(self, problem: Problem, config: Config, protocol: TimingProtocol) -> None:
        """Remember a config that was measured and did no harm."""
        self.relief.learn(problem, config, protocol)

    def ask(
        self,
        problem: Problem,
        request: Call,
        deadline_s: Callable[[], float],
        what: str,
        breaks: Callable[[Any], bool] | None = None,
    ) -> Any:
        """Ask the process (``gpu.process.GpuServer``) about a problem. Its inputs are made first if necessary.

        Raises:
            DeviceError: the inputs cannot be made, or the GPU cannot be used (UnusableDeviceError).
            WorkerTimeoutError, WorkerDiedError: see ``Pipeline.request``.
        """
        self._started()
        ask = partial(
            self._pipeline.request,
            request,
            deadline_s,
            at_work=partial(self._at_work, what),
            breaks=breaks,
            is_prepared=lambda child: problem in child.notes,
            prepare=partial(self._prepare, problem),
        )
        try:
            try:
                return ask()
            except _NotPreparedError:  # perhaps a standby had died before, which shows only now
                return ask()
        except (_NotPreparedError, NotStartedError) as error:
            raise DeviceError(f"the inputs of {problem} cannot be made on {self._name}: {error}") from error

    def request(self, request: Call) -> Any:
        """Ask the process something that concerns no single problem.

        Raises:
            WorkerTimeoutError, WorkerDiedError, NotStartedError: see ``Pipeline.request``.
            UnusableDeviceError: the GPU cannot be used.
        """
        self._started()
        return self._pipeline.request(request, lambda: self.deadlines.prepare_s)

    def expect(self, problem: Problem) -> None:
        """Start making the inputs of a problem that will be needed soon. If that fails, the next request reports it."""
        with suppress(RuntimeError):  # the owner is being closed
            self._ahead.submit(self._expected, problem)

    def _expected(self, problem: Problem) -> None:
        child = self.worker.child
        if child is None or problem in child.notes:
            return
        with suppress(WorkerError):
            self._pipeline.request(
                ("prepare", problem), lambda: self.deadlines.prepare_s, at_work=partial(self._at_work, "prepare")
            )
            child.notes.add(problem)

    def _prepare(self, problem: Problem, child: Child) -> None:
        """Have a child make a problem's inputs.

        This has a deadline of its own, since inputs take seconds and a config takes milliseconds. If inputs had to make
        room for others, the process makes them again by itself.
        """
        try:
            with self._at_work("prepare"):
                child.request(("prepare", problem), self.deadlines.prepare_s)
        except (WorkerDiedError, WorkerTimeoutError) as error:
            raise _NotPreparedError(str(error)) from error
        child.notes.add(problem)

    def _is_unfit(self, answer: MeasureAnswer) -> bool:
        """Say whether the process cannot go on after an answer, and note that it has measured."""
        if (child := self.worker.child) is not None:
            child.notes.add(WARM)
        return not answer.healthy

    def restart(self) -> None:
        """End the process. The next measurement starts another."""
        self._pipeline.end_child()

    def close(self) -> None:
        """End the process and its standbys."""
        self._ahead.shutdown(wait=False, cancel_futures=True)
        self.relief.close()
        self.worker.interrupt()
        self._ahead.shutdown(wait=True)
        self.worker.kill()
