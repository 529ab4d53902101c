"""Studies as files and back: trials, results, conditions and kernel source survive."""

from collections.abc import Iterator
from dataclasses import replace
from datetime import datetime
from pathlib import Path

import pytest
from helpers import EXPAND, SHRINK, sliced, sqlite_url
from optuna.trial import FrozenTrial

from bo_tune.core.outcome import Invalid, InvalidReason
from bo_tune.errors import StorageError
from bo_tune.formats.recording import Recording, read_recording
from bo_tune.measure.devices import replay_job
from bo_tune.session.exchange import Imported, export_study
from bo_tune.session.exchange import import_study as import_exported
from bo_tune.session.exported import read_exported
from bo_tune.session.session import Session, SessionSettings
from bo_tune.store.attributes import LAYERS_ATTR, RESULT_ATTR
from bo_tune.store.frozen import to_trial
from bo_tune.store.storage import StudyStore

NOW = datetime(2026, 1, 2, 3, 4, 5)
SETTINGS = SessionSettings(sampler="random", budget=12)


@pytest.fixture(scope="module")
def database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two finished searches, an exhaustive study, and one that has just begun."""
    path = tmp_path_factory.mktemp("exchange") / "x.db"
    store = StudyStore(sqlite_url(path))
    search = Session(store, SETTINGS)
    search.run([replay_job(sliced(SHRINK)), replay_job(sliced(EXPAND))])
    Session(store, SessionSettings(sampler="grid", budget=None)).run([replay_job(sliced(EXPAND))])
    begun = search.opener.open(replay_job(sliced(SHRINK, m=32)))
    begun.search(5)
    search.opener.open(replay_job(sliced(SHRINK, m=64)))
    store.note_layers({summary.name: ["qkv_proj"] for summary in store.summaries()})
    store.close()
    return path


@pytest.fixture
def source(database: Path) -> Iterator[StudyStore]:
    store = StudyStore(sqlite_url(database), create=False)
    yield store
    store.close()


@pytest.fixture
def target(tmp_path: Path) -> Iterator[StudyStore]:
    store = StudyStore(sqlite_url(tmp_path / "target.db"))
    yield store
    store.close()


@pytest.fixture
def files(source: StudyStore, tmp_path: Path) -> list[Path]:
    """Every study of the source that has trials, in files."""
    summaries = source.summaries()
    trials = source.trials_of(summaries)
    paths = [export_study(s, trials[s.name], tmp_path / "files") for s in summaries]
    assert paths.count(None) == 1, "nothing can be said of a study without a trial"
    return [path for path in paths if path]


def import_study(store: StudyStore, recording: Recording) -> Imported:
    return import_exported(store, read_exported(recording))


def content(trials: list[FrozenTrial]) -> list[object]:
    """What trials hold, but for the numbers of rows."""
    return [replace_ids(trial) for trial in trials]


def replace_ids(trial: FrozenTrial) -> dict[str, object]:
    return {k: v for k, v in vars(trial).items() if k not in ("_trial_id", "_system_attrs")}


def test_studies_survive_the_journey(source: StudyStore, target: StudyStore, files: list[Path]) -> None:
    imported = [import_study(target, read_recording(path)) for path in files]
    assert [one.has_result for one in imported].count(True) == 3
    ours = {s.name: s for s in source.summaries()}
    theirs = {s.name: s for s in target.summaries()}
    assert len(theirs) == len(files) == 4
    before, after = source.trials_of(list(ours.values())), target.trials_of(list(theirs.values()))
    for name, summary in theirs.items():
        assert content(after[name]) == content(before[name])
        found, expected = dict(summary.attributes), dict(ours[name].attributes)
        if RESULT_ATTR not in expected:
            found, expected = ({k: v for k, v in d.items() if k.count(":job") == 0} for d in (found, expected))
        assert found == expected
        assert summary.gpu == ours[name].gpu


def test_importing_twice_adds_nothing(target: StudyStore, files: list[Path]) -> None:
    first = [import_study(target, read_recording(path)) for path in files]
    again = [import_study(target, read_recording(path)) for path in files]
    assert all(one.added for one in first)
    assert [replace(one, added=0) for one in first] == again


def test_layers_that_asked_on_both_sides_are_all_named(target: StudyStore, files: list[Path]) -> None:
    for path in files:
        import_study(target, read_recording(path))
    target.note_layers({summary.name: ["o_proj"] for summary in target.summaries()})
    for path in files:
        import_study(target, read_recording(path))
    assert [s.attributes[LAYERS_ATTR] for s in target.summaries()] == [["qkv_proj", "o_proj"]] * len(files)


def test_a_session_takes_an_imported_result_as_its_own(target: StudyStore, files: list[Path]) -> None:
    for path in files:
        import_study(target, read_recording(path))
    job = replay_job(sliced(SHRINK))
    (tuned,) = Session(target, SETTINGS).run([job])
    assert tuned.resumed == len(tuned.trials)
    assert not tuned.launches
    (entry,) = Session(target, SETTINGS).entries([tuned])
    assert entry.provenance is not None
    assert entry.provenance.session == tuned.origin["session"]


def test_what_was_tried_on_both_sides_is_joined_and_chosen_anew(target: StudyStore, files: list[Path]) -> None:
    job = replay_job(sliced(SHRINK))
    session = Session(target, SETTINGS)
    session.opener.open(job).search(5)
    study, missing = (
        target.load(session.opener.open(job).stored.study_name),
        {"block_m": 128, "block_n": 256, "block_k": 256},
    )
    rest = {"num_warps": 8, "num_stages": 5, "split_k": 64, "num_ctas": 1}
    study.add(to_trial({**missing, **rest}, Invalid(InvalidReason.LAUNCH_ERROR), start=NOW, end=NOW))
    (path,) = [p for p in files if ".m16." in p.name and "shrink" in p.name]
    imported = import_study(target, read_recording(path))
    assert 0 < imported.added < 12
    assert not imported.has_result
    assert len({tuple(sorted(t.params.items())) for t in study.trials()}) == len(study.trials())
    (tuned,) = Session(target, SETTINGS).run([job])
    assert tuned.result is not None
    assert tuned.result.trials == len(study.trials())


def test_a_file_is_a_recording_like_any_other(files: list[Path]) -> None:
    for path in files:
        recording = read_recording(path)
        assert recording.kernel_source == "vllm 0.33.0"
        (shrink,) = [sliced(SHRINK)] if recording.problem == sliced(SHRINK).problem else [None]
        if shrink is not None:
            for config in recording.configs():
                entry, original = recording.entry(config), shrink.entry(config)
                assert entry is not None
                assert original is not None or config == {**config, "block_n": 16}
                assert entry.time_us is None or original is None or set(entry.runtimes_us) <= set(original.runtimes_us)


def test_a_study_under_work_is_not_imported_into(target: StudyStore, files: list[Path], tmp_path: Path) -> None:
    recording = read_recording(files[0])
    name = import_study(target, recording).name
    other = StudyStore(sqlite_url(tmp_path / "target.db"))
    assert other.load(name).take()
    with pytest.raises(StorageError, match="is working on"):
        import_study(target, recording)
    other.close()
