"""Many studies over one database: independent failures, interruption, resuming, and what is written."""

import threading
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from helpers import EXPAND, H100, SHRINK, SHRINK_BIG, FakeDevice, Times, sliced, sqlite_url, stored_trials

from bo_tune.core.choices import MEMORY, SAMPLERS
from bo_tune.core.events import Event, StudyFailed, StudyFinished, StudyStarted, TrialRecorded
from bo_tune.core.outcome import Invalid, InvalidReason
from bo_tune.core.problem import LoraProblem
from bo_tune.core.space import Config, SearchSpace, config_key
from bo_tune.errors import DeviceError, StorageError
from bo_tune.kernels.registry import kernel_spec
from bo_tune.measure.devices import Job, job_of, replay_job
from bo_tune.session.session import Session, SessionSettings, Tuned
from bo_tune.store.attributes import SPACE_ATTR
from bo_tune.store.storage import StudyStore
from bo_tune.tuning.candidates import IDENTICAL
from bo_tune.tuning.tuner import InterruptedSearch

SPEC = kernel_spec("lora_shrink")
SPACE = SPEC.search_space.override(
    {"block_m": (16, 32), "block_n": (32,), "block_k": (64,), "num_warps": (4,), "split_k": (4, 8, 16)}
)
RANDOM = SessionSettings(sampler="random", budget=8)


def by_tile(config: Config) -> float:
    return config["block_m"] + config["num_stages"] + config["split_k"] / 10


def problems(count: int) -> list[LoraProblem]:
    return [LoraProblem("lora_shrink", 4, 1, m, 4096, 16) for m in range(1, count + 1)]


def fake(times: Times = by_tile, **more: object) -> FakeDevice:
    return FakeDevice(times=times, space=SPACE, **more)  # type: ignore[arg-type]


def jobs(count: int, device: FakeDevice) -> list[Job]:
    return [job_of(problem, device) for problem in problems(count)]


class Heard(list[Event]):
    """A listener that keeps what it heard."""

    def __call__(self, event: Event) -> None:
        self.append(event)

    def of(self, kind: type) -> list[Event]:
        return [event for event in self if isinstance(event, kind)]


def run(
    settings: SessionSettings, work: list[Job], store: StudyStore | None = None, heard: Heard | None = None
) -> list[Tuned]:
    return Session(store or StudyStore(MEMORY), settings, listener=Heard() if heard is None else heard).run(work)


def params(tuned: list[Tuned]) -> list[list[dict[str, int]]]:
    return [[trial.params for trial in t.trials] for t in tuned]


def test_results_come_in_the_order_of_the_problems() -> None:
    heard = Heard()
    tuned = run(replace(RANDOM, in_flight=4), jobs(6, fake()), heard=heard)
    assert [t.job.problem for t in tuned] == problems(6)
    assert all(t.result is not None and t.result.trials == 8 for t in tuned)
    counts = {kind: len(heard.of(kind)) for kind in (StudyStarted, TrialRecorded, StudyFinished, StudyFailed)}
    assert counts == {StudyStarted: 6, TrialRecorded: 48, StudyFinished: 6, StudyFailed: 0}


class Broken(FakeDevice):
    """Cannot measure one problem at all."""

    def measure(self, problem: LoraProblem, *args: object, **more: object) -> object:  # type: ignore[override]
        if problem.m == 2:
            raise DeviceError("the inputs cannot be made")
        return super().measure(problem, *args, **more)  # type: ignore[arg-type]


@pytest.mark.parametrize("in_flight", [1, 3])
def test_a_problem_that_cannot_be_measured_does_not_stop_the_others(in_flight: int) -> None:
    heard = Heard()
    session = Session(StudyStore(MEMORY), replace(RANDOM, in_flight=in_flight), listener=heard)
    tuned = session.run(jobs(4, Broken(times=by_tile, space=SPACE)))
    assert [t.result is not None for t in tuned] == [True, False, True, True]
    (failed,) = heard.of(StudyFailed)
    assert failed.problem.m == 2  # type: ignore[union-attr]
    assert "cannot be made" in failed.message  # type: ignore[union-attr]
    assert len(session.entries(tuned)) == 3


