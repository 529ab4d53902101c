"""The grids that come with the package: those of the recordings, and what studies learn from them."""

from dataclasses import replace
from types import ModuleType

import pytest
from helpers import EXPAND_DECODE, H100, ROOT, SHRINK, script
from helpers import bundled as recorded

from bo_tune.core.choices import MEMORY
from bo_tune.core.outcome import estimate_us
from bo_tune.formats.recording import Recording
from bo_tune.measure.devices import replay_job
from bo_tune.search.gp.prior import MOST_STUDIES, ROWS_PER_STUDY
from bo_tune.session.session import Session, SessionSettings
from bo_tune.store.storage import StudyStore
from bo_tune.tuning.bundled import FILE, bundled_grids, packed
from bo_tune.tuning.history import Histories, bundled_histories


@pytest.fixture(scope="module")
def bundle() -> ModuleType:
    """The script that writes them."""
    return script(ROOT / "studies" / "bundle.py")


@pytest.mark.slow
def test_they_are_those_of_the_recordings(bundle: ModuleType) -> None:
    recordings = bundle.grids()
    kept = [bundle.bundled(recording) for recording in recordings]
    assert packed(kept) == (ROOT / "bo_tune" / "tuning" / FILE).read_bytes(), "run python studies/bundle.py"
    assert packed(bundled_grids()) == packed(kept)
    for recording, grid in zip(recordings, kept, strict=True):
        assert 5 <= len(grid.times_us) <= ROWS_PER_STUDY
        fastest = min(estimate_us(entry.runtimes_us) for entry in recording.entries.values() if entry.runtimes_us)
        assert min(grid.times_us) == pytest.approx(fastest, abs=1e-3)


@pytest.mark.parametrize("recording", [recorded(SHRINK), recorded(EXPAND_DECODE)], ids=["shrink", "expand"])
def test_they_teach_all_but_their_own_problem_on_their_own_gpu(recording: Recording) -> None:
    known = Histories(StudyStore(MEMORY), bundled=True)
    same_kernel = [g for g in bundled_grids() if g.name.problem.kernel == recording.problem.kernel]
    own = [g for g in same_kernel if (g.name.problem, g.gpu.name) == (recording.problem, H100.name)]
    assert len(own) == 1
    own_history = bundled_histories()[own[0].name]
    for gpu, teaches in ((H100, False), (replace(H100, name="another"), True)):
        taught = known.of(recording.problem, gpu)
        assert len(taught) == min(len(same_kernel), MOST_STUDIES)
        assert any(history is own_history for history in taught) == teaches


def first_proposals_us(*, bundled: bool) -> float:
    """The best time of the first three configs that a session proposes."""
    recording = recorded(SHRINK)
    session = Session(StudyStore(MEMORY), SessionSettings(budget=4, bundled=bundled))
    tuner = session.opener.open(replay_job(recording))
    tuner.search()
    assert tuner.certificate is not None
    assert tuner.certificate.taught == bundled
    times = [recording.time_us(dict(trial.params)) for trial in tuner.trials[1:]]  # nobody proposes the default
    return min(time for time in times if time is not None)


def test_a_session_learns_from_them_unless_told_not_to() -> None:
    assert first_proposals_us(bundled=True) < 0.7 * first_proposals_us(bundled=False)


def test_other_workers_are_told_whether_they_teach() -> None:
    for wanted in (True, False):
        job = SessionSettings(bundled=wanted).job("lora_shrink")
        assert SessionSettings.of_job("lora_shrink", job).bundled == wanted
    del job["bundled"]  # as sessions before there were any left it
    assert SessionSettings.of_job("lora_shrink", job).bundled
