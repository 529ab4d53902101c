"""What tests of child processes share: a fork server that knows the misbehaving child, and a worker of it."""

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from bo_tune.processes import fork_server
from bo_tune.processes.fork_server import ForkServer
from bo_tune.processes.worker import Worker


@pytest.fixture(autouse=True, scope="module")
def _started_anew() -> Iterator[None]:
    """How fork servers start, and what they import, is what is tested here."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(fork_server, "subprocess", subprocess)
        yield


@pytest.fixture(scope="module")
def server() -> Iterator[ForkServer]:
    """A fork server that knows the child's module."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(Path(__file__).parent))
        made = ForkServer(["worker_child"])
    yield made
    made.close()


@pytest.fixture
def worker(server: ForkServer) -> Iterator[Worker]:
    """A worker whose child does what it is told."""
    made = Worker(server, "worker_child", [])
    yield made
    made.kill()