def test_a_kernel_of_which_nothing_runs_has_no_result() -> None:
    heard = Heard()
    (tuned,) = run(RANDOM, jobs(1, fake(lambda config: Invalid(InvalidReason.WRONG_RESULT))), heard=heard)
    assert tuned.result is None
    (finished,) = heard.of(StudyFinished)
    assert finished.time_us is None  # type: ignore[union-attr]


@pytest.mark.parametrize("error", [StorageError("disk full"), ZeroDivisionError("a bug")])
def test_what_concerns_every_study_ends_the_session(error: Exception) -> None:
    heard = Heard()

    def fail(config: Config) -> None:
        if len(heard.of(TrialRecorded)) >= 20:
            raise error

    store = StudyStore(MEMORY)
    with pytest.raises(type(error), match=str(error)):
        run(replace(RANDOM, in_flight=2), jobs(6, fake(on_measure=fail)), store, heard)
    assert len(heard.of(StudyFinished)) < 6
    assert sum(len(store.load(s.name).trials()) for s in store.summaries()) == len(heard.of(TrialRecorded))


@pytest.mark.parametrize("in_flight", [1, 3])
def test_an_interrupted_session_goes_on_where_it_was(in_flight: int) -> None:
    store, heard = StudyStore(MEMORY), Heard()
    settings = replace(RANDOM, in_flight=in_flight)
    session = Session(store, settings, listener=heard)
    seen = threading.Event()

    def stop(config: Config) -> None:
        if len(heard.of(TrialRecorded)) >= 13 and not seen.is_set():
            seen.set()
            session.stop()

    with pytest.raises(InterruptedSearch):
        session.run(jobs(5, fake(on_measure=stop)))
    recorded = len(heard.of(TrialRecorded))
    assert 13 < recorded < 40
    on = fake()
    resumed = run(settings, jobs(5, on), store)
    assert len(on.measured) == 40 - recorded
    assert params(resumed) == params(run(settings, jobs(5, fake())))
    assert all(max(Counter(map(config_key, trials)).values()) == 1 for trials in params(resumed))


def test_a_session_stopped_before_it_began_measures_nothing() -> None:
    on = fake()
    session = Session(StudyStore(MEMORY), RANDOM)
    session.stop()
    with pytest.raises(InterruptedSearch):
        session.run(jobs(2, on))
    assert on.compiled == []


@pytest.mark.parametrize("sampler", ["random", "grid"])
def test_studies_in_flight_on_a_real_database_lose_nothing(tmp_path: Path, sampler: str) -> None:
    store, heard = StudyStore(sqlite_url(tmp_path / "x.db")), Heard()
    tuned = run(SessionSettings(sampler=sampler, budget=12, in_flight=5), jobs(6, fake()), store, heard)
    store.close()
    found = stored_trials(tmp_path / "x.db")
    assert {name: [t.params for t in trials] for name, trials in found.items()} == {
        str(t.name): [trial.params for trial in t.trials] for t in tuned
    }
    told = Counter((e.name, config_key(e.config)) for e in heard.of(TrialRecorded))  # type: ignore[union-attr]
    assert told == Counter((name, config_key(t.params)) for name, trials in found.items() for t in trials)
    assert len(told) == 72
    assert params(tuned) == params(run(SessionSettings(sampler=sampler, budget=12), jobs(6, fake())))


# Results and resuming


def test_a_result_is_reused_until_a_trial_follows(tmp_path: Path) -> None:
    store, on = StudyStore(sqlite_url(tmp_path / "x.db")), fake()
    first = run(RANDOM, jobs(2, on), store)
    again_heard = Heard()
    again = run(RANDOM, jobs(2, on), store, again_heard)
    assert [t.result for t in again] == [t.result for t in first]
    assert len(on.remeasured) == 2
    assert {e.reused for e in again_heard.of(StudyFinished)} == {True}  # type: ignore[union-attr]
    more = run(replace(RANDOM, budget=11), jobs(2, on), store)
    store.close()
    assert len(on.remeasured) == 4
    assert [t.result.trials for t in more if t.result] == [11, 11]
    assert max(Counter(map(config_key, params(more)[0])).values()) == 1


