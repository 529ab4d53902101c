"""The process that owns a GPU, as those know it who have it measure (``gpu.process`` is what it runs).

It starts in the background: what compiles need not wait until the GPU can be used. Whoever asks it first waits for it.
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
"""What a GPU says of itself, and its software's versions."""


class _NotPreparedError(WorkerError):
    """The GPU process was lost before it was asked about a config."""


class GpuOwner:
    """A GPU process whenever one is needed. Safe to use from several threads.

    Args:
        server: forks it.
        module: what it runs, with ``words`` as arguments.
        occupancy: is told when it is at work.
        name: of the GPU in messages, as in "CUDA device 0".
        advice: what to do where the GPU cannot be used, behind the reason.
        standbys: processes that stand ready at most, once one was lost.

    Attributes:
        worker: the process.
        relief: what takes its place.
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
        """Begin to start it; the future says what the GPU says of itself, or raises UnusableDeviceError.

        Args:
            expected: what it is taken for meanwhile. It cannot be used if it says anything else.
        """
        self._told = self._ahead.submit(self._meet, expected)
        return self._told

    def _meet(self, expected: GpuInfo | None) -> Told:
        try:
            with self._at_work("start"):
                self.worker.start()
                told: Told = self._pipeline.request(("hello",), lambda: self.deadlines.prepare_s)
        except (WorkerDiedError, WorkerTimeoutError, NotStartedError) as error:
            raise UnusableDeviceError(f"{self._name} cannot be used: {error}{self._advice}") from error
        if expected is not None and told[0] != expected:
            raise UnusableDeviceError(
                f"{self._name} cannot be used: the driver describes it as {expected}, torch as {told[0]}"
            )
        return told

    @contextmanager
    def _at_work(self, what: str) -> Iterator[None]:
        """Count its seconds."""
        start = time.perf_counter()
        try:
            with self._occupancy.at("measuring"):
                yield
        finally:
            self._seconds[what] += time.perf_counter() - start

    @property
    def activity(self) -> GpuActivity:
        """What it has done so far."""
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
        """Deadline of a measurement whose turn it is, in seconds."""
        child = self.worker.child
        return self.deadlines.measure_s if child is not None and WARM in child.notes else self.deadlines.first_s

    def _started(self) -> None:
        """Wait until it has told of itself. Raises UnusableDeviceError."""
        if self._told is not None:
            self._told.result()

    def measure(self, problem: Problem, request: Call) -> MeasureAnswer:
        """Have it check and time a config. Raises as ``ask``."""
        answer: MeasureAnswer = self.ask(problem, request, lambda: self.measure_deadline_s, "measure", self._is_unfit)
        return answer

    def learn(self, problem: Problem, config: Config, protocol: TimingProtocol) -> None:
        """Take note of a config that was measured and did no harm."""
        self.relief.learn(problem, config, protocol)

    def ask(
        self,
        problem: Problem,
        request: Call,
        deadline_s: Callable[[], float],
        what: str,
        breaks: Callable[[Any], bool] | None = None,
    ) -> Any:
        """Ask it (``gpu.process.GpuServer``) about a problem whose inputs it has ready by then.

        Raises:
            DeviceError: they cannot be made, or the GPU cannot be used (UnusableDeviceError).
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
            except _NotPreparedError:  # one that died while it stood ready may be found out only now
                return ask()
        except (_NotPreparedError, NotStartedError) as error:
            raise DeviceError(f"the inputs of {problem} cannot be made on {self._name}: {error}") from error

    def request(self, request: Call) -> Any:
        """Ask it what concerns no single problem.

        Raises:
            WorkerTimeoutError, WorkerDiedError, NotStartedError: see ``Pipeline.request``.
            UnusableDeviceError: the GPU cannot be used.
        """
        self._started()
        return self._pipeline.request(request, lambda: self.deadlines.prepare_s)

    def expect(self, problem: Problem) -> None:
        """Have the inputs of a problem made now: it will be asked about soon. What cannot be made is told then."""
        with suppress(RuntimeError):  # it is being closed
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
        """Have a child make the problem's inputs, on their own time: they take seconds where a config takes
        milliseconds. Inputs that had to make room for others are made again by the process itself.
        """
        try:
            with self._at_work("prepare"):
                child.request(("prepare", problem), self.deadlines.prepare_s)
        except (WorkerDiedError, WorkerTimeoutError) as error:
            raise _NotPreparedError(str(error)) from error
        child.notes.add(problem)

    def _is_unfit(self, answer: MeasureAnswer) -> bool:
        """Say whether it cannot go on after an answer, and note that it has measured."""
        if (child := self.worker.child) is not None:
            child.notes.add(WARM)
        return not answer.healthy

    def restart(self) -> None:
        """End it; the next measurement starts another."""
        self._pipeline.end_child()

    def close(self) -> None:
        """End it, and those that stand ready."""
        self._ahead.shutdown(wait=False, cancel_futures=True)
        self.relief.close()
        self.worker.interrupt()
        self._ahead.shutdown(wait=True)
        self.worker.kill()
