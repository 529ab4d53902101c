"""What ``bo-tune show`` says, against the database itself."""

import json
from collections import Counter
from pathlib import Path

import pytest
from helpers import EXPAND, SHRINK, sliced, sqlite_url, stored_trials
from sqlalchemy import event

from bo_tune.analysis.listing import StudyListing, list_studies, study_detail
from bo_tune.core.outcome import LaunchPurpose, estimate_us
from bo_tune.measure.devices import replay_job
from bo_tune.session.session import Session, SessionSettings
from bo_tune.store.storage import StudyStore
from bo_tune.store.trials import outcome_of


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A database with an exhaustive study, a search, and an unfinished one."""
    path = tmp_path_factory.mktemp("listing") / "x.db"
    store = StudyStore(sqlite_url(path))
    Session(store, SessionSettings(sampler="grid", budget=None)).run([replay_job(sliced(EXPAND))])
    search = Session(store, SessionSettings(sampler="random", budget=20))
    search.run([replay_job(sliced(SHRINK))])
    unfinished = search.opener.open(replay_job(sliced(SHRINK, m=32)))
    unfinished.search(5)
    search.opener.open(replay_job(sliced(SHRINK, m=64)))
    store.close()
    return path


@pytest.fixture(scope="module")
def listed(file: Path) -> dict[str, StudyListing]:
    store = StudyStore(sqlite_url(file), create=False)
    found = list_studies(store)
    store.close()
    assert [str(study.name) for study in found] == sorted(str(study.name) for study in found)
    return {str(study.name): study for study in found}


def test_states_and_reasons_are_those_of_the_database(file: Path, listed: dict[str, StudyListing]) -> None:
    stored = stored_trials(file)
    assert set(listed) == set(stored)
    for name, study in listed.items():
        trials = stored[name]
        assert study.states == Counter(t.state.name for t in trials)
        assert study.reasons == Counter(t.user_attrs["reason"] for t in trials if "reason" in t.user_attrs)
        assert sum(study.reasons.values()) == study.states.get("PRUNED", 0)
        assert study.costs.configs == len(trials)
        assert study.costs.launches_by_purpose["timing"] == sum(
            outcome_of(t).launches[LaunchPurpose.TIMING] for t in trials
        )
    assert any(study.reasons.get("compile timeout") for study in listed.values())
    assert any(study.reasons.get("slow") for study in listed.values())


def test_times_are_the_results_or_the_best_so_far(file: Path, listed: dict[str, StudyListing]) -> None:
    stored = stored_trials(file)
    finished = [study for study in listed.values() if study.finished]
    assert len(finished) == 2
    for study in finished:
        assert study.best_us is not None
        assert study.default_us is not None
        assert study.best_us <= study.default_us
        assert study.config is not None
    (started,) = [s for s in listed.values() if not s.finished and s.states]
    values = [t.value for t in stored[str(started.name)] if t.value is not None]
    assert started.best_us == min(values)
    assert started.default_us == stored[str(started.name)][0].value
    (empty,) = [s for s in listed.values() if not s.states]
    assert (empty.best_us, empty.default_us, empty.config) == (None, None, None)


def test_what_was_never_tried_is_told(listed: dict[str, StudyListing]) -> None:
    for study in listed.values():
        assert ("not worth compiling" in study.excluded) == (not study.name.exhaustive)
        assert study.excluded["cannot run on this GPU"] > 0


def test_listing_reads_no_trials_of_finished_studies(file: Path, listed: dict[str, StudyListing]) -> None:
    """A thousand of them are listed in as many statements as ten."""
    store = StudyStore(sqlite_url(file), create=False)
    statements: list[str] = []
    engine = store._database.engine
    event.listen(engine, "before_cursor_execute", lambda _c, _u, statement, *_: statements.append(statement))
    found = list_studies(store)
    store.close()
    assert found == list(listed.values())
    selects = [statement for statement in statements if statement.startswith("SELECT")]
    assert len(selects) < 12
    read = store_reads(statements)
    assert len(read) == 1, "the trials of the study under way, and of no other"


def store_reads(statements: list[str]) -> list[str]:
    return [statement for statement in statements if "FROM trial_params" in statement]


def test_studies_are_found_by_words_of_their_names(file: Path, listed: dict[str, StudyListing]) -> None:
    store = StudyStore(sqlite_url(file), create=False)
    assert {study.name.problem.m for study in list_studies(store, ["LORA_SHRINK", "m32."])} == {32}
    assert not list_studies(store, ["lora_shrink", "m7."])
    (grid,) = list_studies(store, ["| grid"])
    assert grid.name.exhaustive
    for name, study in listed.items():
        assert list_studies(store, [name]) == [study]
    store.close()


def test_a_study_in_full_is_every_trial_and_the_result(file: Path, listed: dict[str, StudyListing]) -> None:
    stored = stored_trials(file)
    store = StudyStore(sqlite_url(file), create=False)
    for name, study in listed.items():
        detail = study_detail(store, study)
        assert [trial.number for trial in detail.trials] == [t.number for t in stored[name]]
        assert [trial.config for trial in detail.trials] == [t.params for t in stored[name]]
        assert [trial.reason for trial in detail.trials] == [t.user_attrs.get("reason") for t in stored[name]]
        for trial, kept in zip(detail.trials, stored[name], strict=True):
            runtimes = kept.user_attrs.get("runtimes_us")
            assert trial.time_us == (pytest.approx(estimate_us(runtimes)) if runtimes else None)
            assert trial.launches == outcome_of(kept).launches.total()
        assert (detail.result is not None) == study.finished
        document = detail.to_json()
        assert json.loads(json.dumps(document))["study"] == name
        assert set(study.to_json()) | {"trials", "result"} == set(document)
    store.close()
