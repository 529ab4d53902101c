"""Worker processes that compile ahead of the GPU, each compile under a deadline."""

import json
import queue
import threading
import time
from bisect import insort
from collections.abc import Hashable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bo_tune.core.activity import FarmActivity
from bo_tune.core.outcome import Compilation, Invalid, InvalidReason
from bo_tune.core.problem import GpuInfo, Problem
from bo_tune.core.space import Config
from bo_tune.measure.backends.registry import backend_named
from bo_tune.measure.device import Build, Compiled
from bo_tune.measure.occupancy import Occupancy
from bo_tune.processes.fork_server import ForkServer
from bo_tune.processes.worker import Call, Worker, WorkerDiedError, WorkerTimeoutError

MODULE = "bo_tune.measure.compile.worker"

COMPILER_DIED = "the compiler died"
"""How the detail of a compile begins whose process ended: killed, perhaps, which says nothing of the config."""


class Deadline:
    """How long a compile may take: several times what most have taken, within bounds.

    Args:
        most_s: never more, and what holds until enough is known.
        least_s: never less (but for a smaller ``most_s``).
    """

    KNOWN = 16
    """Compiles after which the deadline adapts."""
    FACTOR = 6.0
    """Times the upper quartile of the compiles so far. In the 19 bundled recordings no config within 5 % of its grid's
    best took more than 4 times that of its grid."""

    def __init__(self, most_s: float, least_s: float = 3.0) -> None:
        self._most_s, self._least_s = most_s, min(least_s, most_s)
        self._seconds: list[float] = []

    def learn(self, compile_s: float) -> None:
        """Take note of a compile that ended by itself."""
        insort(self._seconds, compile_s)

    @property
    def seconds(self) -> float:
        """The deadline of the next compile."""
        if len(self._seconds) < self.KNOWN:
            return self._most_s
        quartile = self._seconds[3 * len(self._seconds) // 4]
        return min(self._most_s, max(self._least_s, self.FACTOR * quartile))


class CompileFarm:
    """Compiles configs in parallel; equal binaries once.

    Args:
        server: forks the workers.
        source: the kernel source, see ``measure.source``.
        workers: number of processes.
        deadline: how long a compile may take before it is given up and its process group killed.
    """

    def __init__(self, server: ForkServer, gpu: GpuInfo, source: str, *, workers: int, deadline: Deadline) -> None:
        self._deadline = deadline
        self.source = source
        arguments = [json.dumps(gpu.to_json()), source, backend_named(gpu.backend).children]
        self._workers = [Worker(server, MODULE, arguments) for _ in range(workers)]
        self._idle: queue.SimpleQueue[Worker] = queue.SimpleQueue()
        for worker in self._workers:
            self._idle.put(worker)
        self._threads = ThreadPoolExecutor(workers, thread_name_prefix="compile")
        self._numbers: dict[Hashable, int] = {}
        self._futures: dict[int, Future[Build]] = {}
        self._packed_s: dict[int, float] = {}
        self._done = np.zeros(1024, dtype=bool)
        self._activity = FarmActivity(workers)
        self._watchers: list[Occupancy] = []
        self._lock = threading.Lock()

    def number(self, key: Hashable) -> int:
        """Return the number of a binary, by which ``has`` and ``submit`` know it."""
        number = self._numbers.get(key)
        if number is not None:
            return number
        with self._lock:
            number = self._numbers.setdefault(key, len(self._numbers))
            if number >= len(self._done):
                self._done = np.concatenate([self._done, np.zeros_like(self._done)])
            return number

    def has(self, numbers: NDArray[np.intp]) -> NDArray[np.bool_]:
        """Say of each binary whether it is there, or known to be impossible."""
        return self._done[numbers]

    def submit(self, number: int, problem: Problem, config: Config) -> Future[Build]:
        """Start compiling, unless a binary of the same number is there or on its way.

        The second to ask for a binary is told that it was cached.
        """
        call = ("compile", problem, dict(config))
        with self._lock:
            known = self._futures.get(number)
            if known is None:
                self._count(waiting=1)
                known = self._futures[number] = self._threads.submit(self._compile, number, call)
                return known
            packed_s = self._packed_s.pop(number, None)
            self._count(shared=1) if packed_s is None else self._count(packed=1, packed_s=packed_s)
        return _as_cached(known)

    def know(self, number: int, build: Build, compile_s: float) -> None:
        """Take a binary for done that is there already, unless it is known.

        Args:
            build: what is answered when it is asked for.
            compile_s: what it once took to compile.
        """
        with self._lock:
            if number not in self._futures:
                self._futures[number] = Future()
                self._futures[number].set_result(build)
                self._packed_s[number] = compile_s
                self._done[number] = True

    def ask(self, call: Call, timeout_s: float) -> Any:
        """Have a worker (``compile.worker.Compiler``) answer what is no compile of the farm's.

        Raises:
            WorkerError: it took longer, or the worker died of it.
        """
        worker = self._idle.get()
        try:
            return worker.request(call, timeout_s)
        finally:
            self._idle.put(worker)

    def watched_by(self, occupancy: Occupancy) -> None:
        """Have a GPU that compiles here know from now on how many workers are at work."""
        self._watchers = [*self._watchers, occupancy]

    @property
    def activity(self) -> FarmActivity:
        """What the farm has done so far."""
        return self._activity

    def _count(self, **more: float) -> None:
        """Add to the activity. The caller holds the lock."""
        now = self._activity
        self._activity = replace(now, **{name: getattr(now, name) + n for name, n in more.items()})

    def _compile(self, number: int, call: Call) -> Build:
        worker = self._idle.get()
        with self._lock:
            self._count(waiting=-1)
        start = time.perf_counter()
        try:
            with ExitStack() as stack:
                for occupancy in self._watchers:
                    stack.enter_context(occupancy.at("compiling"))
                build = self._ask(worker, call)
        finally:
            self._idle.put(worker)
            with self._lock:
                self._done[number] = True
                self._count(busy_s=time.perf_counter() - start)
        return build

    def _ask(self, worker: Worker, call: Call) -> Build:
        deadline_s = self._deadline.seconds
        try:
            worker.start()  # not on the compile's own time
            build: Build = worker.request(call, deadline_s)
        except WorkerTimeoutError:
            with self._lock:
                self._count(compiles=1, timeouts=1)
            detail = f"compile took longer than {deadline_s:.3g} s"
            return Invalid(InvalidReason.COMPILE_TIMEOUT, detail, compilation=Compilation(deadline_s))
        except WorkerDiedError as error:
            with self._lock:
                self._count(compiles=1, crashes=1)
            return Invalid(InvalidReason.COMPILE_ERROR, f"{COMPILER_DIED}: {error}")
        cached = build.compilation.cached
        with self._lock:
            self._count(cached=cached, compiles=not cached)
            if not cached:
                self._deadline.learn(build.compilation.compile_s)
        return build

    def start(self) -> None:
        """Start every worker now, not when it is first needed."""
        for worker in self._workers:
            worker.start()

    def close(self) -> None:
        """Kill the workers; compiles under way end as invalid."""
        self._threads.shutdown(wait=False, cancel_futures=True)
        for worker in self._workers:
            worker.interrupt()
        self._threads.shutdown(wait=True)
        for worker in self._workers:
            worker.kill()


def _as_cached(known: Future[Build]) -> Future[Build]:
    answer: Future[Build] = Future()

    def hand_on(done: Future[Build]) -> None:
        if done.cancelled():
            answer.cancel()
            return
        build = done.result()
        if isinstance(build, Compiled):
            build = Compiled(Compilation(cached=True), build.resources)
        else:
            build = Invalid(build.reason, build.detail, compilation=Compilation(cached=True), resources=build.resources)
        answer.set_result(build)

    known.add_done_callback(hand_on)
    return answer
