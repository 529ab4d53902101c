"""The last step of a joint study: which value is taken, with which configs, and when the defaults stay."""

from dataclasses import dataclass, field

import pytest
from helpers import FakeDevice
from hypothesis import given
from hypothesis import strategies as st

from bo_tune.core.problem import Experts, LoraProblem
from bo_tune.core.space import ConfigKey, SearchSpace, config_key
from bo_tune.tuning.joint.choice import MOST_VALUES, best_by_value, best_together, choose_jointly, sums_by_value
from bo_tune.tuning.settings import Finalists

SPACE = SearchSpace.of({"block_m": (16, 32, 64, 128), "num_warps": (4, 8)})
KEYS = [config_key(config) for config in SPACE]
DEFAULT = {"block_m": 64, "num_warps": 4}
KERNELS = ("fused_moe_lora_w13_shrink", "fused_moe_lora_w13_expand", "fused_moe_lora_w2_shrink")
TIMES = st.sampled_from([1.0, 2.0, 2.5, 3.0, 10.0])


@dataclass
class Study:
    """What a tuner has to show."""

    kernel: str
    measured: dict[ConfigKey, float]
    retimed: dict[ConfigKey, float] = field(default_factory=dict)
    default: dict[str, int] = field(default_factory=lambda: dict(DEFAULT))

    def __post_init__(self) -> None:
        self.problem = LoraProblem(self.kernel, 4, 1, 16, 16, 2048, 768, experts=Experts(128, 8))
        retimed = {**self.measured, **self.retimed}
        self.device = FakeDevice(times=lambda config: 5.0, space=SPACE, retimed=retimed)


def study(kernel: str, times: dict[int, float], **more: float) -> Study:
    """A study of one config of each value, with four warps."""
    measured = {config_key({"block_m": value, "num_warps": 4}): time for value, time in times.items()}
    retimed = {config_key({"block_m": int(name[1:]), "num_warps": 4}): time for name, time in more.items()}
    return Study(kernel, measured, retimed)


@given(st.lists(st.dictionaries(st.sampled_from(KEYS), TIMES, min_size=1), min_size=2, max_size=3))
def test_all_agree_and_the_sum_is_never_above_the_defaults(measured: list[dict[ConfigKey, float]]) -> None:
    studies = [Study(kernel, times) for kernel, times in zip(KERNELS, measured, strict=False)]
    choice = choose_jointly(studies, Finalists(4))
    common = set.intersection(*({dict(key)["block_m"] for key in times} for times in measured))
    if not common:
        assert choice is None
        return
    assert choice is not None
    assert {one.config["block_m"] for one in choice.choices} == {choice.value}
    assert choice.time_us == sum(one.time_us for one in choice.choices)
    assert (choice.default_time_us is None) == any(config_key(DEFAULT) not in times for times in measured)
    best = best_together([[(dict(key), time) for key, time in times.items()] for times in measured])
    if choice.default_time_us is not None:
        assert choice.time_us <= choice.default_time_us
        assert choice.time_us in (best, choice.default_time_us)
    else:
        assert choice.time_us == best


def test_the_value_of_the_least_sum_is_taken_though_one_kernel_loses() -> None:
    choice = choose_jointly(
        [study(KERNELS[0], {16: 5.0, 64: 9.0}), study(KERNELS[1], {16: 4.0, 64: 3.0})], Finalists(4)
    )
    assert choice is not None
    assert choice.value == 16
    assert (choice.time_us, choice.default_time_us) == (9.0, 12.0)
    assert [one.default_time_us for one in choice.choices] == [9.0, 3.0]


def test_of_two_near_values_the_re_measured_times_decide() -> None:
    near = [study(KERNELS[0], {16: 5.0, 32: 5.1, 64: 9.0}, b16=6.0), study(KERNELS[1], {16: 4.0, 32: 4.0, 64: 9.0})]
    choice = choose_jointly(near, Finalists(4))
    assert choice is not None
    assert (choice.value, choice.time_us) == (32, pytest.approx(9.1))


def test_values_that_are_far_off_are_not_re_measured() -> None:
    far = [study(kernel, {16: 5.0, 32: 5.1, 64: 5.15, 128: 9.0}) for kernel in KERNELS[:2]]
    choose_jointly(far, Finalists(4))
    for one in far:
        (batch, *_) = one.device.remeasured
        assert {config["block_m"] for config in batch} == {16, 32, 64}, "64 is the default's"
        assert len(batch) == MOST_VALUES + 1


def test_a_tie_leaves_the_defaults() -> None:
    choice = choose_jointly([study(kernel, {16: 5.0, 64: 5.0}) for kernel in KERNELS], Finalists(4))
    assert choice is not None
    assert [one.config for one in choice.choices] == [DEFAULT] * 3


def test_within_the_defaults_value_a_faster_config_is_taken() -> None:
    studies = [study(kernel, {64: 5.0}) for kernel in KERNELS[:2]]
    studies[0].device.retimed = studies[0].measured | {config_key({"block_m": 64, "num_warps": 8}): 4.0}  # type: ignore[attr-defined]
    studies[0].measured[config_key({"block_m": 64, "num_warps": 8})] = 4.0
    choice = choose_jointly(studies, Finalists(4))
    assert choice is not None
    assert [one.config["num_warps"] for one in choice.choices] == [8, 4]


def test_sums_are_of_values_that_all_have() -> None:
    timed = [({"block_m": 16}, 3.0), ({"block_m": 16}, 2.0), ({"block_m": 32}, 1.0)]
    assert best_by_value(timed) == {16: 2.0, 32: 1.0}
    assert sums_by_value([{16: 2.0, 32: 1.0}, {64: 1.0, 16: 5.0}]) == {16: 7.0}
    assert best_together([timed]) == 1.0
    assert best_together([timed, [({"block_m": 16}, 5.0)]]) == 7.0
    assert best_together([timed, []]) is None
