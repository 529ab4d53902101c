"""Children that stand ready, for a worker whose children take long to start and are lost now and then.

A GPU process needs a second or two for its CUDA context, its modules and its first kernels. That is paid once, and then
again by every config that breaks or hangs it. From the first loss on, another child is started in the background and
waits; where losses come thick, several. One that takes over costs the time of a message.
"""

import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

from bo_tune.processes.worker import Child, WorkerDiedError


@dataclass(frozen=True, slots=True)
class StandbyActivity:
    """What was done in the background so far.

    Attributes:
        starts: children that came to stand ready.
        failures: children that did not.
        start_s: seconds that starting them took, summed over children.
    """

    starts: int = 0
    failures: int = 0
    start_s: float = 0.0


class Standbys:
    """Children started ahead of need. None before the first loss. Safe to use from several threads.

    Args:
        fork: starts a child, not waiting until it is ready.
        make_ready: waits until a child is ready to be asked anything. Both may raise WorkerError.
        most: children standing ready at most.
    """

    REMEMBERED_S = 10.0
    """As many stand ready as were lost within this time, and at least one."""

    def __init__(self, fork: Callable[[], Child], make_ready: Callable[[Child], None], *, most: int) -> None:
        self._fork, self._make_ready, self._most = fork, make_ready, most
        self._ready: deque[Child] = deque()
        self._making: set[Child] = set()
        self._threads: set[threading.Thread] = set()
        self._losses: deque[float] = deque()
        self._changed = threading.Condition()
        self._closed = False
        self._activity = StandbyActivity()

    def relieve(self) -> Child:
        """Return a child in place of one that was lost: one that stands ready, or else the first to be.

        Raises:
            WorkerError: none can be started.
        """
        with self._changed:
            self._losses.append(time.monotonic())
            self._order(1)
            while self._ready or self._threads:
                if not self._ready:
                    self._changed.wait()
                    continue
                child = self._ready.popleft()
                if child.is_waiting:
                    return child
                child.kill()  # it ended meanwhile
                self._order(1)
            if self._closed:
                raise WorkerDiedError("its device was closed")
        child = self._fork()  # those in the background all failed; say why
        try:
            self._make_ready(child)
        except BaseException:
            child.kill()
            raise
        return child

    def _order(self, more: int) -> None:
        """Start what is missing in the background, and what is about to be taken. The caller holds the lock."""
        if self._closed:
            return
        now = time.monotonic()
        while len(self._losses) > 1 and now - self._losses[0] > self.REMEMBERED_S:
            self._losses.popleft()
        wanted = min(len(self._losses), self._most) + more
        for _ in range(wanted - len(self._ready) - len(self._threads)):
            thread = threading.Thread(target=self._make, name="standby", daemon=True)
            self._threads.add(thread)
            thread.start()

    def _make(self) -> None:
        start = time.perf_counter()
        child: Child | None = None
        ready = False
        try:
            child = self._begin()
            self._make_ready(child)
            ready = True
        except Exception:  # noqa: BLE001 - whoever waits for it starts one itself, and hears why that fails
            pass
        finally:  # whatever went wrong, nobody waits for this thread any more
            kept = self._keep(child, ready, time.perf_counter() - start)
            if child is not None and not kept:
                child.kill()

    def _keep(self, child: Child | None, ready: bool, seconds: float) -> bool:
        """Have a child stand ready, if it is; say whether it does."""
        with self._changed:
            self._threads.discard(threading.current_thread())
            if child is not None:
                self._making.discard(child)
            then = self._activity
            self._activity = StandbyActivity(then.starts + ready, then.failures + (not ready), then.start_s + seconds)
            kept = ready and child is not None and not self._closed
            if kept and child is not None:
                self._ready.append(child)
            self._changed.notify_all()
            return kept

    def _begin(self) -> Child:
        with self._changed:  # where it is closed meanwhile, either no child is forked or it is known
            if self._closed:
                raise WorkerDiedError("no more children are wanted")
            child = self._fork()
            self._making.add(child)
            return child

    @property
    def pids(self) -> list[int]:
        """Process ids of those that stand ready."""
        with self._changed:
            return [child.pid for child in self._ready]

    @property
    def activity(self) -> StandbyActivity:
        """What was done so far."""
        return self._activity

    def close(self) -> None:
        """End all that stand ready or are being started; return when they are gone."""
        with self._changed:
            self._closed = True
            threads = list(self._threads)
            for child in self._making:
                child.interrupt()
            ready = list(self._ready)
            self._ready.clear()
        for child in ready:
            child.kill()
        for thread in threads:
            thread.join()
