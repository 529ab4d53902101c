"""Kernels that must agree on block_m, searched, chosen and written together, on recordings."""

import threading
from dataclasses import replace

import pytest
from moe_recordings import MOE_KERNELS, best_sum_us, small, whole

from bo_tune.analysis.simulate import simulate
from bo_tune.core.choices import MEMORY
from bo_tune.core.conclusion import StopRule
from bo_tune.core.events import Event, StudyFinished
from bo_tune.formats.recording import Recording
from bo_tune.measure.devices import replay_job, together
from bo_tune.session.m_ladder import Line
from bo_tune.session.session import Session, SessionSettings, Tuned
from bo_tune.store.attributes import RESULT_ATTR
from bo_tune.store.results import StudyResult
from bo_tune.store.storage import StudyStore
from bo_tune.tuning.joint.tuner import JointTuner
from bo_tune.tuning.tuner import InterruptedSearch

pytestmark = pytest.mark.slow


def tune(recordings: list[Recording], store: StudyStore | None = None, **settings: object) -> list[Tuned]:
    session = Session(store or StudyStore(MEMORY), SessionSettings(**settings))  # type: ignore[arg-type]
    return session.run([replay_job(recording) for recording in recordings])


def joint_tuner(recordings: list[Recording], **settings: object) -> JointTuner:
    session = Session(StudyStore(MEMORY), SessionSettings(**settings))  # type: ignore[arg-type]
    _, search = session.opener.open_together([replay_job(recording) for recording in recordings])
    assert isinstance(search, JointTuner)
    return search


def sum_us(tuned: list[Tuned], recordings: list[Recording]) -> float:
    """Sum of the recorded times of the configs that were chosen, in us."""
    times = {r.problem: r for r in recordings}
    found = [times[t.job.problem].time_us(t.result.config) for t in tuned if t.result]
    assert None not in found
    return sum(found)  # type: ignore[arg-type]


def test_jobs_of_one_layer_and_step_come_together_in_the_order_they_run() -> None:
    recordings = [*reversed(small(16)), *small(256)]
    groups = together([replay_job(recording) for recording in recordings])
    assert [[job.problem.kernel for job in group] for group in groups] == [list(MOE_KERNELS)] * 2
    assert [group[0].problem.m for group in groups] == [16, 256]


def test_results_come_in_the_order_of_the_jobs_and_agree() -> None:
    recordings = [*reversed(small(16)), *small(256)]
    tuned = tune(recordings, budget=8)
    assert [t.job.problem for t in tuned] == [r.problem for r in recordings]
    for m in (16, 256):
        results = [t.result for t in tuned if t.job.problem.m == m]
        assert len({result.config["block_m"] for result in results if result}) == 1
        joint = [result.joint for result in results if result]
        assert all(one == joint[0] for one in joint)
        assert joint[0] is not None
        assert joint[0].kernels == tuple(MOE_KERNELS)
        assert joint[0].time_us == pytest.approx(sum(result.time_us for result in results if result))
        assert joint[0].time_us <= joint[0].default_time_us


def test_an_exhaustive_search_finds_the_best_that_agree() -> None:
    recordings = small(256)
    tuned = tune(recordings, sampler="grid", budget=None)
    assert sum_us(tuned, recordings) == pytest.approx(best_sum_us(recordings), rel=1e-3)


@pytest.mark.parametrize("m", [16, 2048])
def test_thirty_configs_of_each_kernel_come_within_a_few_percent(m: int) -> None:
    (run,) = simulate(whole(m), SessionSettings(budget=30), seeds=[0])
    assert run.launched_configs <= 30
    assert 0 <= run.regret_percent["final"] < 2
    assert run.recording == f"h100.4 kernels.L4.m{m}.k16.n2048.i768"


def test_the_seed_and_the_studies_content_decide_every_proposal() -> None:
    # A study that is taught begins with what others found good, whatever the seed.
    first, same, other = (joint_tuner(small(16), budget=9, seed=seed, bundled=False) for seed in (1, 1, 2))
    for search in (first, same, other):
        search.search()
    tried = [[[trial.params for trial in tuner.trials] for tuner in s.tuners] for s in (first, same, other)]
    assert tried[0] == tried[1] != tried[2]


def test_a_search_that_was_interrupted_goes_on_as_it_would_have() -> None:
    recordings, settings = small(256), {"budget": 9, "seed": 1}
    whole_search = joint_tuner(recordings, **settings)
    whole_search.search()
    store = StudyStore(MEMORY)
    for budget in (4, 9):
        session = Session(store, SessionSettings(**{**settings, "budget": budget}))  # type: ignore[arg-type]
        _, search = session.opener.open_together([replay_job(recording) for recording in recordings])
        search.search()
        assert isinstance(search, JointTuner)
    counts = [tuner.launched_configs for tuner in search.tuners]
    assert counts == [9] * 4
    for one, other in zip(search.tuners, whole_search.tuners, strict=True):
        assert [t.params for t in one.trials[:4]] == [t.params for t in other.trials[:4]]


