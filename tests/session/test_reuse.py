"""What of a database a search may use again: decided by the study's identity and by what was asked."""

import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from helpers import EXPAND, SHRINK, FakeDevice, sliced, sqlite_url

from bo_tune.core.choices import MEMORY
from bo_tune.core.conclusion import StopRule
from bo_tune.core.conditions import NO_VERSIONS, toolchain_label
from bo_tune.core.space import config_key
from bo_tune.errors import StorageError
from bo_tune.formats.recording import Recording
from bo_tune.measure.devices import Job, job_of, replay_job
from bo_tune.session.session import Session, SessionSettings, Tuned
from bo_tune.session.workers.worker import StudyWorker, fitting
from bo_tune.store.storage import StudyStore
from bo_tune.tuning.tuner import InterruptedSearch

RANDOM = SessionSettings(sampler="random", budget=8)


def measured_with(recording: Recording, **versions: str) -> Job:
    """A replay of a recording that was made with these versions."""
    metadata = {k: v for k, v in recording.metadata.items() if k not in ("triton", "torch")}
    return replay_job(replace(recording, metadata={**metadata, **versions}))


def run(store: StudyStore, settings: SessionSettings, *jobs: Job, **more: Any) -> list[Tuned]:
    session = Session(store, settings, **more)
    tuned = session.run(jobs)
    session.settle()
    return tuned


def measured(tuned: Tuned) -> int:
    """Trials of a study that its session measured."""
    return len(tuned.trials) - tuned.resumed


@pytest.mark.parametrize(
    ("versions", "label"),
    [
        ({}, NO_VERSIONS),
        ({"torch": "2.11.0", "triton": "3.6.0", "driver": "1"}, "triton 3.6.0, torch 2.11.0"),
        ({"ptxas": "12.8.93", "triton": "3.6.0"}, "triton 3.6.0, ptxas 12.8.93"),
        ({"triton": "3.6 | x\n"}, "triton 4d4df3a6"),
    ],
)
def test_toolchains_have_plain_names(versions: dict[str, str], label: str) -> None:
    assert toolchain_label(versions).split()[:-1] == label.split()[:-1]
    assert toolchain_label(versions) == label or "|" in versions["triton"]
    assert toolchain_label(versions).isprintable()


@pytest.mark.parametrize("changed", [{"triton": "3.8.0"}, {"torch": "2.14.0"}, {"ptxas": "13.0.1"}, None])
def test_nothing_is_reused_across_toolchains(changed: dict[str, str] | None) -> None:
    store, versions = StudyStore(MEMORY), {"triton": "3.6.0", "torch": "2.11.0", "ptxas": "12.8.93"}
    (first,) = run(store, RANDOM, measured_with(sliced(SHRINK), **versions))
    (again,) = run(store, RANDOM, measured_with(sliced(SHRINK), **versions, driver="another"))
    assert (again.kept, measured(again), again.result) == (True, 0, first.result)
    upgraded = {} if changed is None else {**versions, **changed}
    (other,) = run(store, RANDOM, measured_with(sliced(SHRINK), **upgraded))
    assert (other.kept, other.resumed, measured(other)) == (False, 0, 8)
    assert len(store.summaries()) == 2
    assert StudyWorker(store, fitting([measured_with(sliced(SHRINK), triton="9")]), RANDOM).run() == 0


@pytest.mark.parametrize(
    "other",
    [{"seed": 5}, {"sampler": "tpe"}, {"sampler": "coordinate", "seed": 5}, {"sampler": "grid", "budget": None}],
)
def test_no_search_sees_what_another_found(other: dict[str, Any]) -> None:
    store, job = StudyStore(MEMORY), replay_job(sliced(SHRINK))
    run(store, RANDOM, job)
    (found,) = run(store, replace(RANDOM, **other), job)
    (alone,) = run(StudyStore(MEMORY), replace(RANDOM, **other), job)
    assert (found.kept, found.resumed) == (False, 0)
    assert [t.params for t in found.trials] == [t.params for t in alone.trials]
    (again,) = run(store, replace(RANDOM, **other), job)
    assert (again.kept, again.result) == (True, found.result)


@pytest.mark.parametrize(
    ("other", "more"),
    [
        ({"budget": 12}, 4),
        ({"budget": 5}, 0),
        ({"stop_rule": StopRule()}, 0),
        ({"finalists": replace(RANDOM.finalists, count=3)}, 0),
        ({"spaces": {"lora_shrink": {"block_m": (16,)}}}, 0),
    ],
)
def test_another_budget_or_end_goes_on_from_the_trials_and_chooses_anew(other: dict[str, Any], more: int) -> None:
    store, job = StudyStore(MEMORY), replay_job(sliced(SHRINK))
    run(store, RANDOM, job)
    (found,) = run(store, replace(RANDOM, **other), job)
    assert (found.kept, found.resumed, measured(found)) == (False, 8, more)
    assert found.launches, "the finalists were timed again"
    assert found.result is not None
    assert found.result.asked == replace(RANDOM, **other).asked("lora_shrink")
    (again,) = run(store, replace(RANDOM, **other), job)
    assert (again.kept, again.result) == (True, found.result)


