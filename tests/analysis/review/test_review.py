"""A database looked back on: against what Optuna reads from it, and against the recordings behind it."""

from collections import Counter
from dataclasses import replace
from math import exp, log
from pathlib import Path

import pytest
from helpers import sliced, sqlite_url, stored_trials
from moe_recordings import best_sum_us, small
from one_launch_recordings import one_launch
from reviewed import BUDGET, OWN, Reviewed, build

from bo_tune.analysis.review import Review, document, review
from bo_tune.analysis.review.case import Case
from bo_tune.analysis.review.family import families_of
from bo_tune.measure.devices import replay_job
from bo_tune.session.session import Session, SessionSettings
from bo_tune.store.storage import StudyStore

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def reviewed(tmp_path_factory: pytest.TempPathFactory) -> Reviewed:
    return build(tmp_path_factory.mktemp("review"))


@pytest.fixture(scope="module")
def found(reviewed: Reviewed) -> Review:
    return reviewed.review()


def _case(found: Review, kernel: str, label: str = "") -> Case:
    (case,) = [
        c for c in found.cases if c.first.name.problem.kernel == kernel and c.first.name.problem.label.startswith(label)
    ]
    return case


def _trials(reviewed: Reviewed, case: Case) -> list[object]:
    return stored_trials(Path(reviewed.url.removeprefix("sqlite:///")))[str(case.first.name)]


def test_every_search_is_there_and_no_grid(found: Review) -> None:
    assert sorted(case.first.name.problem.kernel for case in found.cases) == [
        "fused_moe_lora_w13_shrink", "lora_expand", "lora_shrink", "lora_shrink", "lora_shrink", "row_softmax",
    ]  # fmt: skip
    assert [len(case.studies) for case in found.cases if case.joint] == [4]
    assert [grid.name.problem.kernel for grid in found.grids] == ["lora_expand"]
    assert [case.first.name.problem.kernel for case in found.cases if not case.finished] == ["lora_shrink", OWN.kernel]


def test_gains_are_of_the_re_measured_times(found: Review) -> None:
    finished = [case for case in found.cases if case.finished]
    for case in finished:
        if not case.joint:
            finalists = {tuple(sorted(config.items())): us for config, us in _finalists(case)}
            assert case.time_us == finalists[tuple(sorted(case.first.config.items()))]
            assert case.default_us == _finalists(case)[0][1]
        assert case.speed_up == case.default_us / case.time_us >= 1
    assert found.speed_up == pytest.approx(exp(sum(log(case.speed_up) for case in finished) / len(finished)))


def _finalists(case: Case) -> list[tuple[dict[str, int], float]]:
    return list(case.first.result.finalists)


def test_a_curve_follows_the_best_complete_trial(found: Review, reviewed: Reviewed) -> None:
    case = _case(found, "lora_shrink", "L4.s1.m16.")
    trials = _trials(reviewed, case)
    launched, best = 0, float("inf")
    after: dict[int, float] = {}
    for trial in trials:
        launched += sum(trial.user_attrs["cost"]["launches"].values()) > 0
        best = min(best, trial.value) if trial.value is not None else best
        after[launched] = best
    steps = {step.launched: step.best_us for step in case.steps}
    assert steps.items() <= after.items()
    assert {round(us, 9) for us in after.values()} == {round(us, 9) for us in steps.values()}
    assert max(steps) == launched
    recording = sliced("h100.lora_shrink.L4.s1.m16.k4096.n16.t4.json.gz")
    assert case.best_us == min(e.time_us for e in recording.entries.values() if e.time_us is not None)
    chosen = recording.time_us(case.first.config)
    assert case.regret_percent == pytest.approx(100 * (chosen / case.best_us - 1))


def test_kernels_that_agree_are_one_case_of_sums(found: Review) -> None:
    case = _case(found, "fused_moe_lora_w13_shrink")
    recordings = small(16)
    assert [study.name.problem.kernel for study in case.studies] == [r.problem.kernel for r in recordings]
    assert len({study.config["block_m"] for study in case.studies}) == 1
    assert case.time_us == pytest.approx(sum(study.best_us for study in case.studies))
    assert case.best_us == pytest.approx(best_sum_us(recordings))
    assert case.regret_percent >= -1e-9
    assert case.steps[-1].launched == sum(s.costs.launched_configs for s in case.studies)
    falling = [step.best_us for step in case.steps]
    assert falling == sorted(falling, reverse=True)
    least = min(
        sum(min(p.time_us for p in s.trials if p.complete and p.config["block_m"] == value) for s in case.studies)
        for value in (16, 32, 64, 128)
        if all(any(p.complete and p.config["block_m"] == value for p in s.trials) for s in case.studies)
    )
    assert case.steps[-1].best_us == pytest.approx(least)


def test_an_exhaustive_study_tells_the_best_where_no_recording_does(found: Review) -> None:
    case = _case(found, "lora_expand")
    assert case.truth == "exhaustive study"
    assert case.best_us == min(p.time_us for p in found.grids[0].trials if p.complete)
    assert case.regret_percent >= 0


