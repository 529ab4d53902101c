"""``bo-tune delete`` asks before it deletes; what it deletes is in ``test_exchange_commands``."""

import io
from pathlib import Path

import pytest
from helpers import H100, Cli, command, sqlite_url
from terminal import terminal

from bo_tune.core.problem import LoraProblem
from bo_tune.core.study_name import StudyName
from bo_tune.store.storage import StudyStore

NAME = StudyName(LoraProblem("lora_shrink", 4, 1, 16, 4096, 16), H100.name, "x")


@pytest.fixture
def url(tmp_path: Path) -> str:
    """A database with one study."""
    url = sqlite_url(tmp_path / "x.db")
    with StudyStore(url) as store:
        store.open(NAME, H100)
    return url


def studies(url: str) -> int:
    with StudyStore(url, only_read=True) as store:
        return len(store.names())


def test_where_nobody_can_be_asked_it_needs_to_be_told(cli: Cli, url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO("y\n"))
    error = cli("delete", "lora_shrink", "--storage", url).error
    assert error == f"--yes is needed, because there is no terminal on which to ask: delete {NAME} with 0 trials?"
    assert studies(url) == 1


@pytest.mark.slow
@pytest.mark.parametrize(
    ("typed", "code", "left", "said"),
    [
        ("y\n", 0, 0, "deleted lora_shrink"),
        ("no\n", 1, 1, "nothing was deleted"),
        ("\n", 1, 1, "nothing was deleted"),
        ("\x04", 1, 1, "nothing was deleted"),
        ("\x03", 130, 1, ""),
    ],
)
def test_it_asks_first(tmp_path: Path, url: str, typed: str, code: int, left: int, said: str) -> None:
    with terminal(command("delete", "lora_shrink", "--storage", url), cwd=tmp_path) as shown:
        shown.wait_for(lambda lines: any("[y/N]" in line for line in lines))
        shown.type(typed)
        assert shown.finish() == code
        assert said in shown.text
    assert studies(url) == left
