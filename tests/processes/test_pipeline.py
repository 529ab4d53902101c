"""Requests of several threads to one child, the next always at hand. Real children that answer, die and hang."""

import os
import signal
import threading
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from random import Random
from typing import Any

import pytest

from bo_tune.processes.pipeline import Pipeline
from bo_tune.processes.worker import Worker, WorkerDiedError, WorkerTimeoutError

pytestmark = pytest.mark.slow


def long() -> float:
    return 30.0


@pytest.fixture
def threads() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(8) as pool:
        yield pool


def queued(pipeline: Pipeline, count: int) -> None:
    """Wait until so many requests wait for their answers."""
    end = time.monotonic() + 10
    while len(pipeline._queue) < count:
        assert time.monotonic() < end
        time.sleep(0.005)


def test_the_next_request_is_answered_while_the_last_answer_is_still_being_looked_at(
    worker: Worker, threads: ThreadPoolExecutor
) -> None:
    pipeline = Pipeline(worker)
    looked_at: list[float] = []

    def look(_answer: object) -> bool:
        time.sleep(0.3)
        looked_at.append(time.monotonic())
        return False

    first = threads.submit(pipeline.request, ("sleep", 0.2), long, breaks=look)
    queued(pipeline, 1)
    second = threads.submit(pipeline.request, ("time", None), long)
    first.result()
    assert second.result() < looked_at[0] - 0.1


def test_a_deadline_runs_from_when_the_child_turns_to_a_request(worker: Worker, threads: ThreadPoolExecutor) -> None:
    pipeline = Pipeline(worker)
    pipeline.request(("echo", 0), long)
    first = threads.submit(pipeline.request, ("sleep", 0.8), long)
    queued(pipeline, 1)
    asked: list[float] = []

    def soon() -> float:
        asked.append(time.monotonic())
        return 0.5

    second = threads.submit(pipeline.request, ("echo", 7), soon)
    first.result()
    ended = time.monotonic()
    assert second.result() == 7
    assert abs(asked[0] - ended) < 0.3


@pytest.mark.parametrize(
    ("message", "timeout_s", "error"),
    [
        (("exit", 3), 30.0, WorkerDiedError),
        (("raise", "no"), 30.0, WorkerDiedError),
        (("sleep", 60), 0.4, WorkerTimeoutError),
    ],
)
def test_what_takes_the_child_down_costs_itself_alone(
    worker: Worker, threads: ThreadPoolExecutor, message: tuple[str, Any], timeout_s: float, error: type[Exception]
) -> None:
    pipeline = Pipeline(worker)
    pipeline.request(("echo", 0), long)
    before = threads.submit(pipeline.request, ("sleep", 0.3), long)
    queued(pipeline, 1)
    bad = threads.submit(pipeline.request, message, lambda: timeout_s)
    queued(pipeline, 2)
    others = [threads.submit(pipeline.request, ("echo", value), long) for value in range(4)]
    assert before.result() is None
    with pytest.raises(error):
        bad.result()
    assert sorted(other.result() for other in others) == [0, 1, 2, 3]
    assert worker.starts == 2


def test_an_answer_that_leaves_the_child_unfit_has_the_next_request_sent_to_another(
    worker: Worker, threads: ThreadPoolExecutor
) -> None:
    restarts: list[str] = []

    @contextmanager
    def restarting() -> Iterator[None]:
        restarts.append("begun")
        yield

    pipeline = Pipeline(worker, restarting)
    slept = threads.submit(pipeline.request, ("sleep", 0.3), long)
    queued(pipeline, 1)
    first = threads.submit(pipeline.request, ("pid", None), long, breaks=lambda answer: True)
    queued(pipeline, 2)
    second = threads.submit(pipeline.request, ("pid", None), long)
    slept.result()
    assert first.result() != second.result()
    assert len(restarts) == 3  # started, ended, started


def test_one_that_died_while_nobody_asked_it_is_nobodys_loss(worker: Worker) -> None:
    pipeline = Pipeline(worker)
    pid = pipeline.request(("pid", None), long)[0]
    os.kill(pid, signal.SIGKILL)
    time.sleep(0.2)
    assert pipeline.request(("echo", 5), long) == 5


def test_a_child_is_ended_once_it_has_nothing_to_answer(worker: Worker, threads: ThreadPoolExecutor) -> None:
    pipeline = Pipeline(worker)
    asked = threads.submit(pipeline.request, ("sleep", 0.3), long)
    queued(pipeline, 1)
    pipeline.end_child()
    assert asked.result() is None
    assert worker.child is None
    assert pipeline.request(("echo", 1), long) == 1


def test_many_threads_each_get_their_own_answers_whatever_befalls_the_child(
    worker: Worker, threads: ThreadPoolExecutor
) -> None:
    pipeline, random, lock = Pipeline(worker), Random(0), threading.Lock()
    met: Counter[str] = Counter()

    def ask(value: int) -> None:
        with lock:
            kind = random.choices(["echo", "exit", "breaks"], [20, 1, 1])[0]
        if kind == "exit":
            with pytest.raises(WorkerDiedError):
                pipeline.request(("exit", 1), long)
        else:
            assert pipeline.request(("echo", value), long, breaks=lambda answer: kind == "breaks") == value
        with lock:
            met[kind] += 1

    asked: list[Future[None]] = [threads.submit(ask, value) for value in range(200)]
    for one in asked:
        one.result()
    assert met.total() == 200
    assert met["exit"] > 3
    assert worker.starts == 1 + met["exit"] + met["breaks"] - (worker.child is None)
