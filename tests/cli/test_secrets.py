"""No command shows a secret of a database's URL, and no file holds one."""

from pathlib import Path

import pytest
from helpers import SHRINK, Cli, sliced, write_all
from postgres import Postgres

pytestmark = pytest.mark.slow

SECRET = "s3cr3tX"


@pytest.mark.parametrize("place", ["password", "userinfo"])
def test_commands_and_what_they_write(cli: Cli, postgres: Postgres, tmp_path: Path, place: str) -> None:
    url = postgres.new_database()
    url = f"{url}?password={SECRET}" if place == "password" else url.replace("tuner@", f"tuner:{SECRET}@")
    recordings = write_all(tmp_path / "recordings", sliced(SHRINK))
    tune = ("tune", "--device", f"replay:{recordings}", "--sampler", "random", "--budget", 6, "--storage", url)
    commands = [
        (*tune, "--out", tmp_path / "out", "--json", tmp_path / "tune.json"),
        ("show", "--storage", url, "--json", tmp_path / "show.json"),
        ("show", "nothing like it", "--storage", url),
        ("report", "--storage", url, "--out", tmp_path / "report.html"),
        ("export", "--storage", url, "--out", tmp_path / "files"),
    ]
    for arguments in commands:
        ran = cli(*arguments)
        assert SECRET not in ran.out + ran.err, arguments
    written = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert len(written) > 5
    assert [path for path in written if SECRET.encode() in path.read_bytes()] == []
    assert "***" in (tmp_path / "report.html").read_text()


@pytest.mark.parametrize("arguments", [("tune",), ("show",), ("import",), ("tune", "--lease")])
def test_a_url_where_none_is_expected(cli: Cli, arguments: tuple[str, ...]) -> None:
    said = cli(*arguments, f"postgresql://tuner:{SECRET}@db/s").error
    assert SECRET not in said