def test_an_exhaustive_search_is_a_study_of_its_own() -> None:
    store, on = StudyStore(MEMORY), fake()
    run(RANDOM, jobs(1, on), store)
    measured = len(on.measured)
    (grid,) = run(SessionSettings(sampler="grid", budget=None), jobs(1, on), store)
    assert len(on.measured) - measured == len(grid.candidates) + 1
    assert len(store.summaries()) == 2
    assert {s.name.exhaustive for s in store.summaries()} == {False, True}


@pytest.mark.slow
@pytest.mark.parametrize("sampler", SAMPLERS)
def test_the_same_seed_gives_the_same_search(sampler: str) -> None:
    learns = sampler == "grid-gp"  # from the studies before, so that there must be some
    recordings = [sliced(SHRINK), *([sliced(SHRINK_BIG)] if learns else [])]
    settings = SessionSettings(sampler=sampler, budget=12, seed=3)
    first, second = (run(settings, [replay_job(r, seed=3) for r in recordings]) for _ in range(2))
    assert params(first) == params(second)
    assert [replace(t.result, date="", costs=None) for t in first] == [  # type: ignore[type-var, arg-type]
        replace(t.result, date="", costs=None) for t in second  # type: ignore[type-var, arg-type]
    ]  # fmt: skip


@pytest.mark.parametrize("sampler", ["grid-gp", "random", "coordinate-restarts"])
def test_another_seed_gives_another_search(sampler: str) -> None:
    searches = [
        params(run(SessionSettings(sampler=sampler, budget=12, seed=seed), [replay_job(sliced(SHRINK), seed=seed)]))
        for seed in (0, 1)
    ]
    assert searches[0] != searches[1]


def test_ranges_of_a_study_replace_the_kernels_own() -> None:
    settings = replace(RANDOM, sampler="grid", budget=None, spaces={"lora_shrink": {"split_k": (4,), "block_m": (16,)}})
    (tuned,) = run(settings, jobs(1, fake()))
    grid = params([tuned])[0][1:]
    assert len(grid) == 4
    assert {(c["split_k"], c["block_m"]) for c in grid} == {(4, 16)}


def test_what_was_left_out_is_kept_with_the_study() -> None:
    store = StudyStore(MEMORY)
    inert = fake(effective=lambda config: {**config, "num_stages": 1})
    (tuned,) = run(replace(RANDOM, budget=None), jobs(1, inert), store)
    (summary,) = store.summaries()
    note = dict(summary.attributes[SPACE_ATTR])
    default = SPEC.default_config(problems(1)[0])
    ranges = note.pop("ranges")
    assert (ranges["block_k"], ranges["num_ctas"]) == ([64, 256], [1, 1])
    assert note == {"size": 24, "candidates": 6, "excluded": {IDENTICAL: 18}, "default": default}
    assert len(tuned.trials) == 7


def test_a_default_identical_to_a_config_of_the_grid_is_measured_once() -> None:
    """The default lies on the grid, but the target makes it identical to a config that stands before it."""
    default = SPEC.default_config(problems(1)[0])
    space = SearchSpace.of({**{name: (value,) for name, value in default.items()}, "num_stages": (1, 2, 3)})
    on = FakeDevice(times=by_tile, space=space, effective=lambda config: {**config, "num_stages": 1})
    (tuned,) = run(SessionSettings(sampler="grid", budget=None), jobs(1, on))
    assert len(tuned.candidates) == 1
    effective = Counter(config_key(on.effective(config)) for config in on.measured)
    assert max(effective.values()) == 1


# What is written


