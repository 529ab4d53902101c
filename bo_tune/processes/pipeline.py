"""A child that always has its next request at hand.

Between an answer and the next request, threads wake up and the interpreter lock changes hands. With dozens of studies
at work, this takes milliseconds, as long as measuring a config does, and the child would be idle meanwhile. So while
the child works on one request, it already has another.
"""

import threading
from collections import deque
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

from bo_tune.errors import WorkerError
from bo_tune.processes.worker import Child, Worker, WorkerDiedError

AT_HAND = 2
"""Most requests that a child has: the one it works on and the next."""


class NotStartedError(WorkerError):
    """No child could be started, so nothing was asked."""


@dataclass(eq=False, slots=True)
class _Request:
    """A request that waits for its answer, and the child that has it.

    Attributes:
        turn: set when the request is first in the queue. Each request has its own event, so that an answer wakes only
            one of dozens of waiting threads.
    """

    message: object
    is_prepared: Callable[[Child], bool]
    sent_to: Child | None = None
    turn: threading.Event = field(default_factory=threading.Event)


class Pipeline:
    """Asks a worker on behalf of several threads, in the order of their requests.

    If a child is lost, the request that it was working on is lost too. The request behind it is sent to the next child.

    Args:
        worker: the worker; nobody else may ask it.
        restarting: context that is entered while a child is ended, or another is started in its place.
    """

    def __init__(self, worker: Worker, restarting: Callable[[], AbstractContextManager[object]] = nullcontext) -> None:
        self._worker = worker
        self._restarting = restarting
        self._queue: deque[_Request] = deque()
        self._lock = threading.Lock()
        self._idle = threading.Condition(self._lock)

    def request(
        self,
        message: object,
        timeout_s: Callable[[], float],
        *,
        at_work: Callable[[], AbstractContextManager[object]] = nullcontext,
        breaks: Callable[[Any], bool] | None = None,
        is_prepared: Callable[[Child], bool] = lambda _: True,
        prepare: Callable[[Child], None] | None = None,
    ) -> Any:
        """Return the child's answer to a message.

        Args:
            timeout_s: returns the deadline, when the child turns to the message.
            at_work: context from that moment until the answer.
            breaks: says whether an answer leaves the child unfit for others. The child is then ended.
            is_prepared: says whether a child can be sent the message already.
            prepare: asks the child for what must come before, if it is not prepared when it turns to the message. Its
                errors are raised.

        Raises:
            WorkerTimeoutError: the deadline passed; the child and its children are dead.
            WorkerDiedError: the child ended before it answered.
            NotStartedError: there was no child, and none could be started.
        """
        mine = _Request(message, is_prepared)
        with self._lock:
            self._queue.append(mine)
            self._send_ahead()
            self._call_first()
        mine.turn.wait()
        ends = True  # unless the child is known to be fit
        try:
            child = self._have(mine, prepare)
            with at_work():
                answer = child.answer(timeout_s())
            ends = breaks is not None and breaks(answer)
            return answer
        finally:
            with self._lock:
                if ends:
                    self._end()
                self._queue.popleft()
                self._send_ahead()
                self._call_first()

    def end_child(self) -> None:
        """End the child once it has nothing to answer. The next request starts another."""
        with self._idle:
            self._idle.wait_for(lambda: not self._queue)
            self._end()

    def _call_first(self) -> None:
        """Wake the first request in the queue, or whoever waits for an empty queue. The caller holds the lock."""
        if self._queue:
            self._queue[0].turn.set()
        else:
            self._idle.notify_all()

    def _have(self, first: _Request, prepare: Callable[[Child], None] | None) -> Child:
        """Return the child that has the first request. A child is started if there is none.

        A child that turns out to be dead before it could be asked anything is replaced once.
        """
        for last in (False, True):
            with self._lock:
                child = self._start()
            if first.sent_to is not child and prepare is not None and not first.is_prepared(child):
                prepare(child)
            with self._lock:
                if first.sent_to is child or self._send(first, child):
                    self._send_ahead()
                    return child
                if not last:
                    self._end()
        raise WorkerDiedError("the process exited before its first request")

    def _start(self) -> Child:
        child = self._worker.child
        if child is None:
            try:
                with self._restarting():
                    child = self._worker.start()
            except WorkerError as error:
                raise NotStartedError(str(error)) from error
        return child

    def _end(self) -> None:
        with self._restarting():
            self._worker.kill()

    def _send_ahead(self) -> None:
        """Send the next requests to the child. The caller holds the lock."""
        child = self._worker.child
        if child is not None:
            for request in islice(self._queue, AT_HAND):
                if request.sent_to is not child and not (request.is_prepared(child) and self._send(request, child)):
                    return  # it is sent when its turn comes

    @staticmethod
    def _send(request: _Request, child: Child) -> bool:
        try:
            child.send(request.message)
        except (OSError, WorkerError):
            return False
        request.sent_to = child
        return True
