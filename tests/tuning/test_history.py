"""What the database already holds on a kernel."""

from dataclasses import replace

import numpy as np
import pytest
from helpers import EXPAND, H100, SHRINK, SHRINK_BIG, sliced

from bo_tune.core.choices import MEMORY
from bo_tune.formats.recording import Recording
from bo_tune.kernels.registry import kernel_spec
from bo_tune.measure.devices import replay_job
from bo_tune.session.session import Session, SessionSettings
from bo_tune.store.storage import StudyStore
from bo_tune.store.trials import time_us
from bo_tune.tuning import history
from bo_tune.tuning.history import FEWEST_TRIALS, Histories, descriptor

SHRINKS = kernel_spec("lora_shrink")
TARGET = sliced(SHRINK)


@pytest.fixture
def store() -> StudyStore:
    return StudyStore(MEMORY)


def tune(store: StudyStore, recording: Recording, *, budget: int | None = 30, sampler: str = "random") -> None:
    Session(store, SessionSettings(sampler=sampler, budget=budget)).run([replay_job(recording)])


def sizes(store: StudyStore, recording: Recording = TARGET) -> list[int]:
    return [len(h.times) for h in Histories(store, bundled=False).of(recording.problem, recording.gpu)]


def test_finished_studies_of_the_kernel_on_other_problems_teach(store: StudyStore) -> None:
    tune(store, sliced(SHRINK_BIG))
    (found,) = Histories(store, bundled=False).of(TARGET.problem, TARGET.gpu)
    trials = [t for t in store.load(store.summaries()[0].name).trials() if time_us(t) is not None]
    assert any(t.value is None for t in trials), "slow ones teach as much"
    assert found.times.tolist() == [time_us(t) for t in trials]
    assert [dict(c) for c in found.configs] == [t.params for t in trials]
    assert found.features.shape == (len(trials), len(SHRINKS.feature_names))
    assert np.isfinite(found.features).all()
    assert found.descriptor == descriptor(sliced(SHRINK_BIG).problem, H100)


@pytest.mark.parametrize(
    ("recording", "expected"),
    [
        (TARGET, 0),  # the problem itself
        (sliced(EXPAND), 0),  # another kernel
        (sliced(SHRINK, m=32), 1),
        (sliced(SHRINK, gpu="NVIDIA H200"), 1),
        (replace(TARGET, problem=replace(TARGET.problem, dtype="float16")), 1),
        (replace(TARGET, kernel_source="vllm 0.34.0"), 0),  # the problem itself, whatever the source
    ],
)
def test_who_teaches(store: StudyStore, recording: Recording, expected: int) -> None:
    tune(store, recording)
    assert len(sizes(store)) == expected


def test_an_exhaustive_study_of_the_problem_itself_gives_nothing_away(store: StudyStore) -> None:
    tune(store, TARGET, sampler="grid", budget=None)
    assert sizes(store) == []
    assert len(sizes(store, sliced(SHRINK_BIG))) == 1


def test_a_study_without_result_or_with_few_trials_teaches_nothing(store: StudyStore) -> None:
    tune(store, sliced(SHRINK, m=2), budget=FEWEST_TRIALS - 1)
    session = Session(store, SessionSettings(sampler="random", budget=30))
    unfinished = session.opener.open(replay_job(sliced(SHRINK, m=4)))
    unfinished.search()
    assert sizes(store) == []


def test_a_descriptor_moves_by_one_for_each_doubling() -> None:
    problem = TARGET.problem
    there = descriptor(replace(problem, m=2 * problem.m), H100)
    here = descriptor(problem, H100)
    assert {name: there[name] - here[name] for name in here if there[name] != here[name]} == {"m": 1.0}


def test_a_study_is_read_once_and_a_finished_one_not_at_all(store: StudyStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(history, "LISTED_FOR_S", 0.0)
    tune(store, sliced(SHRINK_BIG))
    loaded: list[object] = []
    read = store.trials_of
    monkeypatch.setattr(store, "trials_of", lambda some: (loaded.extend(s.name for s in some), read(some))[1])
    known = Histories(store, bundled=False)
    (first,) = known.of(TARGET.problem, TARGET.gpu)
    assert known.of(TARGET.problem, TARGET.gpu) == [first]
    assert len(loaded) == 1
    tune(store, sliced(SHRINK, m=32))
    (name,) = {s.name for s in store.summaries()} - set(loaded)
    study = store.load(name)
    known.learn(name, TARGET.gpu, study.study_id, study.trials())
    assert len(known.of(TARGET.problem, TARGET.gpu)) == 2
    assert len(loaded) == 1


def test_a_study_that_another_process_finishes_is_found_later(
    store: StudyStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    known = Histories(store, bundled=False)
    assert known.of(TARGET.problem, TARGET.gpu) == []
    tune(store, sliced(SHRINK_BIG))
    assert known.of(TARGET.problem, TARGET.gpu) == []
    monkeypatch.setattr(history, "LISTED_FOR_S", 0.0)
    assert len(known.of(TARGET.problem, TARGET.gpu)) == 1