def test_the_defaults_come_first_and_no_config_twice() -> None:
    search = joint_tuner(small(2048), budget=12)
    search.search()
    for tuner in search.tuners:
        assert dict(tuner.trials[0].params) == tuner.default
        tried = [tuple(sorted(trial.params.items())) for trial in tuner.trials]
        assert len(set(tried)) == len(tried) == 12


def test_several_configs_may_be_under_way_at_once() -> None:
    recordings = small(16)
    session = Session(StudyStore(MEMORY), SessionSettings(budget=12, compilers=8))
    tuners, search = session.opener.open_together([replay_job(recording) for recording in recordings])
    search.search()
    for tuner in tuners:
        tried = [tuple(sorted(trial.params.items())) for trial in tuner.trials]
        assert len(set(tried)) == len(tried) == 12


@pytest.mark.parametrize("sampler", ["random", "coordinate"])
def test_samplers_without_a_model_take_turns(sampler: str) -> None:
    search = joint_tuner(small(16), budget=6, sampler=sampler)
    search.search()
    assert [tuner.launched_configs for tuner in search.tuners] == [6] * 4
    assert search.certificate is None
    choice = search.choose()
    assert choice is not None
    assert {one.config["block_m"] for one in choice.choices} == {choice.value}


def test_the_stop_rule_ends_all_four_and_says_how_sure_it_is() -> None:
    tuned = tune(small(256), budget=60, stop_rule=StopRule())
    results = [t.result for t in tuned if t.result]
    assert all(result.ended_by is not None for result in results)
    assert {result.certificate for result in results} == {results[0].certificate}
    assert results[0].certificate is not None
    assert results[0].certificate.probability > 0.9
    assert max(t.launched_configs for t in tuned) < 60


def test_without_a_budget_it_ends_when_nothing_can_help_any_more() -> None:
    search = joint_tuner(small(16), budget=None)
    search.search()
    assert search.certificate is not None
    assert search.certificate.probability == 1.0
    choice = search.choose()
    assert choice is not None
    assert choice.time_us == pytest.approx(best_sum_us(small(16)), rel=0.01)


def test_finished_studies_are_taken_as_they_are() -> None:
    store, events = StudyStore(MEMORY), list[Event]()
    first = tune(small(16), store, budget=6)
    session = Session(store, SessionSettings(budget=6), listener=events.append)
    again = session.run([replay_job(recording) for recording in small(16)])
    assert [t.result for t in again] == [t.result for t in first]
    assert all(event.reused for event in events if isinstance(event, StudyFinished))


def test_a_kernel_that_was_tuned_alone_is_chosen_anew_with_the_others() -> None:
    store, recordings = StudyStore(MEMORY), small(2048)
    (alone,) = tune(recordings[:1], store, budget=6)
    assert alone.result is not None
    assert alone.result.joint is None
    tuned = tune(recordings, store, budget=6)
    assert len({t.result.config["block_m"] for t in tuned if t.result}) == 1
    assert all(t.result.joint for t in tuned if t.result)


def test_stored_results_of_older_versions_are_read() -> None:
    (tuned,) = tune(small(16)[:1], budget=3)
    stored = tuned.stored.attribute(RESULT_ATTR)
    del stored["joint"]
    assert StudyResult.from_json(stored) == tuned.result


def test_asked_to_stop_it_stops() -> None:
    search, stop = joint_tuner(small(16), budget=6), threading.Event()
    stop.set()
    with pytest.raises(InterruptedSearch):
        JointTuner(search.tuners, SessionSettings(budget=6).tuner(), stop=stop).search()


def test_a_sum_that_is_no_faster_leaves_the_defaults() -> None:
    """All configs as slow as the default, but for noise that is none: nothing beats it."""
    recordings = []
    for recording in small(16):
        default = recording.default_config
        known = recording.entry(default)
        assert known is not None
        recordings.append(replace(recording, entries=dict.fromkeys(recording.entries, known)))
    for one in tune(recordings, budget=8):
        assert one.result is not None
        assert one.result.config == one.default


def test_keys_of_m_that_are_added_are_added_for_all_four() -> None:
    lines = [Line(job.problem, job.spec, job.device) for job in map(replay_job, small(16))]
    assert len({line.file_level for line in lines}) == 1
