"""What is in a database and cannot be read costs one study, whatever is wrong with it."""

import shutil
from pathlib import Path

import pytest
from damaged import damage
from helpers import SHRINK, sliced, sqlite_url

from bo_tune.analysis.listing import list_studies, study_detail
from bo_tune.analysis.review import review
from bo_tune.measure.devices import replay_job
from bo_tune.precompile.experience import Experience
from bo_tune.session.exchange import export_study
from bo_tune.session.session import Session, SessionSettings
from bo_tune.session.workers.worker import StudyWorker, fitting
from bo_tune.store.looking import looking_at
from bo_tune.store.storage import StudyStore
from bo_tune.tuning.history import Histories

SETTINGS = SessionSettings(budget=8, bundled=False)

DAMAGES: dict[str, tuple[str, str]] = {
    "a value below zero": ("UPDATE trial_values SET value = -1 WHERE {trial}", "value"),
    "repetitions below zero": (
        "UPDATE trial_user_attributes SET value_json = '[-1.0]' WHERE {trial} AND key = 'runtimes_us'", "runtimes_us",
    ),
    "repetitions that are none": (
        "UPDATE trial_user_attributes SET value_json = '7' WHERE {trial} AND key = 'runtimes_us'", "runtimes_us",
    ),
    "an estimate of nothing": (
        "UPDATE trial_intermediate_values SET intermediate_value = 0 WHERE {trial}", "estimates",
    ),
    "no cost of a launch": (
        "UPDATE trial_user_attributes SET value_json = '{{\"launches\": {{\"fun\": 1}}}}' WHERE {trial} "
        "AND key = 'cost'", "launches",
    ),
    "an attribute that is no JSON": (
        "UPDATE trial_user_attributes SET value_json = '[1' WHERE {trial} AND key = 'runtimes_us'", "JSONDecodeError",
    ),
    "another parameter": ("UPDATE trial_params SET param_name = 'k_split' WHERE {trial} AND param_name = 'split_k'",
                          "split_k"),
    "a distribution of nothing": ("UPDATE trial_params SET distribution_json = '{{}}' WHERE {trial}", "trials"),
    "a result below zero": (
        "UPDATE study_user_attributes SET value_json = replace(value_json, '\"time_us\": ', '\"time_us\": -') "
        "WHERE {study} AND key = 'bo_tune:result'", "result.time_us",
    ),
    "a result that is none": (
        "UPDATE study_user_attributes SET value_json = '5' WHERE {study} AND key = 'bo_tune:result'", "result",
    ),
    "a name of nothing": (
        "UPDATE study_user_attributes SET value_json = '{{}}' WHERE {study} AND key = 'bo_tune:name'", "name",
    ),
    "a name that is no JSON": (
        "UPDATE study_user_attributes SET value_json = '{{' WHERE {study} AND key = 'bo_tune:name'", "not JSON",
    ),
    "the name of another": ("UPDATE studies SET study_name = 'another' WHERE {study}", "expected this study's name"),
    "a GPU of nothing": (
        "UPDATE study_user_attributes SET value_json = '{{}}' WHERE {study} AND key = 'bo_tune:gpu'", "gpu.name",
    ),
    "figures of nothing": (
        "UPDATE study_user_attributes SET value_json = '[]' WHERE {study} AND key = 'bo_tune:figures'", "figures",
    ),
    "a schema of nothing": (
        "UPDATE study_user_attributes SET value_json = '\"x\"' WHERE {study} AND key = 'bo_tune:schema'", "schema",
    ),
}  # fmt: skip
"""What is done to the first study of a database, and a word of what is said of it."""


@pytest.fixture(scope="module")
def database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two finished studies."""
    path = tmp_path_factory.mktemp("sieve") / "x.db"
    store = StudyStore(sqlite_url(path))
    Session(store, SETTINGS).run([replay_job(sliced(SHRINK)), replay_job(sliced(SHRINK, m=32))])
    store.close()
    return path


@pytest.mark.parametrize("kind", DAMAGES)
def test_whoever_reads_studies_leaves_it_out(database: Path, tmp_path: Path, kind: str) -> None:
    statement, word = DAMAGES[kind]
    shutil.copy(database, tmp_path / "x.db")
    name = damage(tmp_path / "x.db", statement)
    name = "another" if "study_name = 'another'" in statement else name
    store = StudyStore(sqlite_url(tmp_path / "x.db"))
    for listing in list_studies(store):
        if str(listing.name) != name:
            study_detail(store, listing)
    other = replay_job(sliced(SHRINK, m=64))
    assert len(Histories(store, bundled=False).of(other.problem, other.device.gpu)) == 1
    Experience().learn_studies(store)
    assert len(review(store).cases) == 1
    summaries = store.summaries()
    for summary, trials in zip(summaries, map(store.trials_of, ([s] for s in summaries)), strict=True):
        for found in trials.values():
            assert export_study(summary, found, tmp_path / "files") is not None
    assert len(list((tmp_path / "files").iterdir())) == 1
    assert StudyWorker(store, fitting([replay_job(sliced(SHRINK))]), SETTINGS).run() in (0, 1)
    (tuned,) = Session(store, SETTINGS).run([other])
    assert tuned.result is not None
    assert list(store.unreadable) == [name]
    assert word in store.unreadable[name]
    with looking_at(sqlite_url(tmp_path / "x.db")) as looked:
        looked.trials_of(looked.summaries())
        assert looked.unreadable == store.unreadable
    assert "\n" not in store.unreadable[name]
    store.delete(next(i for i, there in store.names().items() if there == name), name)
    store.close()
    healed = StudyStore(sqlite_url(tmp_path / "x.db"))
    assert len(list_studies(healed)) == 2
    assert healed.unreadable == {}
    healed.close()
