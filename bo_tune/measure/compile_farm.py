"""Worker processes that compile ahead of the GPU, each compile under a deadline."""

import queue
import threading
from collections.abc import Hashable
from concurrent.futures import Future, ThreadPoolExecutor

from bo_tune.measure.device import Build, Compiled
from bo_tune.measure.messages import CompileRequest
from bo_tune.measure.worker import Worker, WorkerDiedError, WorkerTimeoutError
from bo_tune.outcome import Compilation, Invalid, InvalidReason
from bo_tune.problem import GpuInfo, Problem
from bo_tune.space import Config

MODULE = "bo_tune.measure.compile_worker"


class CompileFarm:
    """Compiles configs in parallel; equal binaries once.

    Args:
        workers: number of processes.
        deadline_s: seconds after which a compile is given up and its process group killed.
    """

    def __init__(self, gpu: GpuInfo, *, workers: int, deadline_s: float) -> None:
        self.deadline_s = deadline_s
        major, minor = gpu.capability
        self._workers = [Worker(MODULE, [str(10 * major + minor)]) for _ in range(workers)]
        self._idle: queue.SimpleQueue[Worker] = queue.SimpleQueue()
        for worker in self._workers:
            self._idle.put(worker)
        self._threads = ThreadPoolExecutor(workers, thread_name_prefix="compile")
        self._known: dict[Hashable, Future[Build]] = {}
        self._lock = threading.Lock()

    def submit(self, key: Hashable, problem: Problem, config: Config) -> Future[Build]:
        """Start compiling, unless a binary of the same key is there or on its way.

        The second to ask for a binary is told that it was cached.
        """
        request = CompileRequest(problem, dict(config))
        with self._lock:
            known = self._known.get(key)
            if known is None:
                known = self._known[key] = self._threads.submit(self._compile, request)
                return known
        return _as_cached(known)

    def has(self, key: Hashable) -> bool:
        """Say whether the binary of a key is there."""
        known = self._known.get(key)
        return known is not None and known.done()

    def _compile(self, request: CompileRequest) -> Build:
        worker = self._idle.get()
        try:
            worker.start()  # not on the compile's own time
            build: Build = worker.request(request, self.deadline_s)
        except WorkerTimeoutError:
            detail = f"compile took longer than {self.deadline_s:g} s"
            return Invalid(InvalidReason.COMPILE_TIMEOUT, detail, compilation=Compilation(self.deadline_s))
        except WorkerDiedError as error:
            return Invalid(InvalidReason.COMPILE_ERROR, f"the compiler died: {error}")
        finally:
            self._idle.put(worker)
        return build

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
