"""Looking at a database finds what ``StudyStore`` finds, whichever of the two ways reads it."""

import os
import sqlite3
from collections import Counter
from collections.abc import Iterator
from contextlib import closing
from dataclasses import asdict, replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import optuna
import pytest
from helpers import EXPAND, H100, SHRINK, contents, sliced, sqlite_url
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.storages import RDBStorage
from optuna.trial import FrozenTrial, TrialState, create_trial
from postgres import Postgres

from bo_tune.analysis.listing import list_studies, study_detail
from bo_tune.core.outcome import Compilation, Invalid, InvalidReason, LaunchPurpose, Measurement, Outcome, Resources
from bo_tune.core.problem import LoraProblem
from bo_tune.core.study_name import StudyName
from bo_tune.errors import StorageError
from bo_tune.measure.devices import replay_job
from bo_tune.session.session import Session, SessionSettings
from bo_tune.store.connection import sqlite_file
from bo_tune.store.frozen import frozen, to_trial
from bo_tune.store.looking import KNOWN_REVISION, SqliteReader, looking_at
from bo_tune.store.reader import StudyReader
from bo_tune.store.storage import StudyStore
from bo_tune.store.trials import FINISHED, State

NAME = StudyName(LoraProblem("lora_shrink", 4, 1, 16, 4096, 16), H100.name, "x")
CONFIG = {"block_m": 16, "block_n": 32, "block_k": 64, "num_warps": 4, "num_stages": 2, "split_k": 8, "num_ctas": 1}
START = datetime(2026, 3, 29, 1, 59, 59, 123456)

COUNTS = st.integers(0, 2**20)
TIMES = st.floats(1e-2, 1e8)
COSTS = st.tuples(
    st.dictionaries(st.sampled_from(LaunchPurpose), COUNTS).map(Counter),
    st.builds(Compilation, st.floats(0, 1e6), st.booleans()),
    st.builds(Resources, *[st.none() | COUNTS] * 3),
)
OUTCOMES: st.SearchStrategy[Outcome] = st.one_of(
    st.builds(
        lambda runtimes, stopped, costs, error: Measurement(tuple(runtimes), stopped, *costs, error),
        st.lists(TIMES, min_size=1, max_size=12),
        st.booleans(),
        COSTS,
        st.none() | st.floats(0, 1),
    ),
    st.builds(
        lambda reason, detail, costs: Invalid(reason, detail, *costs),
        st.sampled_from(InvalidReason),
        st.text(st.characters(codec="utf-8"), max_size=30),
        COSTS,
    ),
)


def fields(trial: FrozenTrial) -> dict[str, object]:
    """Return all that a trial holds, as text where a number may be none."""
    held = {name: value for name, value in vars(trial).items() if name != "_system_attrs"}
    return {**held, "intermediate_values": repr(trial.intermediate_values)}


def found_in(store: StudyReader[Any]) -> dict[str, object]:
    """Return all that a way of reading tells of a database."""
    summaries = store.summaries(set_aside=True)
    kernels = {summary.name.problem.kernel for summary in summaries}
    found = {
        "names": store.names(),
        "summaries": summaries,
        "counts": store.counts(),
        "some counts": store.counts([1, 2]),
        "finished": [store.finished(kernel, ()) for kernel in sorted(kernels)],
        "jobs": store.attribute_of("bo_tune:job"),
        "a job": store.attribute_of("bo_tune:job", [1]),
        "some": store.summaries(ids=[2]),
        "listed": list_studies(store),
        "details": [study_detail(store, listing).to_json() for listing in list_studies(store)],
    }
    return {**found, "unreadable": store.unreadable}


