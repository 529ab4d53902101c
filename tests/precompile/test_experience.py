"""What earlier studies and recordings tell of a kernel."""

from dataclasses import replace
from pathlib import Path

from helpers import EXPAND, SHRINK, sliced, sqlite_url

from bo_tune.measure.devices import replay_job
from bo_tune.precompile.experience import Experience
from bo_tune.session.session import Session, SessionSettings
from bo_tune.store.storage import StudyStore


def test_studies_and_recordings_teach_by_kernel_the_very_problem_included(tmp_path: Path) -> None:
    recording = sliced(SHRINK)
    store = StudyStore(sqlite_url(tmp_path / "s.db"))
    Session(store, SessionSettings(budget=12, stop_rule=None)).run([replay_job(recording)])
    store.close()
    found = Experience()
    again = StudyStore(sqlite_url(tmp_path / "s.db"), create=False)
    found.learn_studies(again)
    again.close()
    assert len(found.of(recording.problem)) == len(found) == 1
    assert len(found.of(recording.problem)[0].times) >= 5
    found.learn_recordings([recording, sliced(EXPAND)])
    assert len(found.of(recording.problem)) == 2
    assert len(found.of(replace(recording.problem, kernel="lora_expand"))) == 1
    assert list(found.of(replace(recording.problem, kernel="another"))) == []
