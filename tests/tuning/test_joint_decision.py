"""Kernels that an engine launches in place of others, and that decide on block_m for them: on recordings."""

from dataclasses import replace
from pathlib import Path

import pytest
from helpers import FakeDevice, sqlite_url
from moe_recordings import MOE_KERNELS, small
from one_launch_recordings import one_launch

from bo_tune.analysis.simulate import simulate
from bo_tune.core.choices import GRID, MEMORY, MoePathChoice
from bo_tune.core.conclusion import Decision, StopRule
from bo_tune.core.problem import Experts, LoraProblem, Problem
from bo_tune.core.space import SearchSpace
from bo_tune.errors import InputError
from bo_tune.formats.recording import Recording
from bo_tune.kernels.moe.spec import one_launch_problems
from bo_tune.kernels.registry import IN_ORDER, define, kernel_spec
from bo_tune.measure.devices import Job, deciding_problems, job_of, replay_job, together, with_deciding
from bo_tune.session.session import Session, SessionSettings, Tuned
from bo_tune.session.workers.worker import StudyWorker, fitting
from bo_tune.store.results import StudyResult
from bo_tune.store.storage import StudyStore

pytestmark = pytest.mark.slow

ONE_LAUNCH = ("fused_moe_lora_w13", "fused_moe_lora_w2")
FASTER_AT_32 = {16: (30.0, 20.0), 32: (29.0, 18.0), 64: (35.0, 22.0), 128: (60.0, 40.0)}
"""Times of both in us, by block_m. The two kernels of the same problem are fastest at 16."""
NOTHING_TO_GAIN = {16: (35.0, 22.0), 32: (35.1, 21.9), 64: (35.0, 22.0), 128: (60.0, 40.0)}


def tune(recordings: list[Recording], store: StudyStore | None = None, **settings: object) -> list[Tuned]:
    session = Session(store or StudyStore(MEMORY), SessionSettings(**settings))  # type: ignore[arg-type]
    return session.run([replay_job(recording) for recording in recordings])


def results(tuned: list[Tuned]) -> dict[str, StudyResult]:
    assert all(one.result is not None for one in tuned)
    return {one.job.problem.kernel: one.result for one in tuned if one.result is not None}


def test_kernels_that_decide_come_first_in_their_group() -> None:
    (group,) = together([replay_job(recording) for recording in [*small(16), *one_launch(16, FASTER_AT_32)]])
    assert [job.problem.kernel for job in group] == [*ONE_LAUNCH, *MOE_KERNELS]


@pytest.mark.parametrize("settings", [{"budget": 8}, {"budget": None, "sampler": GRID}], ids=["search", "grid"])
def test_one_launch_decides_on_block_m_for_all(settings: dict[str, object]) -> None:
    found = results(tune([*small(16), *one_launch(16, FASTER_AT_32)], **settings))
    assert {result.config["block_m"] for result in found.values()} == {32}
    deciding, other = found[ONE_LAUNCH[0]].joint, found[MOE_KERNELS[0]].joint
    assert deciding is not None
    assert other is not None
    assert deciding.kernels == tuple(ONE_LAUNCH)
    assert deciding.time_us == pytest.approx(47.0, rel=0.01)
    assert deciding.default_time_us == pytest.approx(57.0, rel=0.01)
    assert other.decided_by == Decision(tuple(ONE_LAUNCH), 32, deciding.time_us, deciding.default_time_us)
    assert other.kernels == tuple(MOE_KERNELS)


def test_a_search_tries_nothing_under_other_values_but_the_default() -> None:
    for one in tune([*small(16), *one_launch(16, FASTER_AT_32)], budget=8):
        tried = [trial.params for trial in one.trials]
        assert tried[0] == one.default
        if one.job.problem.kernel in ONE_LAUNCH:
            assert sorted(config["block_m"] for config in tried) == [16, 32, 64, 128]
        else:
            assert {config["block_m"] for config in tried[1:]} == {32}
            assert len(tried) == 8


def test_the_default_stays_unless_it_is_beaten_beyond_noise() -> None:
    found = results(tune([*small(16), *one_launch(16, NOTHING_TO_GAIN)], budget=6))
    assert {result.config["block_m"] for result in found.values()} == {64}


def test_under_the_defaults_value_the_others_are_no_slower_than_their_defaults() -> None:
    found = results(tune([*small(2048), *one_launch(2048, NOTHING_TO_GAIN)], budget=6))
    joint = found[MOE_KERNELS[0]].joint
    assert joint is not None
    assert joint.time_us <= joint.default_time_us


def test_ranges_of_a_study_hold_for_who_decides_too() -> None:
    spaces = {kernel: {"block_m": (16, 64)} for kernel in MOE_KERNELS}
    found = results(tune([*small(16), *one_launch(16, FASTER_AT_32)], budget=5, spaces=spaces))
    assert {result.config["block_m"] for result in found.values()} == {16}


def test_finished_studies_are_taken_as_they_are_and_chosen_anew_where_who_decides_changes() -> None:
    store, recordings = StudyStore(MEMORY), [*small(16), *one_launch(16, FASTER_AT_32)]
    rule = StopRule()
    first = results(tune(recordings, store, budget=6, stop_rule=rule))
    assert results(tune(recordings, store, budget=6, stop_rule=rule)) == first
    free = results(tune(small(16), store, budget=6))
    assert free[MOE_KERNELS[0]].joint.decided_by is None
    again = tune(recordings, store, budget=6, stop_rule=rule)
    assert {result.config["block_m"] for result in results(again).values()} == {32}


