"""Child processes that answer, die, hang and leave grandchildren behind. All of them real."""

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from bo_tune.errors import WorkerError
from bo_tune.measure.worker import Worker, WorkerDiedError, WorkerTimeoutError

HERE = str(Path(__file__).parent)
LONG_S = 30.0


@pytest.fixture
def worker() -> Iterator[Worker]:
    """A worker whose child does what it is told."""
    made = Worker("worker_child", [], environment={"PYTHONPATH": HERE})
    yield made
    made.kill()


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")")[-1].split()[0] != "Z"
    except OSError:
        return False


def wait_until_dead(pid: int, timeout_s: float = 10.0) -> bool:
    end = time.monotonic() + timeout_s
    while alive(pid) and time.monotonic() < end:
        time.sleep(0.02)
    return not alive(pid)


def pid_of(worker: Worker) -> int:
    pid: int = worker.request(("pid", None), LONG_S)[0]
    return pid


def test_one_child_answers_every_request(worker: Worker) -> None:
    assert worker.starts == 0
    for value in (1, "two", {"three": [3.0]}, None, b"x" * 5_000_000):
        assert worker.request(("echo", value), LONG_S) == value
    assert worker.starts == 1


def test_the_child_is_a_group_of_its_own(worker: Worker) -> None:
    pid, group = worker.request(("pid", None), LONG_S)
    assert pid == group != os.getpgid(0)


@pytest.mark.parametrize(
    ("message", "words"),
    [
        (("raise", "no such tile"), "ValueError: no such tile"),
        (("exit", 3), "the process ended without a word"),
        (("signal", "SIGKILL"), "the process ended without a word"),
        (("signal", "SIGSEGV"), "the process ended without a word"),
    ],
)
def test_a_death_is_told_with_the_last_words_and_the_next_request_starts_anew(
    worker: Worker, message: tuple[str, object], words: str
) -> None:
    with pytest.raises(WorkerDiedError, match=words):
        worker.request(message, LONG_S)
    assert worker.request(("echo", 1), LONG_S) == 1
    assert worker.starts == 2


def test_last_words_are_those_of_the_last_child(worker: Worker) -> None:
    with pytest.raises(WorkerDiedError, match="first"):
        worker.request(("raise", "the first, which said much more than the second"), LONG_S)
    with pytest.raises(WorkerDiedError, match=r"^ValueError: second$"):
        worker.request(("raise", "second"), LONG_S)
    with pytest.raises(WorkerDiedError, match="without a word"):
        worker.request(("exit", 1), LONG_S)


def test_a_child_that_does_not_answer_is_killed(worker: Worker) -> None:
    pid = pid_of(worker)
    start = time.monotonic()
    with pytest.raises(WorkerTimeoutError, match=r"no answer within 0\.3 s"):
        worker.request(("sleep", 600), 0.3)
    assert time.monotonic() - start < 5
    assert not alive(pid)
    assert worker.request(("echo", 1), LONG_S) == 1
    assert worker.starts == 2


def test_a_timeout_ends_what_the_child_started_too(worker: Worker, tmp_path: Path) -> None:
    """As a compiler that waits for a hanging ptxas."""
    note = tmp_path / "pid"
    worker.start()
    with pytest.raises(WorkerTimeoutError):
        worker.request(("grandchild", str(note)), 1.5)
    assert wait_until_dead(int(note.read_text()))


def test_a_child_that_died_idle_costs_nothing(worker: Worker) -> None:
    pid = pid_of(worker)
    os.kill(pid, signal.SIGKILL)
    assert wait_until_dead(pid)
    assert worker.request(("echo", 1), LONG_S) == 1
    assert worker.starts == 2


def test_another_thread_can_end_a_request(worker: Worker) -> None:
    worker.start()
    timer = threading.Timer(0.3, worker.interrupt)
    start = time.monotonic()
    timer.start()
    with pytest.raises(WorkerDiedError):
        worker.request(("sleep", 600), 600)
    assert time.monotonic() - start < 5
    timer.join()
    assert worker.request(("echo", 1), LONG_S) == 1


def test_an_idle_or_ended_worker_can_be_interrupted_and_killed_again(worker: Worker) -> None:
    worker.interrupt()
    worker.kill()
    pid = pid_of(worker)
    worker.kill()
    worker.kill()
    worker.interrupt()
    assert not alive(pid)
    assert worker.starts == 1


def test_a_module_that_cannot_start_says_why() -> None:
    broken = Worker("no_such_module", [])
    with pytest.raises(WorkerDiedError, match="No module named no_such_module"):
        broken.request(("echo", 1), LONG_S)


def test_a_module_that_is_no_worker_is_an_error() -> None:
    with pytest.raises(WorkerError):
        Worker("this", []).request(("echo", 1), LONG_S)


def test_arguments_and_environment_reach_the_child() -> None:
    made = Worker("worker_child", ["some", "arguments"], environment={"PYTHONPATH": HERE})
    assert made.request(("echo", 1), LONG_S) == 1
    made.kill()


def test_restarts_leak_no_descriptors(worker: Worker) -> None:
    def descriptors() -> int:
        return len(list(Path("/proc/self/fd").iterdir()))

    pid_of(worker)
    before = descriptors()
    for _ in range(3):
        with pytest.raises(WorkerDiedError):
            worker.request(("exit", 1), LONG_S)
        pid_of(worker)
    assert descriptors() == before


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM])
def test_a_child_ends_when_its_parent_is_gone(how: signal.Signals) -> None:
    environment = {**os.environ, "PYTHONPATH": HERE}
    parent = subprocess.Popen(
        [sys.executable, "-m", "worker_parent"], env=environment, stdout=subprocess.PIPE, text=True, cwd=HERE
    )
    assert parent.stdout is not None
    child = int(parent.stdout.readline())
    assert alive(child)
    parent.send_signal(how)
    parent.communicate()
    assert wait_until_dead(child)