def test_costs_add_up(found: Review, reviewed: Reviewed) -> None:
    stored = stored_trials(Path(reviewed.url.removeprefix("sqlite:///")))
    names = {str(study.name) for study in found.studies}
    trials = [trial for name, some in stored.items() if name in names for trial in some]
    costs = [trial.user_attrs["cost"] for trial in trials]
    purposes = Counter[str]()
    for cost in costs:
        purposes.update(cost["launches"])
    effort = found.effort
    assert effort.configs == len(trials)
    assert effort.launched_configs == sum(sum(cost["launches"].values()) > 0 for cost in costs)
    assert {p: effort.launches_by_purpose[p] for p in ("timing", "late")} == {
        p: purposes[p] for p in ("timing", "late")
    }
    assert effort.launches_by_purpose["check"] >= purposes["check"], "finalists are checked too"
    assert effort.launches_by_purpose["finalists"] > 0
    assert effort.launches == sum(effort.launches_by_purpose.values())
    assert effort.compiles == sum(not cost["cached"] and cost["compile_s"] > 0 for cost in costs)
    assert effort.compile_s == pytest.approx(sum(cost["compile_s"] for cost in costs if not cost["cached"]), abs=0.01)
    assert effort.wall_s is None, "a replay keeps no GPU from other work"
    assert found.replayed
    assert found.pruned == dict(Counter(t.user_attrs["reason"] for t in trials if "reason" in t.user_attrs))


def test_sessions_figures_tell_seconds_of_the_gpu(reviewed: Reviewed) -> None:
    store = StudyStore(reviewed.url, create=False)
    figures = {"devices": {"a": {"gpu": {"seconds": {"measure": 2.0}}, "farm": {"workers": 7}}, "b": {"farm": None}}}
    effort = review(store, session=figures).effort
    store.close()
    assert (effort.gpu_s, effort.compilers) == ({"measure": 2.0}, 7)


def test_a_grids_size_is_calculated_as_a_grid_search_has_it(tmp_path: Path) -> None:
    recordings = [sliced("h100.lora_shrink.L4.s1.m16.k4096.n16.t4.json.gz", m=m) for m in (16, 32)]
    jobs = [replay_job(recording) for recording in recordings]
    store = StudyStore(sqlite_url(tmp_path / "x.db"))
    Session(store, SessionSettings(budget=BUDGET)).run(jobs)
    calculated = review(store).grid_effort
    Session(store, SessionSettings(sampler="grid", budget=None)).run(jobs)
    measured = review(store).grid_effort
    recorded = review(store, recordings).grid_effort
    store.close()
    assert not calculated.measured
    assert measured.measured
    # The default config lies off the grid, and an exhaustive search tries it too.
    assert measured.configs == calculated.configs + len(jobs)
    assert calculated.launches == 11 * calculated.configs
    # The two problems differ in m alone: each config is compiled once for both.
    assert calculated.compiles <= calculated.configs / 2
    assert len(calculated.basis) == 3
    assert recorded.configs == sum(len(recording.entries) for recording in recordings)
    assert recorded.compile_s == pytest.approx(sum(e.compile_s for r in recordings for e in r.entries.values()))


def test_a_kernel_of_another_program_has_trials_and_no_more(found: Review) -> None:
    case = _case(found, OWN.kernel)
    assert [point.reason for point in case.first.trials] == [None, "slow", "compile error"]
    assert [step.best_us for step in case.steps] == [20.2, 20.2]
    assert (case.speed_up, case.best_us, case.losses) == (None, None, [{}])


def test_families_hold_what_belongs_in_one_picture(found: Review) -> None:
    families = families_of(found.cases)
    assert [family.kernels[0] for family in families] == [
        "lora_shrink", "lora_expand", "fused_moe_lora_w13_shrink", OWN.kernel,
    ]  # fmt: skip
    shrink, expand, experts, own = families
    assert (shrink.ms, shrink.shapes) == ([16, 32, 4096], ["max_loras 4", "max_loras 8"])
    assert shrink.common == "1 slice, k 4096, n 16, bfloat16"
    assert expand.shapes == ["max_loras 4, 2 slices, k 32, n 14336, bfloat16"]
    assert experts.joint
    assert experts.name == "fused_moe_lora: w13_shrink + w13_expand + w2_shrink + w2_expand"
    assert (own.ms, own.shapes) == ([], ["rows=4096, columns=1000"])


def test_conditions_keep_families_and_truths_apart(found: Review) -> None:
    case = _case(found, "lora_expand")
    study = replace(case.first, name=replace(case.first.name, conditions="warm"))
    families = families_of([case, replace(case, studies=[study])])
    assert [family.conditions for family in families] == ["", "warm"]


def test_kernels_that_follow_others_count_in_no_mean(tmp_path: Path) -> None:
    times = {16: (30.0, 20.0), 32: (29.0, 18.0), 64: (35.0, 22.0), 128: (60.0, 40.0)}
    recordings = [*small(16), *one_launch(16, times)]
    store = StudyStore(sqlite_url(tmp_path / "x.db"))
    Session(store, SessionSettings(budget=12)).run([replay_job(recording) for recording in recordings])
    found = review(store, recordings)
    store.close()
    deciding, following = sorted(found.cases, key=lambda case: case.decided is not None)
    assert [len(case.studies) for case in (deciding, following)] == [2, 4]
    assert following.decided == deciding.first.config["block_m"] == 32
    assert found.speed_up == deciding.speed_up
    assert found.mean_regret_percent == deciding.regret_percent
    assert following.best_us > best_sum_us(small(16)), "16 would be better, and is not theirs to choose"
    assert following.regret_percent >= 0
    assert following.steps[-1].best_us >= following.best_us * 0.9
    assert [family.decided for family in families_of(found.cases)] == [False, True]


def test_all_of_it_is_json(found: Review) -> None:
    content = document(found)
    assert len(content["cases"]) == len(found.cases)
    assert sum(len(case["studies"]) for case in content["cases"]) == len(found.studies)
    assert content["geomean_speed_up_over_default"] == found.speed_up
