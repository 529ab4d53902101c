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
from bo_tune.search.gp.prior import MOST_STUDIES, ROWS_PER_STUDY, distance
from bo_tune.session.session import Session, SessionSettings
from bo_tune.store.storage import StudyStore
from bo_tune.tuning.bundled import GRIDS, bundled_grids, packed
from bo_tune.tuning.history import Histories, bundled_history, descriptor

GRIDS_ALONE = [grid for grid in bundled_grids() if grid.name.exhaustive]
SEARCHED = [grid for grid in bundled_grids() if not grid.name.exhaustive]


@pytest.fixture(scope="module")
def bundle() -> ModuleType:
    """The script that writes them."""
    return script(ROOT / "studies" / "bundle.py")


@pytest.mark.slow
def test_they_are_those_of_the_recordings(bundle: ModuleType) -> None:
    recordings = bundle.grids()
    kept = [bundle.bundled(recording) for recording in recordings]
    assert packed(kept) == (ROOT / "bo_tune" / "tuning" / GRIDS).read_bytes(), "run python studies/bundle.py"
    assert packed(bundled_grids()[: len(kept)]) == packed(kept)
    for recording, grid in zip(recordings, kept, strict=True):
        assert 5 <= len(grid.times_us) <= ROWS_PER_STUDY
        fastest = min(estimate_us(entry.runtimes_us) for entry in recording.entries.values() if entry.runtimes_us)
        assert min(grid.times_us) == pytest.approx(fastest, abs=1e-3)


@pytest.mark.parametrize("recording", [recorded(SHRINK), recorded(EXPAND_DECODE)], ids=["shrink", "expand"])
def test_they_teach_all_but_their_own_problem_on_their_own_gpu(recording: Recording) -> None:
    known = Histories(StudyStore(MEMORY), bundled=True)
    same_kernel = [g for g in GRIDS_ALONE if g.name.problem.kernel == recording.problem.kernel]
    own = [g for g in same_kernel if (g.name.problem, g.gpu.name) == (recording.problem, H100.name)]
    assert len(own) == 1
    own_history = bundled_history(own[0].name)
    for gpu, teaches in ((H100, False), (replace(H100, name="another"), True)):
        taught = known.of(recording.problem, gpu)
        assert len(taught) == min(len(same_kernel), MOST_STUDIES)
        assert any(history is own_history for history in taught) == teaches


def test_searches_teach_at_their_own_place_and_grids_elsewhere() -> None:
    """Of what another place has searched, only what lies near the optimum is known."""
    known = Histories(StudyStore(MEMORY), bundled=True)
    searched = {id(bundled_history(grid.name)) for grid in SEARCHED}
    one = next(grid for grid in SEARCHED if grid.name.problem.kernel == "lora_shrink")
    problem = replace(one.name.problem, k=one.name.problem.k + 128)
    prior = known.prior(replace(one.name, problem=problem), one.gpu)
    assert prior is not None
    assert all(id(history) in searched for history in known.of(problem, one.gpu, one.name.place))
    elsewhere = known.of(problem, H100, ("another", "place", ""))
    assert not any(id(history) in searched for history in elsewhere)


def test_a_search_that_comes_with_the_package_does_not_teach_its_own_problem() -> None:
    known = Histories(StudyStore(MEMORY), bundled=True)
    for one in SEARCHED[::100]:
        own = bundled_history(one.name)
        assert all(history is not own for history in known.of(one.name.problem, one.gpu, one.name.place))


def test_searches_of_much_the_same_problem_are_thinned(bundle: ModuleType) -> None:
    descriptors = [
        (grid.name.problem.kernel, grid.name.place, descriptor(grid.name.problem, grid.gpu)) for grid in SEARCHED
    ]
    for number, (kernel, place, here) in enumerate(descriptors[::50]):
        alike = [d for k, p, d in descriptors if (k, p) == (kernel, place) and distance(d, here) < bundle.ALIKE]
        assert alike == [here], number


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
