"""What a worker takes from a database, and what it leaves alone."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from helpers import BUNDLED, EXPAND, SHRINK, SHRINK_BIG, FakeDevice, sliced, sqlite_url

from bo_tune.core.events import Event, StudyElsewhere, StudyFinished, StudyLost, StudyStarted
from bo_tune.core.problem import LoraProblem
from bo_tune.core.space import Config, SearchSpace
from bo_tune.core.surroundings import Linear
from bo_tune.errors import DeviceError
from bo_tune.files import shown
from bo_tune.formats.recording import read_recording
from bo_tune.measure.devices import Job, job_of, replay_job, replay_jobs
from bo_tune.session.session import Session, SessionSettings, Tuned
from bo_tune.session.workers.worker import StudyWorker, fitting
from bo_tune.store.attributes import DONE_ATTR, JOB_ATTR, RESULT_ATTR
from bo_tune.store.storage import StudyStore
from bo_tune.tuning.tuner import InterruptedSearch

RANDOM = SessionSettings(sampler="random", budget=6)
H200 = "NVIDIA H200"


@pytest.fixture
def url(tmp_path: Path) -> str:
    return sqlite_url(tmp_path / "x.db")


@pytest.fixture
def store(url: str) -> StudyStore:
    return StudyStore(url)


def work(store: StudyStore, jobs: list[Job], heard: list[Event] | None = None) -> int:
    listener = (lambda _: None) if heard is None else heard.append
    return StudyWorker(store, fitting(jobs), SessionSettings(), listener=listener).run()


def params(tuned: list[Tuned]) -> list[list[dict[str, int]]]:
    return [[trial.params for trial in t.trials] for t in tuned]


def done(store: StudyStore) -> set[str]:
    return {str(s.name) for s in store.summaries() if s.attributes.get(DONE_ATTR) == s.attributes.get(JOB_ATTR, 0)}


def test_it_searches_as_the_session_would_have(store: StudyStore, url: str, tmp_path: Path) -> None:
    jobs = [replay_job(sliced(SHRINK)), replay_job(sliced(EXPAND)), replay_job(sliced(SHRINK_BIG))]
    spaces = {"lora_shrink": {"split_k": (8,)}, "lora_expand": {"num_stages": (2,)}}
    settings = replace(RANDOM, seed=3, spaces=spaces)
    Session(store, settings).register(jobs)
    heard: list[Event] = []
    assert work(StudyStore(url), jobs, heard) == 0
    assert len(done(store)) == 3
    collected = Session(store, settings).run(jobs)
    alone = Session(StudyStore(sqlite_url(tmp_path / "alone.db")), settings).run(jobs)
    assert params(collected) == params(alone)
    assert [t.result.config for t in collected if t.result] == [t.result.config for t in alone if t.result]
    assert all(not t.launches for t in collected)
    assert sum(isinstance(event, StudyFinished) for event in heard) == 3


def test_studies_are_begun_in_the_order_of_the_session(store: StudyStore, url: str) -> None:
    """Which of them teach the others depends on it."""
    jobs = [replay_job(sliced(SHRINK, m=m)) for m in (32, 128, 16, 64)]
    Session(store, RANDOM).register(jobs)
    heard: list[Event] = []
    settings = SessionSettings(in_flight=1)
    StudyWorker(StudyStore(url), fitting(jobs), settings, listener=heard.append, begins_at=0.5).run()
    assert [e.problem.m for e in heard if isinstance(e, StudyStarted)] == [16, 64, 32, 128]  # type: ignore[union-attr]


@pytest.mark.slow
def test_kernels_that_must_agree_are_taken_together(store: StudyStore, url: str) -> None:
    problems = [r.problem for r in map(read_recording, sorted((BUNDLED / "moe").glob("*.m16.*")))]
    jobs = replay_jobs(BUNDLED / "moe", problems=problems)
    session = Session(store, RANDOM)
    session.register(jobs)
    assert work(StudyStore(url), jobs[:-1]) == 0
    assert done(store) == set(), "not where one of them cannot be measured"
    heard: list[Event] = []
    assert work(StudyStore(url), jobs, heard) == 0
    assert len(done(store)) == len(jobs) == 4
    tuned = session.run(jobs)
    assert all(not t.launches for t in tuned)
    shared = {t.result.config["block_m"] for t in tuned if t.result}
    assert len(shared) == 1
    assert all(t.result and t.result.joint for t in tuned)


def test_types_of_gpus_never_mix_and_teach_each_other(store: StudyStore, url: str) -> None:
    here, there = replay_job(sliced(SHRINK)), replay_job(sliced(SHRINK, gpu=H200))
    learning = SessionSettings(budget=12)
    session = Session(store, learning)
    session.register([here, there])
    assert work(StudyStore(url), [there]) == 0
    assert done(store) == {str(s.name) for s in store.summaries() if s.name.gpu == H200}
    (tuned,) = session.run([here])
    (cold,) = Session(StudyStore("memory"), learning).run([here])
    assert params([tuned]) != params([cold]), "what the other type found is this one's prior"
    assert tuned.job.device.gpu.name != H200
    assert len(done(store)) == 2


def test_other_sources_and_finished_studies_are_left_alone(store: StudyStore, url: str) -> None:
    one, other = replay_job(sliced(SHRINK)), replay_job(replace(sliced(SHRINK), kernel_source="vllm 0.34.0"))
    Session(store, RANDOM).register([one])
    Session(store, RANDOM).run([replay_job(sliced(EXPAND))])
    heard: list[Event] = []
    assert work(StudyStore(url), [other, replay_job(sliced(EXPAND))], heard) == 0
    assert heard == []


def test_studies_that_nobody_wants_searched_are_left_alone(store: StudyStore, url: str) -> None:
    job = replay_job(sliced(SHRINK))
    tuner = Session(store, RANDOM).opener.open(job)
    tuner.search(2)
    assert work(StudyStore(url), [job]) == 0
    (summary,) = store.summaries()
    assert RESULT_ATTR not in summary.attributes


@pytest.mark.parametrize("problem", [SHRINK, EXPAND])
def test_a_study_wanted_in_a_layer_of_another_problem_is_left_out(problem: str, store: StudyStore, url: str) -> None:
    job = replay_job(sliced(problem))
    layer = Linear(1, (1,))
    Session(store, RANDOM).register([replace(job, layer=layer)])
    theirs = StudyStore(url)
    assert work(theirs, [job]) == 0
    ((name, why),) = theirs.unreadable.items()
    assert name.startswith(job.problem.kernel)
    assert why == f"{JOB_ATTR}: in_place: expected a layer of {job.problem}, got {shown(layer.to_json())}"


def test_a_study_wanted_anew_is_done_anew(store: StudyStore, url: str) -> None:
    job = replay_job(sliced(SHRINK))
    Session(store, RANDOM).run([job])
    Session(store, replace(RANDOM, budget=9)).register([job])
    assert done(store) == set()
    assert work(StudyStore(url), [job]) == 0
    (tuned,) = Session(store, replace(RANDOM, budget=9)).run([job])
    assert tuned.launched_configs == 9


class Broken(FakeDevice):
    """Cannot measure anything."""

    def measure(self, problem: LoraProblem, *args: object, **more: object) -> object:  # type: ignore[override]
        raise DeviceError("the inputs cannot be made")


def fake(kind: Callable[..., FakeDevice], **more: object) -> Job:
    space = SearchSpace.of({name: values[:2] for name, values in sliced(SHRINK).space.ranges.items()})
    return job_of(LoraProblem("lora_shrink", 4, 1, 16, 4096, 16), kind(times=by_tile, space=space, **more))


def by_tile(config: Config) -> float:
    return float(config["block_m"] + config["split_k"])


def test_what_cannot_be_measured_here_is_tried_once_and_stays_open(store: StudyStore, url: str) -> None:
    broken = fake(Broken)
    Session(store, RANDOM).register([broken])
    assert work(StudyStore(url), [broken]) == 1
    assert done(store) == set()
    assert work(StudyStore(url), [fake(FakeDevice)]) == 0
    assert len(done(store)) == 1


def test_a_session_waits_for_a_study_that_another_has_and_takes_its_result(store: StudyStore, url: str) -> None:
    first, second = replay_job(sliced(SHRINK)), replay_job(sliced(EXPAND))
    other = StudyStore(url)
    session = Session(other, RANDOM)
    session.register([first])
    held = other.load(other.summaries()[0].name)
    assert held.take()
    heard: list[Event] = []

    def listen(event: Event) -> None:
        heard.append(event)
        if isinstance(event, StudyFinished) and event.problem == second.problem:
            held.release()
            Session(other, RANDOM).run([first])

    tuned = Session(store, RANDOM, listener=listen).run([first, second])
    assert [t.result is not None for t in tuned] == [True, True]
    assert not tuned[0].launches
    assert [e.problem for e in heard if isinstance(e, StudyElsewhere)] == [first.problem]
    assert tuned[0].origin["session"] != tuned[1].origin.get("session")


def test_a_study_that_is_lost_is_taken_again_and_the_others_go_on(url: str) -> None:
    store, thief = StudyStore(url, lease_s=60.0), StudyStore(url)
    heard: list[Event] = []
    stolen: list[str] = []

    def steal(config: Config) -> None:
        if len(device.measured) == 3 and not stolen:
            held = {holder.study_id for holder in thief.holders().values()}
            (summary,) = [s for s in thief.summaries() if s.study_id in held]
            stolen.append(str(summary.name))
            lease = next(iter(store._keeper._held))
            with store._database.engine.begin() as connection:
                store._keeper.leases.release(connection, lease)

    job = fake(FakeDevice, on_measure=steal)
    device = job.device
    assert isinstance(device, FakeDevice)
    other = replay_job(sliced(EXPAND))
    tuned = Session(store, RANDOM, listener=heard.append).run([job, other])
    assert [e.name for e in heard if isinstance(e, StudyLost)] == stolen
    assert [t.launched_configs for t in tuned] == [6, 6]
    for t in tuned:
        assert len({tuple(sorted(trial.params.items())) for trial in t.trials}) == len(t.trials)


def test_a_worker_that_is_stopped_ends_after_the_trial_under_way(store: StudyStore, url: str) -> None:
    worker: list[StudyWorker] = []
    job = fake(FakeDevice, on_measure=lambda config: worker[0].stop())
    Session(store, RANDOM).register([job])
    worker.append(StudyWorker(StudyStore(url), fitting([job]), SessionSettings()))
    with pytest.raises(InterruptedSearch):
        worker[0].run()
    (trials,) = store.trials_of(store.summaries()).values()
    assert len(trials) == 1
    assert store.holders() == {}, "what it had is free at once"
