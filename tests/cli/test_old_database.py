"""Every command on a database of schema 1 (``tests/store/make_v1_database.py``)."""

import gzip
import json
from pathlib import Path

import pytest
from helpers import EXPAND, ROOT, SHRINK, Cli, sliced, sqlite_url, write_all

from bo_tune.core.conditions import UNKNOWN

pytestmark = pytest.mark.slow

FILE = ROOT / "tests" / "store" / "v1.db.gz"


@pytest.mark.usefixtures("charts_are_empty")
def test_every_command_reads_it(cli: Cli, tmp_path: Path) -> None:
    database = tmp_path / "v1.db"
    database.write_bytes(gzip.decompress(FILE.read_bytes()))
    storage = ("--storage", sqlite_url(database))
    shown = cli("show", *storage)
    assert (shown.code, shown.err) == (0, "")
    assert shown.out.count(UNKNOWN) == 3
    one = cli("show", "m16.", "k4096", *storage)
    assert f"{UNKNOWN}: stored by an earlier version of bo_tune" in one.out
    assert cli("report", *storage, "--out", tmp_path / "x.html").code == 0
    assert UNKNOWN in (tmp_path / "x.html").read_text()
    assert cli("export", *storage, "--out", tmp_path / "files").code == 0
    recordings = write_all(tmp_path / "recordings", sliced(SHRINK), sliced(EXPAND))
    worker = cli("worker", *storage, "--device", f"replay:{recordings}")
    assert (worker.code, "0 studies finished" in worker.out) == (0, True), worker
    tune = ("tune", *storage, "--device", f"replay:{recordings}", "--budget", 10, "--json", "-")
    ran = cli(*tune, "--sampler", "tpe", "--seed", 5)
    assert json.loads(ran.out)["reused"] == []
    assert cli("delete", "m64.k4096", *storage, "--yes").code == 0
    assert "5 studies" not in cli("show", *storage).out
    there = ("--storage", sqlite_url(tmp_path / "there.db"))
    ran = cli("import", tmp_path / "files", *there)
    assert (ran.code, ran.out.count("with its result")) == (0, 3), ran
    assert cli("show", *there).out.count(UNKNOWN) == 3
