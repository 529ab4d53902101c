"""Children that stand ready for one that is lost. All of them real."""

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from test_child_process import LONG_S, alive, pid_of, wait_until_dead

from bo_tune.errors import WorkerError
from bo_tune.processes.fork_server import ForkServer
from bo_tune.processes.standby import Standbys
from bo_tune.processes.worker import Child, Worker, WorkerDiedError

MOST = 2


class Crew:
    """A worker with standbys, and what became of all the children that were forked."""

    def __init__(self, server: ForkServer, ready: Callable[[Child], None] = Child.wait_until_ready) -> None:
        self._server = server
        self.forked: list[Child] = []
        self.standbys = Standbys(self._fork, ready, most=MOST)
        self.worker = Worker(server, "worker_child", [], relief=self.standbys.relieve)

    def _fork(self) -> Child:
        self.forked.append(Child(self._server, "worker_child", []))
        return self.forked[-1]

    def wait_for_ready(self, count: int) -> list[int]:
        end = time.monotonic() + LONG_S
        while len(self.standbys.pids) < count and time.monotonic() < end:
            time.sleep(0.01)
        assert len(self.standbys.pids) == count
        return self.standbys.pids

    def close(self) -> None:
        self.standbys.close()
        self.worker.kill()


@pytest.fixture
def crew(server: ForkServer) -> Iterator[Crew]:
    made = Crew(server)
    yield made
    made.close()


def lose(worker: Worker) -> None:
    with pytest.raises(WorkerDiedError):
        worker.request(("exit", 1), LONG_S)


def test_none_stands_ready_before_the_first_loss(crew: Crew) -> None:
    pid_of(crew.worker)
    assert crew.forked == []
    assert crew.standbys.activity.starts == 0


def test_one_that_stands_ready_takes_over_and_is_replaced(crew: Crew) -> None:
    pid_of(crew.worker)
    lose(crew.worker)
    pid_of(crew.worker)
    (ready,) = crew.wait_for_ready(1)
    lose(crew.worker)
    assert pid_of(crew.worker) == ready
    assert ready not in crew.wait_for_ready(MOST)
    assert crew.worker.starts == 3
    assert crew.standbys.activity.starts == len(crew.forked) == 4
    assert crew.standbys.activity.start_s > 0


def test_more_stand_ready_where_losses_come_thick_and_never_more_than_allowed(crew: Crew) -> None:
    for _ in range(5):
        pid_of(crew.worker)
        lose(crew.worker)
    pid_of(crew.worker)
    crew.wait_for_ready(MOST)
    assert sum(alive(child.pid) for child in crew.forked) == MOST + 1


def test_one_stands_ready_where_losses_are_far_between(crew: Crew, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Standbys, "REMEMBERED_S", 0.0)
    for _ in range(3):
        pid_of(crew.worker)
        lose(crew.worker)
        pid_of(crew.worker)
        crew.wait_for_ready(1)
        assert len(crew.standbys.pids) == 1


def test_one_that_died_while_it_stood_ready_is_passed_over(crew: Crew) -> None:
    pid_of(crew.worker)
    lose(crew.worker)
    pid_of(crew.worker)
    (ready,) = crew.wait_for_ready(1)
    os.kill(ready, signal.SIGKILL)
    assert wait_until_dead(ready)
    lose(crew.worker)
    assert pid_of(crew.worker) != ready
    assert crew.worker.starts == 3


def test_a_takeover_does_not_wait_for_a_slow_start(server: ForkServer) -> None:
    def slowly(child: Child) -> None:
        child.wait_until_ready()
        time.sleep(0.5)

    crew = Crew(server, slowly)
    pid_of(crew.worker)
    lose(crew.worker)
    pid_of(crew.worker)
    crew.wait_for_ready(1)
    lose(crew.worker)
    begun = time.monotonic()
    pid_of(crew.worker)
    assert time.monotonic() - begun < 0.4
    crew.close()


def test_where_none_can_be_made_ready_the_reason_is_told_and_the_next_loss_tries_again(server: ForkServer) -> None:
    broken = threading.Event()
    broken.set()

    def ready(child: Child) -> None:
        child.wait_until_ready()
        if broken.is_set():
            child.request(("raise", "no memory left"), LONG_S)

    crew = Crew(server, ready)
    pid_of(crew.worker)
    lose(crew.worker)
    with pytest.raises(WorkerDiedError, match="ValueError: no memory left"):
        crew.worker.request(("echo", 1), LONG_S)
    assert crew.standbys.activity.failures >= 1
    broken.clear()
    assert crew.worker.request(("echo", 1), LONG_S) == 1
    crew.close()
    assert all(wait_until_dead(child.pid) for child in crew.forked)


def test_an_error_of_its_own_does_not_leave_the_worker_waiting(server: ForkServer) -> None:
    def wrong(child: Child) -> None:
        raise KeyError("a mistake")

    crew = Crew(server, wrong)
    pid_of(crew.worker)
    lose(crew.worker)
    with pytest.raises(KeyError):
        crew.worker.start()
    crew.close()


def test_closing_leaves_no_process_whether_ready_or_starting(server: ForkServer) -> None:
    starting = threading.Event()

    def ready(child: Child) -> None:
        child.wait_until_ready()
        if len(crew.forked) > 2:
            starting.set()
            child.request(("sleep", 600), 600)

    crew = Crew(server, ready)
    pid_of(crew.worker)
    lose(crew.worker)
    pid_of(crew.worker)
    crew.wait_for_ready(1)
    lose(crew.worker)
    serving = pid_of(crew.worker)
    assert starting.wait(LONG_S)
    begun = time.monotonic()
    crew.close()
    assert time.monotonic() - begun < 5
    assert all(wait_until_dead(pid) for pid in {serving, *(child.pid for child in crew.forked)})
    with pytest.raises(WorkerError):
        crew.standbys.relieve()


def test_standbys_leak_no_descriptors(crew: Crew) -> None:
    def descriptors() -> int:
        return len(list(Path("/proc/self/fd").iterdir()))

    for _ in range(3):
        pid_of(crew.worker)
        lose(crew.worker)
    pid_of(crew.worker)
    crew.wait_for_ready(MOST)
    before = descriptors()
    for _ in range(3):
        lose(crew.worker)
        pid_of(crew.worker)
        crew.wait_for_ready(MOST)
    assert descriptors() == before
