"""What begins before anything else is known: an import of torch where it is certain to be needed, and nowhere else."""

from collections.abc import Sequence
from pathlib import Path

import pytest
from helpers import sqlite_url

from bo_tune.cli import start
from bo_tune.core.choices import MEMORY
from bo_tune.processes.fork_server import IMPORTED_FIRST


class Noting:
    """Stands for a process that imports."""

    def __init__(self, modules: Sequence[str]) -> None:
        self.modules, self.closed = modules, False

    def close(self) -> None:
        self.closed = True


@pytest.fixture(autouse=True)
def _noted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(start, "Imports", Noting)


def test_a_new_database_has_nothing_that_could_be_done_already(tmp_path: Path) -> None:
    for storage, anew in ((MEMORY, False), (sqlite_url(tmp_path / "new.db"), False), ("postgresql://db/x", True)):
        with start.importing_ahead("cuda:0", storage, anew=anew) as imports:
            assert isinstance(imports, Noting)
            assert imports.modules == IMPORTED_FIRST
            assert not imports.closed
        assert imports.closed


def test_elsewhere_it_waits_until_it_is_known_that_something_is_to_be_done(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    there = tmp_path / "there.db"
    there.touch()
    for device, storage, here in (
        ("cuda", sqlite_url(there), True),
        ("cuda", "postgresql://db/x", True),
        ("cuda", sqlite_url(tmp_path / "new.db"), False),
        ("replay:recordings", MEMORY, True),
    ):
        with start.importing_ahead(device, storage, anew=False, here=here) as imports:
            assert imports is None
    monkeypatch.setattr(start, "missing_packages", lambda: ["triton"])
    with start.importing_ahead("cuda", MEMORY, anew=True) as imports:
        assert imports is None