@pytest.fixture(scope="module")
def tuned(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A database with a grid, a search, one under way and one without trials."""
    path = tmp_path_factory.mktemp("looking") / "x.db"
    fill(sqlite_url(path))
    return path


def fill(url: str) -> None:
    with StudyStore(url) as store:
        Session(store, SessionSettings(sampler="grid", budget=None)).run([replay_job(sliced(EXPAND))])
        search = Session(store, SessionSettings(sampler="random", budget=8))
        search.run([replay_job(sliced(SHRINK))])
        unfinished = search.opener.open(replay_job(sliced(SHRINK, m=32)))
        unfinished.search(3)
        search.opener.open(replay_job(sliced(SHRINK, m=64)))


def test_both_ways_tell_the_same_of_a_file(tuned: Path) -> None:
    with looking_at(sqlite_url(tuned)) as looked, StudyStore(sqlite_url(tuned), only_read=True) as store:
        assert isinstance(looked, SqliteReader)
        assert found_in(looked) == found_in(store)
        for summary in store.summaries():
            (ours,), (theirs,) = looked.trials_of([summary]).values(), store.trials_of([summary]).values()
            assert [fields(frozen(trial)) for trial in ours] == [fields(trial) for trial in theirs]


def test_a_server_tells_what_a_file_tells(tmp_path: Path, postgres: Postgres) -> None:
    url = postgres.new_database()
    for where in (url, sqlite_url(tmp_path / "x.db")):
        with StudyStore(where) as store:
            for count, m in enumerate((16, 32, 64)):
                study = store.open(replace(NAME, problem=replace(NAME.problem, m=m)), H100)
                for n in range(3 * count):
                    outcome = Measurement((7.0 + n, 7.5), stopped=n % 2 == 0)
                    config = {**CONFIG, "block_m": 2**n}
                    study.add(to_trial(config, outcome, start=START, end=START + timedelta(seconds=n)))
    with looking_at(sqlite_url(tmp_path / "x.db")) as looked, looking_at(url) as server:
        assert isinstance(server, StudyStore)
        assert found_in(looked) == found_in(server)


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[StudyStore, str]]:
    url = sqlite_url(tmp_path_factory.mktemp("any") / "x.db")
    with StudyStore(url) as store:
        yield store, url


@pytest.mark.slow
@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(outcomes=st.lists(OUTCOMES, max_size=4), number=st.integers(1, 2**30))
def test_any_trials_are_read_alike(study: tuple[StudyStore, str], outcomes: list[Outcome], number: int) -> None:
    store, url = study
    name = replace(NAME, problem=replace(NAME.problem, m=number))
    opened = store.open(name, H100)
    before = len(opened.trials())
    trials = [
        to_trial({**CONFIG, "block_m": before + n + 1}, outcome, start=START, end=START + timedelta(microseconds=n))
        for n, outcome in enumerate(outcomes)
    ]
    opened.add_all(trials, {})
    with looking_at(url) as looked:
        found = looked.trials_in(opened.study_id, name)
        assert [fields(frozen(t)) for t in found] == [fields(t) for t in opened.trials()]
    by_hand = optuna.load_study(study_name=str(name), storage=url).get_trials()
    assert [fields(frozen(t)) for t in found] == [fields(t) for t in by_hand]


def test_trials_of_other_programs_are_read_as_optuna_reads_them(tmp_path: Path) -> None:
    """All kinds of parameters, and values that are no numbers."""
    url = sqlite_url(tmp_path / "x.db")
    with StudyStore(url) as store:
        number = store.open(NAME, H100).study_id
        study = optuna.load_study(study_name=str(NAME), storage=url)
        whole, half = IntDistribution(1, 9), FloatDistribution(0.5, 2.0, step=0.5)
        kinds = {"x": whole, "y": half, "z": CategoricalDistribution([None, "b"])}
        for z, value in ((None, float("inf")), ("b", float("-inf")), ("b", 1.5)):
            params = {"x": 3, "y": 1.5, "z": z}
            steps = {0: float("nan"), 1: float("inf"), 2: 0.25}
            study.add_trial(create_trial(params=params, distributions=kinds, value=value, intermediate_values=steps))
        study.add_trial(create_trial(state=TrialState.PRUNED))
        study.enqueue_trial({"x": 1})
        states = [state.name for state in State]
        with looking_at(url) as looked:
            found = looked._read(lambda rows: rows.trials([number], states))[number]
            assert looked.counts() == store.counts()
            assert looked.trials_in(number, NAME) == []
        assert [fields(frozen(trial)) for trial in found if trial.state is not State.WAITING] == [
            fields(trial) for trial in study.get_trials(states=(TrialState.COMPLETE, TrialState.PRUNED))
        ]


def test_the_tables_are_those_of_the_installed_optuna(tmp_path: Path) -> None:
    storage = RDBStorage(sqlite_url(tmp_path / "x.db"))
    assert storage.get_head_version() == KNOWN_REVISION, "look at what it changed before raising KNOWN_REVISION"
    storage.engine.dispose()
    assert {state.name: state.value for state in TrialState} == {state.name: state.value for state in State}
    assert {TrialState[name] for name in FINISHED} == {TrialState.COMPLETE, TrialState.PRUNED}


def test_who_works_on_a_study_is_seen_from_outside(tmp_path: Path) -> None:
    url = sqlite_url(tmp_path / "x.db")
    with StudyStore(url) as store, looking_at(url) as looked:
        study = store.open(NAME, H100)
        assert looked.holders() == {}
        assert study.take()
        (holder,), (mine,) = looked.holders().values(), store.holders().values()
        assert (holder.pid, holder.mine, mine.mine) == (os.getpid(), False, True)
        assert 0 <= holder.age_s < 60
        assert asdict(replace(holder, age_s=mine.age_s, mine=True)) == asdict(mine)
        study.release()
        assert looked.holders() == {}


def test_what_is_stored_meanwhile_is_seen_and_nobody_is_held_up(tmp_path: Path) -> None:
    url = sqlite_url(tmp_path / "x.db")
    with StudyStore(url) as store:
        study = store.open(NAME, H100)
        with looking_at(url) as looked:
            for count in range(3):
                assert looked.counts().get(study.study_id, {}).get("COMPLETE", 0) == count
                config = {**CONFIG, "block_m": count + 1}
                study.add(to_trial(config, Measurement((5.0,)), start=START, end=START))


def test_looking_writes_nothing_and_leaves_nothing(tuned: Path) -> None:
    before = contents(tuned.parent)
    with looking_at(sqlite_url(tuned)) as looked:
        found_in(looked)
        with pytest.raises(StorageError, match="the database reported an error: attempt to write a readonly database"):
            looked._read(lambda rows: rows._query("DELETE FROM studies", ()))  # type: ignore[attr-defined]
    assert contents(tuned.parent) == before


@pytest.mark.parametrize(
    "url", ["sqlite:///{}?timeout=5", "sqlite+pysqlite:///{}", "sqlite:///file:{}?mode=ro&uri=true"]
)
def test_other_urls_of_a_file_go_the_longer_way(tuned: Path, url: str) -> None:
    with looking_at(url.format(tuned)) as store:
        assert isinstance(store, StudyStore)
        assert len(store.summaries()) == 4


@pytest.mark.parametrize("name", ["100% äß #1", "a b'c.db", "%41.db", "a&mode=memory"])
def test_any_name_of_a_file_will_do(tuned: Path, tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(tuned.read_bytes())
    with looking_at(sqlite_url(tmp_path / name)) as looked:
        assert isinstance(looked, SqliteReader)
        assert len(looked.names()) == 4


def test_a_database_without_leases_is_held_by_nobody(tuned: Path, tmp_path: Path) -> None:
    (tmp_path / "x.db").write_bytes(tuned.read_bytes())
    with closing(sqlite3.connect(tmp_path / "x.db")) as connection:
        connection.execute("DROP TABLE bo_tune_leases")
    with looking_at(sqlite_url(tmp_path / "x.db")) as looked:
        assert isinstance(looked, SqliteReader)
        assert looked.holders() == {}


def test_a_file_on_a_network_share_is_refused(tuned: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mounts = tmp_path / "mounts"
    mounts.write_text(f"server:/x {tuned.parent.resolve()} nfs rw 0 0\n")
    monkeypatch.setattr(sqlite_file, "_MOUNTS", mounts)
    with pytest.raises(StorageError, match=r"network file system \(nfs\)"):
        looking_at(sqlite_url(tuned))
