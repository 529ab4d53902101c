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
settings.load_profile("bo_tune")


@pytest.fixture(scope="session")
def postgres() -> Iterator[Postgres]:
    """A PostgreSQL server of this run's own."""
    with running_postgres() as server:
        yield server


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Whatever needs the server is slow: it takes seconds to start."""
    for item in items:
        if "postgres" in getattr(item, "fixturenames", ()):
            item.add_marker(pytest.mark.slow)
