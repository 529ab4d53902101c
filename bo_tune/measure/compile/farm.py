"""Worker processes that compile ahead of the GPU, with a deadline for each compile."""

import json
import queue
import threading
import time
from collections.abc import Hashable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bo_tune.core.activity import FarmActivity
from bo_tune.core.outcome import Compilation, Invalid, InvalidReason
from bo_tune.core.problem import GpuInfo, Problem
from bo_tune.core.space import Config
from bo_tune.measure.backends.registry import backend_named
from bo_tune.measure.compile.times import CompileTimes
from bo_tune.measure.device import Build, Compiled
from bo_tune.measure.occupancy import Occupancy
from bo_tune.processes.fork_server import ForkServer
from bo_tune.processes.worker import Call, Worker, WorkerDiedError, WorkerTimeoutError

MODULE = "bo_tune.measure.compile.worker"

NOT_WANTED = Invalid(InvalidReason.COMPILE_ERROR, "no longer needed")
"""The answer to a compile that nobody waits for."""

COMPILER_DIED = "the compiler died"
"""Start of the detail if a compile's process ended. It may have been killed, which says nothing about the config."""


@dataclass(eq=False, slots=True)
class _Wanted:
    """A compile that was asked for and is not done.

    Attributes:
        number: of its binary.
        by: how many callers want it. When none is left, it ends, whether it has begun or not.
        worker: the worker that compiles it.
    """

    number: int
    problem: Problem
    config: Config
    by: int = 1
    worker: Worker | None = None


