"""Children that stand ready, for a worker whose children take long to start and are lost now and then.

A GPU process needs a second or two for its CUDA context, its modules and its first kernels. That is paid once, and
again for every config that breaks or hangs it. After the first loss, another child is started in the background and
waits. If losses come quickly, there are several. A takeover then costs one message.
"""

import threading
import time
from collections.abc import Callable
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass

from bo_tune.processes.worker import Child, WorkerDiedError


@dataclass(frozen=True, slots=True)
class StandbyActivity:
    """The background work so far.

    Attributes:
        starts: children that became ready.
        failures: children that did not.
        start_s: seconds to start them, summed over children.
    """

    starts: int = 0
    failures: int = 0
    start_s: float = 0.0


class Standbys:
    """Children started ahead of need; none before the first loss. One thread relieves, and any may ask or close.

    Args:
        fork: starts a child without waiting until it is ready.
        make_ready: waits until a child is ready for requests. Both may raise WorkerError.
        most: most children that stand ready.

    Attributes:
        activity: the work so far.
    """

    REMEMBERED_S = 10.0
    """Window for counting losses: as many children stand ready as were lost within this time, and at least one."""

    def __init__(self, fork: Callable[[], Child], make_ready: Callable[[Child], None], *, most: int) -> None:
        self._fork, self._make_ready, self._most = fork, make_ready, most
        self._threads = ThreadPoolExecutor(most + 1, thread_name_prefix="standby")
        self._children: list[Future[Child]] = []
        self._starting: set[Child] = set()
        self._losses: list[float] = []
        self._lock = threading.Lock()
        self._closed = False
        self.activity = StandbyActivity()

    def relieve(self) -> Child:
        """Return a child in place of a lost one: one that stands ready, or else the first to become ready.

        Raises:
            WorkerError: none can be started.
        """
        now = time.monotonic()
        self._losses = [lost for lost in self._losses if now - lost <= self.REMEMBERED_S] + [now]
        self._order()
        while known := list(self._children):
            done, _ = wait(known, return_when=FIRST_COMPLETED)
            first = next(future for future in known if future in done)
            self._children = [future for future in self._children if future is not first]
            child = _child_of(first)
            if child is not None and child.is_waiting:
                return child
            if child is not None:
                child.kill()  # it ended in the meantime
                self._order()
        return self._make()  # all children in the background failed; this one raises the reason

    def _order(self) -> None:
        """Start missing children in the background, and a replacement for the one about to be taken."""
        with self._lock:
            if self._closed:
                return
            self._children = [one for one in self._children if not one.done() or _child_of(one) is not None]
            missing = min(len(self._losses), self._most) + 1 - len(self._children)
            self._children += [self._threads.submit(self._make) for _ in range(missing)]

    def _make(self) -> Child:
        start, child = time.perf_counter(), None
        try:
            with self._lock:  # if it is closed in the meantime, either no child is forked or the child is known
                if self._closed:
                    raise WorkerDiedError("its device was closed")
                child = self._fork()
                self._starting.add(child)
            self._make_ready(child)
        except BaseException:
            if child is not None:
                child.kill()
            self._count(child, StandbyActivity(failures=1, start_s=time.perf_counter() - start))
            raise
        self._count(child, StandbyActivity(starts=1, start_s=time.perf_counter() - start))
        return child

    def _count(self, child: Child | None, more: StandbyActivity) -> None:
        with self._lock:
            then = self.activity
            self.activity = StandbyActivity(
                then.starts + more.starts, then.failures + more.failures, then.start_s + more.start_s
            )
            if child is not None:
                self._starting.discard(child)

    @property
    def pids(self) -> list[int]:
        """Process ids of the children that stand ready."""
        return [child.pid for one in self._children if one.done() and (child := _child_of(one)) is not None]

    def close(self) -> None:
        """End all children that stand ready or are being started. Return when they are gone."""
        with self._lock:
            self._closed = True
            for child in self._starting:
                child.interrupt()
        self._threads.shutdown()
        for one in self._children:
            if (ready := _child_of(one)) is not None:
                ready.kill()


def _child_of(made: Future[Child]) -> Child | None:
    """Return the child of a finished thread; None if it failed."""
    return None if made.exception() is not None else made.result()
