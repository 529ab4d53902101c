"""The database of studies: one transaction for each trial, several writers, and databases of other kinds."""

import json
import shutil
import sqlite3
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import replace
from datetime import datetime
from functools import partial
from pathlib import Path

import optuna
import pytest
from helpers import H100, sqlite_url, stored_trials
from optuna.trial import FrozenTrial, TrialState
from sqlalchemy import event

from bo_tune.core.choices import MEMORY
from bo_tune.core.outcome import Measurement
from bo_tune.core.problem import LoraProblem
from bo_tune.errors import StorageError
from bo_tune.store.attributes import LAYERS_ATTR, RESULT_ATTR, SCHEMA_ATTR
from bo_tune.store.connection.database import KNOWN_SCHEMA
from bo_tune.store.frozen import to_trial
from bo_tune.store.looking import looking_at
from bo_tune.store.storage import StoredStudy, StudyName, StudyStore

PROBLEM = LoraProblem("lora_shrink", 4, 1, 16, 4096, 16)
NAME = StudyName(PROBLEM, H100.name, "vllm 0.33.0")
CONFIG = {"block_n": 32, "block_k": 64, "num_warps": 4, "num_stages": 2, "split_k": 8, "num_ctas": 1}
NOW = datetime(2026, 1, 2, 3, 4, 5)


def trial(block_m: int, time_us: float = 5.0) -> FrozenTrial:
    return to_trial({**CONFIG, "block_m": block_m}, Measurement((time_us,)), start=NOW, end=NOW)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """A database that does not exist yet."""
    return tmp_path / "studies.db"


@pytest.fixture
def store(file: Path) -> Iterator[StudyStore]:
    """A store on a new SQLite file."""
    opened = StudyStore(sqlite_url(file))
    yield opened
    opened.close()


