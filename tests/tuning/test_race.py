"""The last step of a study: who is re-measured, and who wins."""

from collections import Counter
from collections.abc import Sequence

import pytest
from helpers import FakeDevice
from hypothesis import given
from hypothesis import strategies as st

from bo_tune.core.outcome import LaunchPurpose
from bo_tune.core.problem import LoraProblem
from bo_tune.core.space import Config, SearchSpace, config_key
from bo_tune.measure.device import Remeasured
from bo_tune.tuning.race import Finalists, choose

PROBLEM = LoraProblem("lora_shrink", 4, 1, 16, 4096, 16)
SPACE = SearchSpace.of({"num_warps": (4, 8), "block_m": (16, 32, 64, 128, 256)})
DEFAULT = {"block_m": 16, "num_warps": 4}
KEYS = [config_key(config) for config in SPACE]
TIMES = st.sampled_from([1.0, 2.0, 2.5, 3.0, 10.0])


def device(retimed: dict) -> FakeDevice:  # type: ignore[type-arg]
    return FakeDevice(times=lambda config: 5.0, space=SPACE, retimed=retimed)


@given(
    measured=st.dictionaries(st.sampled_from(KEYS), TIMES),
    retimed=st.fixed_dictionaries(dict.fromkeys(KEYS, TIMES)),
    count=st.integers(1, 12),
)
def test_the_default_and_the_best_few_run_and_the_fastest_wins(measured: dict, retimed: dict, count: int) -> None:  # type: ignore[type-arg]
    on = device(retimed)
    choice = choose(on, PROBLEM, measured, DEFAULT, Finalists(count))
    if not measured:
        assert choice is None
        assert on.remeasured == []
        return
    assert choice is not None
    (finalists,) = on.remeasured
    default = config_key(DEFAULT)
    others = [config_key(c) for c in finalists if config_key(c) != default]
    left_out = set(measured) - set(others) - {default}
    assert len(others) == min(count, len(set(measured) - {default}))
    assert max((measured[key] for key in others), default=0) <= min((measured[key] for key in left_out), default=99)
    assert (default in map(config_key, finalists)) == (default in measured)
    assert choice.time_us == min(retimed[config_key(c)] for c in finalists)
    assert retimed[config_key(choice.config)] == choice.time_us
    assert choice.default_time_us == (retimed[default] if default in measured else None)
    if choice.default_time_us == choice.time_us:
        assert choice.config == DEFAULT
    assert choice.launches == {LaunchPurpose.FINALISTS: Finalists().rounds * len(finalists)}
    assert dict(choice.times_us) == {config_key(c): retimed[config_key(c)] for c in finalists}


@pytest.mark.parametrize(
    ("default_us", "other_us", "winner"), [(2.0, 2.0, DEFAULT), (2.0, 1.9, SPACE[7]), (2.0, 2.1, DEFAULT)]
)
def test_the_default_wins_ties_and_never_loses_to_a_slower_one(
    default_us: float, other_us: float, winner: dict[str, int]
) -> None:
    other = config_key(SPACE[7])
    on = device({config_key(DEFAULT): default_us, other: other_us})
    choice = choose(on, PROBLEM, {config_key(DEFAULT): 9.0, other: 1.0}, DEFAULT, Finalists(4))
    assert choice is not None
    assert choice.config == winner
    assert list(choice.config) == list(DEFAULT)


def test_without_a_default_that_runs_there_is_still_a_winner() -> None:
    choice = choose(device({}), PROBLEM, {KEYS[3]: 1.0}, DEFAULT, Finalists(4))
    assert choice is not None
    assert (config_key(choice.config), choice.default_time_us) == (KEYS[3], None)


def test_one_that_proves_wrong_in_a_later_batch_is_out() -> None:
    keys = [config_key(DEFAULT), *KEYS[5:8]]

    class Wrong(FakeDevice):
        def remeasure(
            self, problem: LoraProblem, configs: Sequence[Config], rounds: int, *, taken: int = 0
        ) -> Remeasured:
            answer = super().remeasure(problem, configs, rounds, taken=taken)
            wrong = [taken > 0 and config_key(config) == keys[1] for config in configs]
            times = [() if out else t for t, out in zip(answer.runtimes_us, wrong, strict=True)]
            return Remeasured(times, answer.launches)

    on = Wrong(times=lambda config: 5.0, space=SPACE, retimed=dict(zip(keys, (5.0, 1.0, 1.1, 1.2), strict=True)))
    choice = choose(on, PROBLEM, dict.fromkeys(keys, 1.0), DEFAULT, Finalists(rounds=4, most_rounds=40))
    assert choice is not None
    assert keys[1] not in choice.times_us
    assert config_key(choice.config) == keys[2]


def test_every_launch_of_every_batch_is_counted_by_purpose() -> None:
    class Late(FakeDevice):
        def remeasure(
            self, problem: LoraProblem, configs: Sequence[Config], rounds: int, *, taken: int = 0
        ) -> Remeasured:
            answer = super().remeasure(problem, configs, rounds, taken=taken)
            checks = {LaunchPurpose.CHECK: 0 if taken else len(configs), LaunchPurpose.LATE: 3}
            return Remeasured(answer.runtimes_us, answer.launches + Counter(checks))

    keys = [config_key(DEFAULT), *KEYS[5:7]]
    on = Late(times=lambda config: 5.0, space=SPACE, retimed=dict(zip(keys, (5.0, 1.0, 1.1), strict=True)))
    finalists = Finalists(rounds=2, most_rounds=20)
    choice = choose(on, PROBLEM, dict.fromkeys(keys, 1.0), DEFAULT, finalists)
    assert choice is not None
    timed = sum(len(batch) for batch in on.remeasured)
    assert len(on.remeasured) > 1
    assert choice.launches == {
        LaunchPurpose.FINALISTS: 2 * timed, LaunchPurpose.CHECK: 3, LaunchPurpose.LATE: 3 * len(on.remeasured)
    }  # fmt: skip
