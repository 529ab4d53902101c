"""Child processes that answer, die, hang and leave grandchildren behind. All of them real."""

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from bo_tune.processes.fork_server import ForkServer, Imports
from bo_tune.processes.worker import Worker, WorkerDiedError, WorkerTimeoutError

pytestmark = pytest.mark.slow

HERE = str(Path(__file__).parent)
LONG_S = 120.0


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


def test_what_children_have_in_common_is_done_once_before_they_are_forked(worker: Worker) -> None:
    done_in, server = worker.request(("forked from", None), LONG_S)
    assert done_in == [server]
    worker.kill()
    assert worker.request(("forked from", None), LONG_S) == (done_in, server)


def test_the_child_is_a_group_of_its_own(worker: Worker) -> None:
    pid, group = worker.request(("pid", None), LONG_S)
    assert pid == group != os.getpgid(0)


@pytest.mark.parametrize(
    ("message", "words"),
    [
        (("raise", "no such tile"), "ValueError: no such tile"),
        (("exit", 3), "the process exited without a message"),
        (("signal", "SIGKILL"), "the process exited without a message"),
        (("signal", "SIGSEGV"), "the process exited without a message"),
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
    with pytest.raises(WorkerDiedError, match="exited without a message"):
        worker.request(("exit", 1), LONG_S)


def test_a_child_that_does_not_answer_is_killed(worker: Worker) -> None:
    pid = pid_of(worker)
    start = time.monotonic()
    with pytest.raises(WorkerTimeoutError, match=r"no answer came within 0\.3 s"):
        worker.request(("sleep", 600), 0.3)
    assert time.monotonic() - start < 5
    assert wait_until_dead(pid, 1.0)
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
    assert wait_until_dead(pid, 1.0)
    assert worker.starts == 1


def test_a_server_that_cannot_start_says_why() -> None:
    server = ForkServer(["no_such_module"])
    broken = Worker(server, "no_such_module", [])
    for _ in range(2):
        with pytest.raises(WorkerDiedError, match="No module named 'no_such_module'"):
            broken.request(("echo", 1), LONG_S)
    server.close()


def test_a_child_that_cannot_start_says_why(server: ForkServer) -> None:
    with pytest.raises(WorkerDiedError, match="No module named 'no_such_module'"):
        Worker(server, "no_such_module", []).request(("echo", 1), LONG_S)


def test_a_module_that_is_no_worker_is_an_error(server: ForkServer) -> None:
    with pytest.raises(WorkerDiedError, match="has no attribute 'main'"):
        Worker(server, "json", []).request(("echo", 1), LONG_S)


def test_arguments_reach_the_child(server: ForkServer) -> None:
    made = Worker(server, "worker_child", ["some", "arguments"])
    assert made.request(("arguments", None), LONG_S) == ["some", "arguments"]
    made.kill()


def test_a_child_starts_in_milliseconds(worker: Worker) -> None:
    worker.start()
    begun = time.monotonic()
    for _ in range(10):
        worker.kill()
        worker.start()
    assert time.monotonic() - begun < 5


def test_workers_of_one_server_are_apart(server: ForkServer) -> None:
    workers = [Worker(server, "worker_child", []) for _ in range(3)]
    pids = [pid_of(made) for made in workers]
    assert len(set(pids)) == 3
    workers[0].kill()
    assert wait_until_dead(pids[0], 1.0)
    assert [pid_of(made) for made in workers[1:]] == pids[1:]
    for made in workers:
        made.kill()


def test_children_end_with_their_server(server: ForkServer) -> None:
    own = ForkServer(["json"])
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", HERE)
        own.close()
        own = ForkServer(["worker_child"])
    child = Worker(own, "worker_child", [])
    pid = pid_of(child)
    own.close()
    assert wait_until_dead(pid)
    with pytest.raises(WorkerDiedError):
        child.request(("echo", 1), LONG_S)


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


@pytest.mark.parametrize("keeps", ["server = ", ""], ids=["killed", "closed before it was heard"])
def test_a_server_that_is_still_importing_ends_with_its_parent(keeps: str, tmp_path: Path) -> None:
    (tmp_path / "slow.py").write_text("import time\ntime.sleep(600)\n")
    start = (
        "import time; from bo_tune.processes.fork_server import ForkServer\n"
        f"{keeps}ForkServer(['slow'])\n"
        "time.sleep(600)"
    )
    path = os.pathsep.join([str(tmp_path), *filter(None, [os.environ.get("PYTHONPATH")])])
    parent = subprocess.Popen([sys.executable, "-c", start], env={**os.environ, "PYTHONPATH": path})
    children = Path(f"/proc/{parent.pid}/task/{parent.pid}/children")
    while not (server := children.read_text().split()):
        assert parent.poll() is None
        time.sleep(0.02)
    time.sleep(0.5)
    parent.kill()
    parent.wait()
    assert wait_until_dead(int(server[0]))


def test_a_process_that_has_begun_to_import_becomes_the_server() -> None:
    imports = Imports(["json"])
    server = ForkServer(["worker_child"], {"BEGUN_WITH": "json", "PYTHONPATH": HERE}, imports)
    worker = Worker(server, "worker_child", [])
    try:
        assert worker.request(("variable", "BEGUN_WITH"), LONG_S) == "json"
        assert worker.request(("forked from", None), LONG_S) == ([imports.process.pid], imports.process.pid)
        assert server.began == imports.began <= time.time()
    finally:
        worker.kill()
        server.close()
    assert wait_until_dead(imports.process.pid)


def test_imports_that_nobody_needs_end(capfd: pytest.CaptureFixture[str]) -> None:
    imports = Imports(["json"])
    assert alive(imports.process.pid)
    imports.close()
    assert wait_until_dead(imports.process.pid)
    imports.close()  # a second time changes nothing
    assert capfd.readouterr() == ("", "")