@pytest.fixture(scope="module")
def used(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A database with one study of one trial, to be copied and damaged."""
    path = tmp_path_factory.mktemp("used") / "used.db"
    opened = StudyStore(sqlite_url(path))
    opened.open(NAME, H100).add(trial(16))
    opened.close()
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    return path


# Names


def test_a_person_recognises_kernel_problem_gpu_and_source() -> None:
    text = str(NAME)
    assert all(part in text for part in ("lora_shrink", "L4.s1.m16.k4096.n16", "NVIDIA H100 80GB HBM3", "vllm 0.33.0"))


@pytest.mark.parametrize(
    "other",
    [
        StudyName(LoraProblem("lora_expand", 4, 1, 16, 4096, 16), H100.name, "vllm 0.33.0"),
        StudyName(LoraProblem("lora_shrink", 4, 1, 16, 4096, 16, dtype="float16"), H100.name, "vllm 0.33.0"),
        StudyName(PROBLEM, "NVIDIA H200", "vllm 0.33.0"),
        StudyName(PROBLEM, H100.name, "vllm 0.34.0"),
        StudyName(PROBLEM, H100.name, "vllm 0.33.0", exhaustive=True),
        StudyName(PROBLEM, H100.name, "vllm 0.33.0", conditions="warm"),
        StudyName(PROBLEM, H100.name, "vllm 0.33.0", toolchain="triton 3.8.0"),
        StudyName(PROBLEM, H100.name, "vllm 0.33.0", search="tpe, seed 5"),
        StudyName(PROBLEM, H100.name, "vllm 0.33.0", set_aside="2026-01-02T03:04:05+00:00"),
    ],
)
def test_different_things_never_share_a_study(store: StudyStore, other: StudyName) -> None:
    store.open(NAME, H100).add(trial(16))
    assert store.open(other, replace(H100, name=other.gpu)).trials() == []
    assert {str(summary.name) for summary in store.summaries(set_aside=True)} == {str(NAME), str(other)}
    assert StudyName.from_json(json.loads(json.dumps(other.to_json()))) == other


# Studies and trials


def test_a_study_is_created_once_and_found_again(store: StudyStore, file: Path) -> None:
    store.open(NAME, H100).add(trial(16))
    store.open(NAME, H100).add(trial(32))
    again = StudyStore(sqlite_url(file), create=False)
    assert [t.params["block_m"] for t in again.open(NAME, H100).trials()] == [16, 32]
    assert [t.params["block_m"] for t in again.load(NAME).trials()] == [16, 32]
    (summary,) = again.summaries()
    assert summary.name == NAME
    again.close()


def test_adding_a_trial_is_one_transaction(store: StudyStore) -> None:
    study = store.open(NAME, H100)
    study.add(trial(16))
    commits: list[int] = []
    event.listen(store._database.engine, "commit", lambda _: commits.append(1))
    study.add(trial(32))
    # Optuna ends reading transactions by committing them too; what is written must come in one.
    assert len(commits) >= 1
    written: list[str] = []
    event.listen(
        store._database.engine,
        "before_cursor_execute",
        lambda _c, _u, statement, *_: written.append(statement.split()[0]),
    )
    event.listen(store._database.engine, "commit", lambda _: written.append("commit"))
    study.add(trial(64))
    kinds = [kind for kind in written if kind in ("INSERT", "UPDATE", "commit")]
    first, last = kinds.index("INSERT"), len(kinds) - 1 - kinds[::-1].index("INSERT")
    assert "commit" not in kinds[first:last]
    assert "commit" in kinds[last:]


def test_a_recorded_trial_is_there_for_everyone_at_once(store: StudyStore, file: Path) -> None:
    study = store.open(NAME, H100)
    for block_m in (16, 32, 64):
        study.add(trial(block_m))
        (found,) = stored_trials(file).values()
        assert found[-1].params == {**CONFIG, "block_m": block_m}
        assert found[-1].user_attrs["runtimes_us"] == [5.0]


def test_a_killed_process_loses_nothing_that_was_added(store: StudyStore, file: Path, tmp_path: Path) -> None:
    """What a kill leaves is the files as they are: the write-ahead log included, no clean end."""
    study = store.open(NAME, H100)
    for block_m in range(1, 11):
        study.add(trial(block_m))
    left = tmp_path / "left"
    left.mkdir()
    for path in file.parent.glob("studies.db*"):
        shutil.copy(path, left / path.name)
    (found,) = stored_trials(left / "studies.db").values()
    assert [t.params["block_m"] for t in found] == list(range(1, 11))


def test_a_trial_left_running_is_ended_and_never_counted(store: StudyStore, file: Path) -> None:
    study = store.open(NAME, H100)
    study.add(trial(16))
    by_hand = optuna.load_study(study_name=str(NAME), storage=sqlite_url(file))
    stuck = [by_hand.ask() for _ in range(2)]
    assert [t.params for t in study.trials()] == [{**CONFIG, "block_m": 16}]
    assert study.fail_running() == 2
    assert study.fail_running() == 0
    states = {t.number: t.state for t in by_hand.get_trials()}
    assert states == {0: TrialState.COMPLETE, **{t.number: TrialState.FAIL for t in stuck}}
    assert [t.params for t in study.trials()] == [{**CONFIG, "block_m": 16}]


def test_attributes_are_kept(store: StudyStore, file: Path) -> None:
    study = store.open(NAME, H100)
    assert study.attribute(RESULT_ATTR) is None
    study.set_attribute(RESULT_ATTR, {"time_us": 5.5, "finalists": [[{"block_m": 16}, 5.5]]})
    assert study.attribute(RESULT_ATTR) == {"time_us": 5.5, "finalists": [[{"block_m": 16}, 5.5]]}
    other = StudyStore(sqlite_url(file))
    assert other.open(NAME, H100).attribute(RESULT_ATTR)["time_us"] == 5.5
    other.close()


def test_a_study_killed_while_it_was_created_is_completed(store: StudyStore, file: Path) -> None:
    optuna.create_study(study_name=str(NAME), storage=sqlite_url(file))
    assert store.summaries() == []
    store.open(NAME, H100).add(trial(16))
    assert [summary.name for summary in store.summaries()] == [NAME]


def test_studies_of_others_in_the_database_are_left_alone(store: StudyStore, file: Path) -> None:
    other = optuna.create_study(study_name="learning rates", storage=sqlite_url(file))
    other.add_trial(optuna.trial.create_trial(value=1.0))
    store.open(NAME, H100)
    assert [summary.name for summary in store.summaries()] == [NAME]
    assert len(other.get_trials()) == 1


def test_memory_keeps_nothing() -> None:
    first = StudyStore(MEMORY)
    first.open(NAME, H100).add(trial(16))
    assert len(first.open(NAME, H100).trials()) == 1
    first.close()
    assert StudyStore(MEMORY).summaries() == []


def test_tables_of_another_version_of_optuna_are_refused(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("optuna.storages._rdb.models.SCHEMA_VERSION", KNOWN_SCHEMA + 1)
    with pytest.raises(StorageError, match=r"installed Optuna has tables of version 13"):
        StudyStore(sqlite_url(file))
    assert not file.exists()


# Several writers


def _names(count: int) -> list[StudyName]:
    return [StudyName(LoraProblem("lora_shrink", 4, 1, m, 4096, 16), H100.name, "x") for m in range(1, count + 1)]


def test_threads_lose_nothing(store: StudyStore, file: Path) -> None:
    names = _names(6)

    def work(name: StudyName) -> StoredStudy:
        study = store.open(name, H100)
        for block_m in range(1, 16):
            study.add(trial(block_m))
        study.set_attribute(RESULT_ATTR, {"time_us": 1.0})
        return study

    with ThreadPoolExecutor(6) as threads:
        studies = list(threads.map(work, names))
    assert [len(study.trials()) for study in studies] == [15] * 6
    found = stored_trials(file)
    assert {name: [t.params["block_m"] for t in trials] for name, trials in found.items()} == {
        str(name): list(range(1, 16)) for name in names
    }


def test_two_sessions_share_one_database(store: StudyStore, file: Path) -> None:
    other = StudyStore(sqlite_url(file))
    first, second = _names(2)

    def work(pair: tuple[StudyStore, StudyName]) -> None:
        study = pair[0].open(pair[1], H100)
        for block_m in range(1, 16):
            study.add(trial(block_m))

    with ThreadPoolExecutor(2) as threads:
        list(threads.map(work, [(store, first), (other, second)]))
    other.close()
    assert {len(trials) for trials in stored_trials(file).values()} == {15}


# Databases that cannot be used


def _sql(*statements: str) -> Callable[[Path], None]:
    def change(path: Path) -> None:
        with closing(sqlite3.connect(path)) as connection, connection:
            for statement in statements:
                connection.execute(statement)

    return change


def _of_something_else(path: Path) -> None:
    path.unlink()
    _sql("CREATE TABLE songs (title TEXT)", "INSERT INTO songs VALUES ('x')")(path)


def _write(content: bytes) -> Callable[[Path], None]:
    return lambda path: path.write_bytes(content) and None


def _content(path: Path) -> object:
    """Return what a database says, or the bytes of what is none."""
    try:
        with closing(sqlite3.connect(path)) as connection:
            return list(connection.iterdump())
    except sqlite3.DatabaseError:
        return path.read_bytes()


DAMAGES: dict[str, tuple[Callable[[Path], None], str]] = {
    "text": (_write(b"no database\n" * 100), "not a database"),
    "json": (_write(b'{"studies": []}' + b"\n" * 100), "not a database"),
    "of something else": (_of_something_else, "something else"),
    "a later revision": (_sql("UPDATE alembic_version SET version_num = 'v9.9.0.z'"), "optuna"),
    "an older revision": (_sql("UPDATE alembic_version SET version_num = 'v2.6.0.a'"), "optuna"),
    "cut short": (lambda path: path.write_bytes(path.read_bytes()[:20_000]) and None, "database"),
}


@pytest.mark.parametrize("opened", [StudyStore, looking_at])
@pytest.mark.parametrize("damage", DAMAGES)
def test_a_database_that_cannot_be_used_is_named_and_left_as_it_is(
    used: Path, file: Path, damage: str, opened: Callable[[str], StudyStore]
) -> None:
    shutil.copy(used, file)
    change, expected = DAMAGES[damage]
    change(file)
    before = _content(file)
    with pytest.raises(StorageError) as caught:
        opened(sqlite_url(file)).summaries()
    message = str(caught.value)
    assert str(file) in message
    assert expected in message.lower()
    assert "\n" not in message
    assert _content(file) == before
    assert {path.name.removesuffix("-shm").removesuffix("-wal") for path in file.parent.iterdir()} == {file.name}


@pytest.mark.parametrize("opened", [StudyStore, partial(StudyStore, create=False), looking_at])
def test_a_database_of_a_later_schema_is_refused_and_left_as_it_is(
    used: Path, file: Path, opened: Callable[[str], StudyStore]
) -> None:
    shutil.copy(used, file)
    _sql(f"UPDATE study_user_attributes SET value_json = '3' WHERE key = '{SCHEMA_ATTR}'")(file)
    before = _content(file)
    with pytest.raises(
        StorageError,
        match="later version of bo_tune wrote this database: it has schema 3, but this version reads only up to 2",
    ):
        opened(sqlite_url(file))
    assert _content(file) == before
    (trials,) = stored_trials(file).values()
    assert len(trials) == 1


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("studies.db", "expected a database URL"),
        ("", "expected a database URL"),
        ("nonsense://x", "nonsense"),
        ("sqlite+nonsense:///x.db", "expected a database URL .*nonsense"),
        ("sqlite:////no/such/folder/x.db", "folder /no/such/folder does not exist"),
        ("sqlite:////proc/x.db", "unable to open"),
        ("sqlite:////tmp", "expected a file"),
    ],
)
def test_a_url_that_cannot_be_used(url: str, expected: str) -> None:
    with pytest.raises(StorageError, match=expected) as caught:
        StudyStore(url)
    assert "\n" not in str(caught.value)


def test_reading_does_not_create(file: Path) -> None:
    with pytest.raises(StorageError, match="no such database"):
        StudyStore(sqlite_url(file), create=False)
    assert not file.exists()


@pytest.mark.parametrize("write", ["open", "add", "attribute"])
def test_a_read_only_database_is_a_storage_error(used: Path, file: Path, write: str) -> None:
    shutil.copy(used, file)
    store = StudyStore(f"sqlite:///file:{file}?mode=ro&uri=true")
    writes: dict[str, Callable[[], object]] = {
        "open": lambda: store.open(_names(3)[-1], H100),
        "add": lambda: store.open(NAME, H100).add(trial(32)),
        "attribute": lambda: store.open(NAME, H100).set_attribute(RESULT_ATTR, 1),
    }
    with pytest.raises(StorageError, match="readonly"):
        writes[write]()
    store.close()


def test_the_layers_that_ask_are_kept_and_added_to(tmp_path: Path) -> None:
    """For people: a study may serve several models, told by sessions one after the other."""
    url = sqlite_url(tmp_path / "x.db")
    with StudyStore(url) as store:
        store.open(NAME, H100)
        store.note_layers({NAME: ["qkv_proj", "o_proj"]})
        store.note_layers({NAME: ["o_proj", "lm_head"]})
        store.note_layers({NAME: []})
        (summary,) = store.summaries()
        assert summary.attributes[LAYERS_ATTR] == ["qkv_proj", "o_proj", "lm_head"]