class CompileFarm:
    """Compiles configs in parallel, and equal binaries only once. Its workers start at once, side by side.

    Args:
        server: forks the workers.
        source: the kernel source, see ``measure.source``.
        workers: number of processes.
        times: learns from each compile how long one may take. After that, its process group is killed.
    """

    def __init__(self, server: ForkServer, gpu: GpuInfo, source: str, *, workers: int, times: CompileTimes) -> None:
        self.times = times
        self.source = source
        arguments = [json.dumps(gpu.to_json()), source, backend_named(gpu.backend).children]
        self._workers = [Worker(server, MODULE, arguments) for _ in range(workers)]
        self._idle: queue.SimpleQueue[Worker] = queue.SimpleQueue()  # a worker is put here once it has started
        self._threads = ThreadPoolExecutor(workers, thread_name_prefix="compile")
        self._numbers: dict[Hashable, int] = {}
        self._futures: dict[int, Future[Build]] = {}
        self._wanted: dict[int, _Wanted] = {}
        self._packed_s: dict[int, float] = {}
        self._done = np.zeros(1024, dtype=bool)
        self._activity = FarmActivity(workers)
        self._watchers: list[Occupancy] = []
        self._lock = threading.Lock()
        self._first, *_ = [self._threads.submit(self._begin, worker) for worker in self._workers]

    def number(self, key: Hashable) -> int:
        """Return a binary's number, which ``has`` and ``submit`` take."""
        number = self._numbers.get(key)
        if number is not None:
            return number
        with self._lock:
            number = self._numbers.setdefault(key, len(self._numbers))
            if number >= len(self._done):
                self._done = np.concatenate([self._done, np.zeros_like(self._done)])
            return number

    def has(self, numbers: NDArray[np.intp]) -> NDArray[np.bool_]:
        """Say of each binary whether it exists, or is known to be impossible."""
        return self._done[numbers]

    def submit(self, number: int, problem: Problem, config: Config) -> Future[Build]:
        """Start compiling, unless a binary with the same number exists or is being compiled.

        A second caller who asks for a binary gets it as cached.
        """
        with self._lock:
            known = self._futures.get(number)
            if known is None:
                self._count(waiting=1)
                wanted = self._wanted[number] = _Wanted(number, problem, dict(config))
                known = self._futures[number] = self._threads.submit(self._compile, wanted)
                return known
            if number in self._wanted:
                self._wanted[number].by += 1
            packed_s = self._packed_s.pop(number, None)
            self._count(shared=1) if packed_s is None else self._count(packed=1, packed_s=packed_s)
        return _as_cached(known)

    def withdraw(self, number: int) -> None:
        """Note that a caller no longer wants a binary.

        If nobody else wants it, its compile ends, and what its future then returns means nothing.
        """
        with self._lock:
            wanted = self._wanted.get(number)
            if wanted is None:
                return
            wanted.by -= 1
            if wanted.by:
                return
            del self._wanted[number]
            future = self._futures.pop(number)
            self._count(withdrawn=1)
            if future.cancel():
                self._count(waiting=-1)
            elif wanted.worker is not None:
                wanted.worker.interrupt()

    def know(self, number: int, build: Build, compile_s: float) -> None:
        """Register a binary that exists already, unless it is known.

        Args:
            build: the answer to those who ask for it.
            compile_s: how long it once took to compile.
        """
        with self._lock:
            if number not in self._futures:
                self._futures[number] = Future()
                self._futures[number].set_result(build)
                self._packed_s[number] = compile_s
                self._done[number] = True

    def ask(self, call: Call, timeout_s: float) -> Any:
        """Have a worker (``compile.worker.Compiler``) answer a call other than the farm's compiles.

        Raises:
            WorkerError: it took longer than ``timeout_s``, or killed the worker.
        """
        worker = self._idle.get()
        try:
            return worker.request(call, timeout_s)
        finally:
            self._idle.put(worker)

    def ask_all(self, calls: Sequence[Call], timeout_s: float) -> list[Any]:
        """Have workers answer several calls, as many at once as are not compiling now. Raises what ``ask`` raises."""
        at_once = max(1, min(len(calls), len(self._workers) - len(self._wanted)))
        if at_once == 1:
            return [self.ask(call, timeout_s) for call in calls]
        with ThreadPoolExecutor(at_once, thread_name_prefix="ask") as threads:
            return list(threads.map(lambda call: self.ask(call, timeout_s), calls))

    def watched_by(self, occupancy: Occupancy) -> None:
        """From now on, count this farm's working compilers in a GPU's occupancy."""
        self._watchers = [*self._watchers, occupancy]

    @property
    def activity(self) -> FarmActivity:
        """The work that the farm has done so far."""
        return self._activity

    def _count(self, **more: float) -> None:
        """Add to the activity. The caller holds the lock."""
        now = self._activity
        self._activity = replace(now, **{name: getattr(now, name) + n for name, n in more.items()})

    def _compile(self, wanted: _Wanted) -> Build:
        worker = self._idle.get()
        with self._lock:
            self._count(waiting=-1)
            if not wanted.by:
                self._idle.put(worker)
                return NOT_WANTED
            wanted.worker = worker
        start = time.perf_counter()
        try:
            with ExitStack() as stack:
                for occupancy in self._watchers:
                    stack.enter_context(occupancy.at("compiling"))
                build = self._ask(worker, wanted)
        finally:
            with self._lock:
                wanted.worker = None
                if wanted.by:
                    self._done[wanted.number] = True
                    self._wanted.pop(wanted.number, None)
                passed_s = time.perf_counter() - start
                self._count(busy_s=passed_s, withdrawn_s=0.0 if wanted.by else passed_s)
            if not wanted.by:  # it may have been interrupted after its answer, and the next request would be lost
                worker.kill()
            self._idle.put(worker)
        return build

    def _ask(self, worker: Worker, wanted: _Wanted) -> Build:
        kernel = wanted.problem.kernel
        deadline_s = self.times.deadline_s(kernel)
        try:
            worker.start()  # outside of the compile's own deadline
            build: Build = worker.request(("compile", wanted.problem, wanted.config), deadline_s)
        except WorkerTimeoutError:
            with self._lock:
                self._count(compiles=1, timeouts=1, timeouts_s=deadline_s)
            self.times.learn_timeout(kernel, wanted.config, deadline_s)
            detail = f"the compile took longer than {deadline_s:.3g} s"
            return Invalid(InvalidReason.COMPILE_TIMEOUT, detail, compilation=Compilation(deadline_s))
        except WorkerDiedError as error:
            if not wanted.by:
                return NOT_WANTED
            with self._lock:
                self._count(compiles=1, crashes=1)
            return Invalid(InvalidReason.COMPILE_ERROR, f"{COMPILER_DIED}: {error}")
        cached = build.compilation.cached
        with self._lock:
            self._count(cached=cached, compiles=not cached)
        if not cached:
            self.times.learn(kernel, wanted.config, build.compilation.compile_s)
        return build

    def wait_until_started(self) -> None:
        """Wait for the first worker to be ready. Each of the others starts to work when it is ready.

        Raises:
            WorkerError: it cannot start.
        """
        self._first.result()

    def _begin(self, worker: Worker) -> None:
        """Start a worker and queue it for work. If it cannot start, its next request tries again."""
        try:
            worker.start()
        finally:
            self._idle.put(worker)

    def close(self) -> None:
        """Kill the workers. Compiles under way end as invalid."""
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
