"""Which kernel to try next with which config, and how sure a joint study is, on studies made by hand."""

from math import inf

import numpy as np
import optuna
import pytest
from optuna.trial import FrozenTrial, TrialState, create_trial

from bo_tune.search import FiniteGridSampler, distributions
from bo_tune.search.gp.model import Scale
from bo_tune.search.joint import Member, certify_jointly, next_config, objective, times

GRID = {"block_m": (16, 32, 64), "block_n": (16, 32, 64, 128), "num_warps": (4, 8)}
Config = dict[str, int]


def trial_of(config: Config, time_us: float | None) -> FrozenTrial:
    state = TrialState.PRUNED if time_us is None else TrialState.COMPLETE
    return create_trial(state=state, value=time_us, params=config, distributions=distributions(GRID, [config]))


def study_of(sampler: FiniteGridSampler, known: dict[tuple[int, int, int], float | None]) -> optuna.Study:
    """A study of configs (block_m, block_n, num_warps) with their times in us; None for an invalid one."""
    study = optuna.create_study(sampler=sampler)
    for values, time_us in known.items():
        study.add_trial(trial_of(dict(zip(GRID, values, strict=True)), time_us))
    return study


def member(known: dict[tuple[int, int, int], float | None], **more: object) -> Member:
    sampler = FiniteGridSampler(GRID, **more)  # type: ignore[arg-type]
    return Member.of(sampler, study_of(sampler, known), "block_m")


def config_of(index: int) -> Config:
    return FiniteGridSampler(GRID).grid[index]  # type: ignore[return-value]


def falling(scale: float = 1.0, best: int = 16) -> dict[tuple[int, int, int], float | None]:
    """Times that depend on block_m alone, in a study of two configs each."""
    factor = {16: 1.0, 32: 1.5, 64: 2.0} if best == 16 else {16: 2.0, 32: 1.5, 64: 1.0}
    return {(m, n, 4): scale * factor[m] * (1 + n / 1000) for m in (16, 32, 64) for n in (16, 64)}


def test_the_least_measured_time_is_kept_by_value() -> None:
    one = member({(16, 16, 4): 12.0, (16, 32, 4): 10.0, (64, 16, 4): 30.0, (32, 16, 4): None})
    assert one.measured == {16: 10.0, 64: 30.0}
    assert one.tried == 3
    assert set(one.potential) == {16, 32, 64}
    assert all(one.potential[value] <= time for value, time in one.measured.items())


def test_the_objective_is_the_least_sum_of_values_known_of_all() -> None:
    assert objective([{16: 1.0, 64: 5.0}, {16: 9.0, 64: 2.0, 32: 0.1}]) == 7.0
    assert objective([{16: 1.0}, {64: 2.0}]) == inf


def test_times_undo_what_the_scale_does() -> None:
    values = np.array([10.0, 11.0, 15.0, 40.0, 900.0])
    for minimise_in_logs in (True, False):
        scale = Scale.of(values, minimise=True, log=minimise_in_logs)
        np.testing.assert_allclose(times(scale, scale.targets(values)), values, rtol=1e-9)


def test_the_kernel_with_more_to_gain_in_us_is_tried() -> None:
    """Alike but for the unit of time: a share of the larger one is worth more."""
    for order in ((1.0, 100.0), (100.0, 1.0)):
        members = [member(falling(scale)) for scale in order]
        found = next_config(members, [True, True])
        assert found is not None
        assert order[found[0]] == 100.0


def test_only_the_willing_are_asked() -> None:
    members = [member(falling(1.0)), member(falling(100.0))]
    found = next_config(members, [True, False])
    assert found is not None
    assert found[0] == 0
    assert next_config(members, [False, False]) is None


def test_a_value_that_the_others_lose_on_is_left_alone() -> None:
    """The second kernel is fast at 64 only; the first, slow there, cannot make up for it at 16, where it is fast."""
    members = [member(falling(1.0, best=16)), member(falling(100.0, best=64))]
    for _ in range(2):
        found = next_config(members, [True, False])
        assert found is not None
        assert config_of(found[1])["block_m"] == 64


def test_without_a_common_value_each_kernel_is_improved_on_its_own() -> None:
    members = [member({(16, 16, 4): 10.0, (16, 32, 4): 11.0}), member({(64, 16, 4): 10.0, (64, 32, 4): 11.0})]
    assert next_config(members, [True, True]) is not None
    assert certify_jointly(members, 0.01).probability == 0.0


def test_what_costs_less_is_tried_first() -> None:
    def cost(indices: np.ndarray) -> np.ndarray:
        return np.where(indices == 2, 1e-4, 1.0)

    found = next_config([member(falling(), cost=cost), member(falling())], [True, True])
    assert found == (0, 2)


def test_certificates_tell_settled_studies_from_open_ones() -> None:
    everything = {
        (m, n, w): (1.0 if m == 16 else 3.0) * (1 + n / 1000) + w / 100
        for m in GRID["block_m"]
        for n in GRID["block_n"]
        for w in GRID["num_warps"]
    }
    exhausted = [member(dict(everything)) for _ in range(2)]
    assert certify_jointly(exhausted, 0.01).exhausted
    assert certify_jointly(exhausted, 0.01).probability == 1.0
    settled = {key: time for key, time in everything.items() if key != (64, 128, 8)}
    few = dict(list(everything.items())[8:14])
    sure, unsure = (certify_jointly([member(dict(k)) for _ in range(2)], 0.01) for k in (settled, few))
    assert sure.probability > 0.95 > unsure.probability
    assert (sure.tried, unsure.tried) == (23, 6)


def test_a_certificate_depends_on_the_studies_and_the_seed_alone() -> None:
    members = [member(falling(scale)) for scale in (1.0, 3.0)]
    again = [member(falling(scale)) for scale in (1.0, 3.0)]
    assert certify_jointly(members, 0.01) == certify_jointly(again, 0.01)


def test_a_default_off_the_grid_counts_for_its_value() -> None:
    sampler = FiniteGridSampler(GRID)
    study = study_of(sampler, {(16, 16, 4): 10.0, (64, 16, 4): 30.0})
    study.add_trial(trial_of({"block_m": 64, "block_n": 8, "num_warps": 4}, 8.0))
    one = Member.of(sampler, study, "block_m")
    assert one.measured == {16: 10.0, 64: 8.0}
    assert certify_jointly([one, member(falling())], 0.01).tried == pytest.approx(4, abs=1)