def test_configs_of_other_values_do_not_count_against_the_budget() -> None:
    store = StudyStore(MEMORY)
    tune(small(16), store, budget=12)
    for one in tune([*small(16), *one_launch(16, FASTER_AT_32)], store, budget=6):
        if one.job.problem.kernel in MOE_KERNELS:
            under = [t for t in one.trials if t.params["block_m"] == 32]
            assert len(under) >= 5


def test_a_worker_searches_who_decides_first_as_the_session_would(tmp_path: Path) -> None:
    jobs = [replay_job(recording) for recording in [*small(16), *one_launch(16, FASTER_AT_32)]]
    store, settings = StudyStore(sqlite_url(tmp_path / "studies.db")), SessionSettings(budget=5)
    Session(store, settings).register(jobs)
    assert StudyWorker(store, fitting(jobs), SessionSettings()).run() == 0
    collected = Session(store, settings).run(jobs)
    alone = Session(StudyStore(MEMORY), settings).run(jobs)
    assert {k: r.config for k, r in results(collected).items()} == {k: r.config for k, r in results(alone).items()}
    assert all(not one.launches for one in collected)


def test_where_who_decides_cannot_be_measured_the_others_choose_themselves() -> None:
    wrong = [replace(recording, entries={}) for recording in one_launch(16, FASTER_AT_32)]
    tuned = tune([*small(16), *wrong], budget=6)
    assert [one.job.problem.kernel for one in tuned if one.result is None] == list(ONE_LAUNCH)
    found = [one.result for one in tuned if one.result is not None]
    assert len({result.config["block_m"] for result in found}) == 1
    assert all(result.joint is None or result.joint.decided_by is None for result in found)


def test_even_the_least_budget_finds_a_config_of_the_value() -> None:
    found = results(tune([*small(16), *one_launch(16, FASTER_AT_32)], budget=1))
    assert {result.config["block_m"] for result in found.values()} == {32}


def test_who_decides_has_no_entry_in_the_files() -> None:
    store = StudyStore(MEMORY)
    session = Session(store, SessionSettings(budget=4))
    tuned = session.run([replay_job(r) for r in [*small(16), *one_launch(16, FASTER_AT_32)]])
    entries = session.entries(tuned)
    assert len(entries) == 4
    assert all(entry.provenance.joint["decided_by"]["value"] == 32 for entry in entries)


def test_samplers_are_compared_without_who_decides() -> None:
    (run,) = simulate([*small(16), *one_launch(16, FASTER_AT_32)], SessionSettings(budget=6), seeds=[0])
    assert run.recording.startswith("h100.4 kernels.")


class Deciding(FakeDevice):
    """A device whose engine launches one kernel instead of two where m is large enough."""

    def kernel_source(self, kernel: str) -> str:
        return "fake"

    def decided_by(self, problem: Problem) -> tuple[str, ...]:
        assert isinstance(problem, LoraProblem)
        return ONE_LAUNCH if problem.m > 8 else ()


def jobs(*problems: LoraProblem) -> list[Job]:
    device = Deciding(times=lambda config: 1.0, space=SearchSpace.of({"block_m": (16,)}))
    return [job_of(problem, device) for problem in problems]


def served(m: int, **changes: object) -> list[LoraProblem]:
    found = [r.problem for r in small(16)]
    assert all(isinstance(problem, LoraProblem) for problem in found)
    return [replace(problem, m=m, **changes) for problem in found]  # type: ignore[type-var, misc]


def test_who_decides_is_asked_of_the_device() -> None:
    asked = with_deciding(jobs(*served(16), *served(4)))
    added = [job.problem for job in asked[8:]]
    assert [(p.kernel, p.m, p.num_slices, p.k) for p in added] == [  # type: ignore[attr-defined]
        (ONE_LAUNCH[0], 16, 2, 16),
        (ONE_LAUNCH[1], 16, 1, 16),
    ]
    assert len(with_deciding(jobs(*served(16)), MoePathChoice.TWO_KERNELS)) == 4
    assert len(with_deciding(jobs(*served(4)), MoePathChoice.ONE_LAUNCH)) == 6
    assert deciding_problems([*served(16), *served(4)], lambda _: ONE_LAUNCH[:1]) == [
        one for m in (16, 4) for one in one_launch_problems(served(m))[:1]
    ]


def test_nobody_decides_for_a_part_of_the_four_or_for_fully_sharded_adapters() -> None:
    sharded = [replace(p, experts=Experts(128, 8, shards=2)) for p in served(16)]
    for problems in (served(16)[:3], sharded, [LoraProblem("lora_shrink", 4, 1, 16, 4096, 16)]):
        assert len(with_deciding(jobs(*problems))) == len(problems)
    with pytest.raises(InputError, match="--moe-path one-launch needs all four kernels"):
        with_deciding(jobs(*sharded), MoePathChoice.ONE_LAUNCH)


def test_the_rank_is_whole_in_both() -> None:
    found = one_launch_problems(served(16, k=64))
    assert [problem.k for problem in found] == [64, 64]


def test_their_specs_are_known_by_name_and_cannot_be_taken() -> None:
    assert IN_ORDER[:2] == ONE_LAUNCH
    for name in ONE_LAUNCH:
        spec = kernel_spec(name)
        assert spec.decides
        with pytest.raises(InputError, match="cannot be called"):
            define(spec)
        (problem,) = [p for p in one_launch_problems(served(16)) if p.kernel == name]
        features = spec.features(list(spec.search_space), problem, small(16)[0].gpu)
        assert features.shape == (4, len(spec.feature_names))