def test_workers_take_the_searches_of_one_problem_apart(tmp_path: Path) -> None:
    store, job = StudyStore(sqlite_url(tmp_path / "x.db")), replay_job(sliced(SHRINK))
    searches = [replace(RANDOM, seed=seed) for seed in (0, 1)] + [SessionSettings(sampler="grid", budget=9)]
    for settings in searches:
        Session(store, settings).register([job])
    assert StudyWorker(store, fitting([job]), SessionSettings()).run() == 0
    for settings in searches:
        (tuned,) = run(store, settings, job)
        assert (tuned.kept, measured(tuned)) == (True, 0)
    store.close()


# --fresh


@pytest.fixture
def store(tmp_path: Path) -> StudyStore:
    return StudyStore(sqlite_url(tmp_path / "x.db"))


def test_fresh_sets_aside_what_is_asked_for_and_nothing_else(store: StudyStore) -> None:
    job, other = replay_job(sliced(SHRINK)), replay_job(sliced(EXPAND))
    (first, _) = run(store, RANDOM, job, other)
    (fresh,) = run(store, RANDOM, job, fresh=True)
    assert (fresh.kept, fresh.resumed, measured(fresh)) == (False, 0, 8)
    assert [summary.name for summary in store.summaries()] == sorted((first.name, other_name(store, EXPAND)), key=str)
    (aside,) = [s for s in store.summaries(set_aside=True) if s.name.set_aside]
    assert replace(aside.name, set_aside="") == first.name
    kept = store.load(aside.name).trials()
    assert [config_key(t.params) for t in kept] == [config_key(t.params) for t in first.trials]
    assert len({t._trial_id for t in [*kept, *store.load(first.name).trials()]}) == 16
    (again,) = run(store, RANDOM, job)
    assert (again.kept, again.result) == (True, fresh.result)
    (anew,) = run(store, RANDOM, job, fresh=True)
    assert measured(anew) == 8, "another run begins from nothing again"
    store.close()


def other_name(store: StudyStore, name: str) -> Any:
    (found,) = [s.name for s in store.summaries() if s.name.problem == sliced(name).problem]
    return found


def test_a_fresh_run_that_was_interrupted_goes_on_with_what_it_has(store: StudyStore) -> None:
    jobs = [fake_job(16), fake_job(32)]
    run(store, RANDOM, *jobs)
    session: list[Session] = []
    seen: list[object] = []
    stopped = threading.Event()

    def stop(config: object) -> None:
        seen.append(config)
        if len(seen) == 11 and not stopped.is_set():
            stopped.set()
            session[0].stop()

    stopping = [fake_job(16, on_measure=stop), fake_job(32, on_measure=stop)]
    session.append(Session(store, RANDOM, fresh=True))
    with pytest.raises(InterruptedSearch):
        session[0].run(stopping)
    done, rest = run(store, RANDOM, *jobs, fresh=True)
    assert (done.kept, measured(done)) == (True, 0)
    assert done.resumed == 8
    assert 0 < rest.resumed < 8
    assert measured(rest) == 8 - rest.resumed
    assert len([s for s in store.summaries(set_aside=True) if s.name.set_aside]) == 2
    store.close()


def fake_job(m: int, **more: Any) -> Job:
    space = sliced(SHRINK).space
    device = FakeDevice(times=lambda config: 10.0 + config["block_m"] + config["split_k"], space=space, **more)
    return job_of(replace(sliced(SHRINK).problem, m=m), device)


def test_a_plain_run_may_end_what_a_fresh_one_began(store: StudyStore) -> None:
    job = replay_job(sliced(SHRINK))
    run(store, RANDOM, job)
    Session(store, RANDOM, fresh=True).register([job])  # and was killed
    (ended,) = run(store, RANDOM, job)
    assert measured(ended) == 8
    (fresh,) = run(store, RANDOM, job, fresh=True)
    assert measured(fresh) == 8
    store.close()


def test_what_is_being_worked_on_is_not_set_aside(store: StudyStore, tmp_path: Path) -> None:
    job = replay_job(sliced(SHRINK))
    (first,) = run(store, RANDOM, job)
    other = StudyStore(sqlite_url(tmp_path / "x.db"))
    held = other.load(first.name)
    assert held.take()
    with pytest.raises(StorageError, match=r"is working on this study; start it again with --fresh once that is done"):
        run(store, RANDOM, job, fresh=True)
    held.release()
    other.close()
    store.close()


def test_who_had_opened_a_study_that_was_set_aside_learns_of_it(store: StudyStore, tmp_path: Path) -> None:
    job = replay_job(sliced(SHRINK))
    (first,) = run(store, RANDOM, job)
    other = StudyStore(sqlite_url(tmp_path / "x.db"))
    opened = other.load(first.name)
    run(store, RANDOM, job, fresh=True)
    with pytest.raises(StorageError, match="was deleted or set aside meanwhile"):
        opened.take()
    other.close()
    store.close()
