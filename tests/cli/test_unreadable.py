"""What is in a database and cannot be read costs one study, which is named, and no command."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from damaged import damage
from helpers import EXPAND, SHRINK, Cli, sliced, sqlite_url, write_all

pytestmark = pytest.mark.slow

VALUE = "UPDATE trial_values SET value = -1 WHERE {trial}"
NAME = "UPDATE study_user_attributes SET value_json = '{{}}' WHERE {study} AND key = 'bo_tune:name'"


Tune = Callable[..., tuple[object, ...]]


@pytest.fixture
def tune(cli: Cli, tmp_path: Path) -> Tune:
    """A database with two studies of shrink and one of expand; returns the arguments of commands on it."""
    small = (sliced(SHRINK), sliced(SHRINK, m=32), sliced(EXPAND))
    recordings = write_all(tmp_path / "recordings", *small)
    write_all(tmp_path / "more", sliced(SHRINK, m=64))
    storage = ("--storage", sqlite_url(tmp_path / "x.db"))

    def arguments(command: str, *words: object, folder: str = recordings.name) -> tuple[object, ...]:
        searches = ("--device", f"replay:{tmp_path / folder}", "--budget", 8, "--out", tmp_path / "out")
        return (command, *words, *storage, *(searches if command == "tune" else ()))

    assert cli(*arguments("tune")).code == 0
    return arguments


@pytest.mark.parametrize(("statement", "word"), [(VALUE, "trials[0].value"), (NAME, "name.gpu")])
def test_it_costs_one_study_and_no_command(cli: Cli, tune: Tune, tmp_path: Path, statement: str, word: str) -> None:
    name = damage(tmp_path / "x.db", statement)
    other = cli(*tune("tune", folder="more"))
    assert other.code == 0, other
    assert f"warning: skipped {name}, which cannot be read: " in other.out
    assert word in other.out
    report = cli(*tune("report", "--out", tmp_path / "x.html"))
    assert (report.code, f"skipped {name}" in report.out) == (0, True), report
    export = cli(*tune("export", "--out", tmp_path / "files"))
    assert (export.code, "wrote 3 studies" in export.out) == (0, True), export
    shown = cli(*tune("show", "--json", "-"))
    assert shown.code == 0
    found = {study["study"] for study in json.loads(shown.out)["studies"]}
    assert len(found - {name}) == 3
    assert cli(*tune("delete", name, "--yes")).code == 0
    healed = cli(*tune("tune"))
    assert (healed.code, healed.err, "warning" in healed.out) == (0, "", False), healed
    assert cli(*tune("report", "--out", tmp_path / "x.html")).out.count("skipped") == 0


def test_a_study_that_is_asked_for_fails_alone_and_can_be_begun_anew(cli: Cli, tune: Tune, tmp_path: Path) -> None:
    name = damage(tmp_path / "x.db", VALUE)
    ran = cli(*tune("tune", "--json", "-"))
    assert ran.code == 1
    studies = json.loads(ran.out)["studies"]
    assert [s["finished"] for s in studies].count(True) == 2
    assert f"{name} cannot be read: trials[0].value: " in ran.err
    assert "bo-tune delete removes it, and --fresh sets it aside" in ran.err
    fresh = cli(*tune("tune", "--fresh"))
    assert (fresh.code, "kept" in fresh.out) == (0, False), fresh
