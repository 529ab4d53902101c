"""``bo-tune export``, ``import`` and ``merge`` from one end to the other."""

import gzip
import json
import shutil
import sqlite3
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest
from helpers import EXPAND, EXPAND_TABLE, SHRINK, SHRINK_TABLE, Cli, sliced, sqlite_url, write_all

from bo_tune.core.choices import MEMORY
from bo_tune.engines.folder import read_folder
from bo_tune.formats.recording import read_recordings
from bo_tune.measure.devices import replay_job
from bo_tune.session.session import Session, SessionSettings
from bo_tune.store.storage import StudyStore


@pytest.fixture(scope="module")
def database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two finished searches, an exhaustive study, and one that has just begun."""
    path = tmp_path_factory.mktemp("exchange") / "x.db"
    store = StudyStore(sqlite_url(path))
    search = Session(store, SessionSettings(sampler="random", budget=12))
    search.run([replay_job(sliced(SHRINK)), replay_job(sliced(EXPAND))])
    Session(store, SessionSettings(sampler="grid", budget=None)).run([replay_job(sliced(EXPAND, m=32))])
    begun = search.opener.open(replay_job(sliced(SHRINK, m=32)))
    begun.search(5)
    search.opener.open(replay_job(sliced(SHRINK, m=64)))
    store.close()
    return path


def test_export_and_import_on_the_command_line(cli: Cli, database: Path, tmp_path: Path) -> None:
    there = sqlite_url(tmp_path / "there.db")
    ran = cli("export", "--storage", sqlite_url(database), "--out", tmp_path / "files")
    assert ran.code == 0, ran
    assert "wrote 4 studies" in ran.out
    assert "1 without a trial" in ran.out
    ran = cli("import", tmp_path / "files", "--storage", there)
    assert ran.code == 0, ran
    assert ran.out.count("with its result") == 3
    assert ran.out.count("no result yet") == 1
    shown, expected = (cli("show", "--storage", url).out for url in (there, sqlite_url(database)))
    assert "4 studies, 1 unfinished" in shown
    assert "5 studies, 2 unfinished" in expected


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (("export", "--kernel", "lora_none"), "no such study"),
        (("export", "--gpu", "MI300"), "no such study"),
        (("import", "missing"), "missing"),
        (("import", "files", "--storage", MEMORY), "--storage"),
        (("merge", "missing"), "missing"),
    ],
)
def test_what_cannot_be_done_is_said_in_a_line(
    cli: Cli, database: Path, arguments: tuple[str, ...], expected: str
) -> None:
    where = () if "--storage" in arguments or arguments[0] == "merge" else ("--storage", sqlite_url(database))
    assert expected in cli(*arguments, *where).error


def test_exported_studies_replay(cli: Cli, database: Path, tmp_path: Path) -> None:
    assert cli("export", "--storage", sqlite_url(database), "--out", tmp_path / "files").code == 0
    ran = cli("grid", "--device", f"replay:{tmp_path / 'files'}", "--storage", MEMORY, "--out", tmp_path / "out")
    assert ran.code == 0, ran
    assert len(read_recordings(tmp_path / "files")) == 4


def test_json_of_two_hosts_is_merged(cli: Cli, tmp_path: Path) -> None:
    for host, recordings in {"one": [sliced(SHRINK), sliced(EXPAND)], "two": [sliced(SHRINK, m=32)]}.items():
        folder = write_all(tmp_path / host / "recordings", *(replace(r) for r in recordings))
        where = ("--device", f"replay:{folder}", "--storage", MEMORY, "--out", tmp_path / host / "tuned")
        assert cli("tune", *where, "--sampler", "random", "--budget", 6).code == 0
    ran = cli("merge", tmp_path / "one" / "tuned", tmp_path / "two" / "tuned", "--out", tmp_path / "all")
    assert ran.code == 0, ran
    assert ran.out.count("wrote ") == 2
    merged = read_folder(tmp_path / "all")
    assert {name: len(table.entries) for name, table in merged.items()} == {SHRINK_TABLE: 2, EXPAND_TABLE: 1}


def test_of_several_files_none_reaches_the_database_where_one_is_damaged(
    cli: Cli, database: Path, tmp_path: Path
) -> None:
    there = sqlite_url(tmp_path / "there.db")
    assert cli("export", "--storage", sqlite_url(database), "--out", tmp_path / "files").code == 0
    damaged = sorted((tmp_path / "files").iterdir())[-1]
    whole = gzip.decompress(damaged.read_bytes())
    damaged.write_bytes(gzip.compress(whole.replace(b'"state":"COMPLETE"', b'"state":"RUNNING"', 1)))
    said = cli("import", tmp_path / "files", "--storage", there).error
    assert str(damaged) in said
    assert "metadata.bo_tune: trials[" in said
    assert not (tmp_path / "there.db").exists()
    damaged.write_bytes(gzip.compress(whole))
    assert cli("import", tmp_path / "files", "--storage", there).code == 0


def test_a_study_is_deleted_by_its_name_or_words_of_it(cli: Cli, database: Path, tmp_path: Path) -> None:
    storage = ("--storage", sqlite_url(tmp_path / "there.db"))
    store = StudyStore(sqlite_url(database), create=False)
    names = [str(summary.name) for summary in store.summaries()]
    store.close()
    shutil.copy(database, tmp_path / "there.db")
    assert "no study with 'lora_none'" in cli("delete", "lora_none", *storage).error
    assert "5 studies with 'lora'" in cli("delete", "lora", *storage).error
    ran = cli("delete", "GRID", *storage, "--yes", "--json", "-")
    assert json.loads(ran.out)["deleted"] == {"study": names[0], "trials": 61}
    assert "grid" in names[0]
    ran = cli("delete", names[-1], *storage, "-y")
    assert (ran.code, ran.err) == (0, "")
    left = StudyStore(sqlite_url(tmp_path / "there.db"), create=False)
    assert [str(summary.name) for summary in left.summaries()] == names[1:-1]
    with closing(sqlite3.connect(tmp_path / "there.db")) as connection:
        for table in ("trials", "trial_params", "trial_user_attributes", "trial_values", "study_user_attributes"):
            of = "study_id" if table in ("trials", "study_user_attributes") else "trial_id"
            known = "studies" if of == "study_id" else "trials"
            orphans = f"SELECT COUNT(*) FROM {table} WHERE {of} NOT IN (SELECT {of} FROM {known})"
            assert connection.execute(orphans).fetchone() == (0,), table
    held = left.load(left.summaries()[0].name)
    assert held.take()
    assert "is working on this study" in cli("delete", names[1], *storage, "--yes").error
    left.close()
    assert cli("delete", names[1], *storage, "--yes").code == 0
