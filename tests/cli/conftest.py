"""The command line as a fixture."""

import signal
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path

import optuna
import pytest
from helpers import Cli, Ran

from bo_tune.cli import main, start
from bo_tune.display.page import page
from bo_tune.display.page.drawing import Drawn
from bo_tune.session.workers import measuring


@pytest.fixture
def cli(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Iterator[Cli]:
    """The command line in this process, in an empty folder, its output a pipe."""
    empty = tmp_path / "cwd"
    empty.mkdir()
    monkeypatch.chdir(empty)
    monkeypatch.setattr(
        start, "importing_ahead", lambda *_, **__: nullcontext()
    )  # most tests end before torch is needed
    handler, verbosity = signal.getsignal(signal.SIGTERM), optuna.logging.get_verbosity()

    def run(*arguments: object) -> Ran:
        monkeypatch.setattr("sys.argv", ["bo-tune", *map(str, arguments)])
        capsys.readouterr()
        code = 0
        try:
            main()
        except SystemExit as end:
            code = int(end.code or 0)
        out, err = capsys.readouterr()
        return Ran(code, out, err)

    yield run
    signal.signal(signal.SIGTERM, handler)
    optuna.logging.set_verbosity(verbosity)


@pytest.fixture
def nothing_is_forked(monkeypatch: pytest.MonkeyPatch) -> None:
    """For devices without processes: nothing imports torch for them."""
    monkeypatch.setattr(measuring, "forking", lambda *_, **__: nullcontext(measuring.Forks()))


@pytest.fixture
def charts_are_empty(monkeypatch: pytest.MonkeyPatch) -> None:
    """Reports without their charts, which take seconds to draw; ``tests/display`` looks at them."""
    monkeypatch.setattr(page, "draw", lambda specs: Drawn(["<svg/>"] * len(specs), ""))
