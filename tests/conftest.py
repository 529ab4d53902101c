"""Settings of all tests. Being here also lets tests in subfolders import ``helpers``."""

import os
from collections.abc import Iterator

import pytest
from hypothesis import settings
from postgres import Postgres, running_postgres

# Tests run side by side: threads of BLAS would only wait for each other, for minutes on a loaded machine.
for name in ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ.setdefault(name, "1")

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


@pytest.hookimpl(tryfirst=True)  # before xdist looks at the groups
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """What needs the server is slow, as that takes seconds to start, and goes to one process: it is started once."""
    for item in items:
        if "postgres" in getattr(item, "fixturenames", ()) or "[postgresql" in item.nodeid:
            item.add_marker(pytest.mark.slow)
            item.add_marker(pytest.mark.xdist_group("postgres"))