def test_entries_say_where_the_engine_looks_and_where_they_came_from() -> None:
    work = [replay_job(sliced(SHRINK)), replay_job(sliced(EXPAND))]
    session = Session(StudyStore(MEMORY), SessionSettings(sampler="random", budget=15))
    tuned = session.run(work)
    shrink, expand = session.entries(tuned)
    assert (shrink.file_name, shrink.keys) == (
        "NVIDIA_H100_80GB_HBM3_SHRINK.json", ("5", "1", "16", "4096", "16")
    )  # fmt: skip
    assert expand.file_name == "NVIDIA_H100_80GB_HBM3_EXPAND_TRUE.json"
    assert expand.keys == ("5", "2", "64", "32", "14336")
    for entry, study in zip((shrink, expand), tuned, strict=True):
        assert study.result is not None
        origin = entry.provenance
        assert dict(entry.config) == dict(origin.config) == dict(study.result.config)
        assert (origin.time_us, origin.default_time_us) == (study.result.time_us, study.result.default_time_us)
        assert (origin.gpu, origin.kernel_source, origin.sampler) == (H100.name, "vllm 0.33.0", "random")
        assert (origin.study, origin.session) == (str(study.name), session.id)
        assert origin.costs["launched_configs"] == 15
        assert origin.costs["launches"] == sum(n for k, n in origin.costs.items() if k.startswith("launches_"))
        assert origin.costs["launches_finalists"] >= 20 * len(study.result.finalists)


def test_nothing_written_measured_slower_than_the_default() -> None:
    recordings = [sliced(name, m=m) for name in (SHRINK, EXPAND) for m in (None, 7, 48)]
    for seed in range(4):
        settings = SessionSettings(sampler="random", budget=6, seed=seed)
        for tuned in run(settings, [replay_job(r, seed=seed) for r in recordings]):
            assert tuned.result is not None
            assert tuned.result.default_time_us is not None
            assert tuned.result.time_us <= tuned.result.default_time_us


def test_a_search_that_learns_begins_with_the_winner_of_the_nearest_problem() -> None:
    store = StudyStore(MEMORY)
    settings = SessionSettings(sampler="grid-gp", budget=20)
    (taught,) = run(settings, [replay_job(sliced(SHRINK))], store)
    (tuned,) = run(settings, [replay_job(sliced(SHRINK, m=32))], store)
    assert taught.result is not None
    begins_with = sliced(SHRINK).time_us(tuned.trials[1].params)
    assert begins_with is not None
    assert begins_with <= 1.1 * taught.result.time_us


SHARES: list[tuple[int, int, int]] = [(0, 1, 1), (1, 1, 3), (8, 1, 8), (8, 4, 2), (3, 5, 1), (100, 1, 8)]


@pytest.mark.parametrize(("compilers", "studies", "expected"), SHARES)
def test_studies_share_the_compilers(compilers: int, studies: int, expected: int) -> None:
    """Configs proposed before the first measurement that knows the default: as many as the study's compilers."""
    waiting = threading.Barrier(studies)
    compiled_at: list[int] = []

    def wait(on: list[FakeDevice]) -> Callable[[Config], None]:
        def measured(config: Config) -> None:
            if config == SPEC.default_config(problems(1)[0]):
                waiting.wait(10)
                compiled_at.append(len(on[0].compiled))
                waiting.wait(10)

        return measured

    work = []
    for problem in problems(studies):
        box: list[FakeDevice] = []
        box.append(fake(on_measure=wait(box)))
        work.append(job_of(problem, box[0]))
    run(replace(RANDOM, in_flight=studies, compilers=compilers), work)
    assert len(compiled_at) == studies
    assert min(compiled_at) == expected or studies > 1
    assert all(1 <= count <= 8 for count in compiled_at)


def test_equal_gpus_share_the_studies_each_of_which_keeps_to_one() -> None:
    gpus = [fake(), fake()]
    together = threading.Barrier(2)

    def meets_once() -> Callable[[Config], None]:
        first = iter([True])

        def measured(config: Config) -> None:
            if next(first, False):
                together.wait(10)

        return measured

    for gpu in gpus:
        gpu.on_measure = meets_once()
    work = [job_of(problem, gpus[0], (gpus[1],)) for problem in problems(6)]
    tuned = run(replace(RANDOM, in_flight=2), work)
    assert [t.job.problem for t in tuned] == problems(6)
    assert {id(t.job.device) for t in tuned} == {id(gpu) for gpu in gpus}
    for gpu in gpus:
        assert len(gpu.measured) == sum(len(t.trials) for t in tuned if t.job.device is gpu)
