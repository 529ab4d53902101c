"""A database that version 1 of the schema wrote (``make_v1_database.py``): read by every command, current for none."""

import gzip
import shutil
from pathlib import Path

import optuna
import pytest
from helpers import SHRINK, sliced, sqlite_url
from postgres import Postgres

from bo_tune.analysis.listing import list_studies, study_detail
from bo_tune.core.conditions import UNKNOWN
from bo_tune.measure.devices import replay_job
from bo_tune.session.session import Session, SessionSettings
from bo_tune.store.attributes import RESULT_ATTR, SCHEMA_ATTR
from bo_tune.store.storage import StudyStore
from bo_tune.tuning.history import Histories

FILE = Path(__file__).with_name("v1.db.gz")
STUDIES = 5


@pytest.fixture
def database(tmp_path: Path) -> Path:
    path = tmp_path / "v1.db"
    path.write_bytes(gzip.decompress(FILE.read_bytes()))
    return path


def read_only(path: Path) -> str:
    return f"sqlite:///file:{path}?mode=ro&uri=true"


def test_looking_at_it_needs_no_writing(database: Path) -> None:
    before = database.read_bytes()
    store = StudyStore(read_only(database), create=False)
    found = list_studies(store)
    assert len(found) == STUDIES
    assert store.unreadable == {}
    assert [s.finished for s in found].count(True) == 3
    assert {s.to_json()["toolchain"] for s in found} == {UNKNOWN}
    for listing in found:
        assert sum(listing.states.values()) == len(study_detail(store, listing).trials)
    assert {s.attributes[SCHEMA_ATTR] for s in store.summaries()} == {1}
    store.close()
    assert database.read_bytes() == before


def test_it_teaches_and_none_of_it_is_current(database: Path) -> None:
    store, recording = StudyStore(sqlite_url(database)), sliced(SHRINK)
    other = replay_job(sliced(SHRINK, m=128))
    assert len(Histories(store, bundled=False).of(other.problem, other.device.gpu)) == 1
    settings = SessionSettings(budget=10, bundled=False)  # as one of its searches, with the very same versions
    (old,) = [s for s in store.summaries() if s.name.problem == recording.problem]
    assert (old.attributes["bo_tune:origin"]["triton"], RESULT_ATTR in old.attributes) == ("3.6.0", True)
    (tuned,) = Session(store, settings).run([replay_job(recording)])
    assert (tuned.kept, tuned.resumed, len(tuned.trials)) == (False, 0, 10)
    assert len(store.summaries()) == STUDIES + 1
    assert store.load(old.name).result() is not None
    store.close()


def test_on_a_server(database: Path, postgres: Postgres) -> None:
    url = postgres.new_database()
    ours, theirs = (optuna.storages.RDBStorage(where) for where in (sqlite_url(database), url))
    for name in optuna.get_all_study_names(ours):
        optuna.copy_study(from_study_name=name, from_storage=ours, to_storage=theirs)
    for storage in (ours, theirs):
        storage.remove_session()
        storage.engine.dispose()
    store = StudyStore(url)
    assert len(list_studies(store)) == STUDIES
    assert store.unreadable == {}
    (tuned,) = Session(store, SessionSettings(budget=10, bundled=False)).run([replay_job(sliced(SHRINK))])
    assert (tuned.kept, tuned.resumed) == (False, 0)
    (fresh,) = Session(store, SessionSettings(budget=10, bundled=False), fresh=True).run([replay_job(sliced(SHRINK))])
    assert (fresh.kept, fresh.resumed) == (False, 0)
    aside = [s for s in store.summaries(set_aside=True) if s.name.set_aside]
    assert [len(store.load(s.name).trials()) for s in aside] == [10]
    assert store.delete(aside[0].study_id, str(aside[0].name)) == 10
    assert len(store.summaries(set_aside=True)) == STUDIES + 1
    store.close()


def test_its_copy_is_intact(database: Path, tmp_path: Path) -> None:
    """The fixture is a closed database: nothing of it stands in a log beside it."""
    shutil.copy(database, tmp_path / "copy.db")
    store = StudyStore(sqlite_url(tmp_path / "copy.db"), create=False)
    assert sum(len(trials) for trials in store.trials_of(store.summaries()).values()) == 10 + 10 + 13 + 4
    store.close()
