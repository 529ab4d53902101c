"""Settings of all tests. Being here also lets tests in subfolders import ``helpers``."""

import os
import re
from collections.abc import Iterator

import forked
import pytest
from hypothesis import settings
from postgres import Postgres, running_postgres
from xdist.remote import Producer
from xdist.scheduler import LoadScopeScheduling

SERVER = re.compile(r"\[postgresql\]|_on_postgresql|_a_server_")
"""Tests that share a PostgreSQL server."""

WHOLE = {
    "analysis/review/test_review", "cli/test_closed_places", "cli/test_finished", "cli/test_live_console",
    "cli/test_read_only", "display/test_page", "measure/test_compile_farm", "measure/test_compilers",
    "measure/test_gpu_device", "measure/test_packed", "session/test_exported", "session/test_kill",
    "store/test_dashboard", "test_distribution",
}  # fmt: skip
"""Modules whose tests share what takes seconds to make: studies, a browser, a wheel, processes with torch imported."""

# Tests run side by side: threads of BLAS would only wait for each other, for minutes on a loaded machine.
for name in ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ.setdefault(name, "1")

# What tests start in this process, fork servers say, need not import everything anew either.
forked.install()

# On shared cores an example may take any time, and a failure in CI must be the same on the next run.
settings.register_profile("bo_tune", deadline=None, derandomize=True)
# Of `make check`: a fifth of the examples, except where a test names their number.
settings.register_profile("bo_tune_quick", settings.get_profile("bo_tune"), max_examples=20)
settings.load_profile("bo_tune")


@pytest.fixture(scope="session")
def postgres() -> Iterator[Postgres]:
    """A PostgreSQL server of this run's own."""
    with running_postgres() as server:
        yield server


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """What needs the server is slow: it takes seconds to start."""
    for item in items:
        if "postgres" in getattr(item, "fixturenames", ()) or "[postgresql]" in item.nodeid:
            item.add_marker(pytest.mark.slow)


class SharingScheduling(LoadScopeScheduling):
    """Hands tests out one by one, but those together that share what takes long to make.

    xdist's own way to say so, ``--dist loadgroup``, does nothing under pytest 9.2: xdist 3.8 renames tests in a way
    that pytest no longer looks at.
    """

    def _split_scope(self, nodeid: str) -> str:
        if SERVER.search(nodeid):
            return "PostgreSQL"
        module = nodeid.partition("::")[0]
        return module if module.removeprefix("tests/").removesuffix(".py") in WHOLE else nodeid


@pytest.hookimpl(optionalhook=True)  # tests that run pytest do so without xdist
def pytest_xdist_make_scheduler(config: pytest.Config, log: Producer) -> SharingScheduling | None:
    """Take the place of the scheduler that ``-n`` alone means."""
    return SharingScheduling(config, log) if config.getvalue("dist") == "load" else None
