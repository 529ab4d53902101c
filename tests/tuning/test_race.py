"""The last step of a study: who is re-measured, and who wins."""

import math
from collections import Counter
from collections.abc import Mapping, Sequence

import numpy as np
import pytest
from helpers import FakeDevice
from hypothesis import given
from hypothesis import strategies as st

from bo_tune.core.outcome import LaunchPurpose
from bo_tune.core.problem import LoraProblem, Problem
from bo_tune.core.space import Config, ConfigKey, SearchSpace, config_key
from bo_tune.measure.device import Remeasured
from bo_tune.tuning.race import Race, choose, loss
from bo_tune.tuning.settings import Finalists

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
    assert choice.launches == {LaunchPurpose.FINALISTS: Finalists().rounds // 2 * len(finalists)}
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


@given(
    times=st.lists(st.floats(1.0, 100.0), min_size=4, max_size=40),
    ratio=st.floats(0.5, 2.0),
)
def test_without_noise_the_loss_is_what_the_other_is_faster_by(times: list[float], ratio: float) -> None:
    times = [10.0 + time / 100 for time in times]  # none is late
    assert loss(times, [ratio * time for time in times]) == pytest.approx(max(0.0, -math.log(ratio)), abs=1e-9)


def test_the_loss_falls_with_the_lead_and_with_the_rounds() -> None:
    rng = np.random.default_rng(0)
    noise = 10.0 * np.exp(0.01 * rng.standard_normal((2, 200)))
    ahead = [loss(noise[0], (1 + lead) * noise[1]) for lead in (-0.02, 0.0, 0.001, 0.01)]
    assert ahead == sorted(ahead, reverse=True)
    assert ahead[0] == pytest.approx(0.02, rel=0.2)
    longer = [loss(noise[0][:rounds], noise[1][:rounds] * 1.001) for rounds in (10, 50, 200)]
    assert longer == sorted(longer, reverse=True)
    assert loss(noise[0][:3], noise[1][:3]) == math.inf
    late = noise[0] * np.where(np.arange(200) % 3, 1, 9)
    assert loss(late, noise[1]) == pytest.approx(loss(noise[0], noise[1]), abs=5e-4)


class Noisy:
    """Times configs with noise, of which the same rounds of all have some in common."""

    def __init__(self, times: Mapping[ConfigKey, float], seed: int) -> None:
        self._times, self._rng = times, np.random.default_rng(seed)
        self.batches: list[tuple[int, list[ConfigKey]]] = []

    def remeasure(self, problem: Problem, configs: Sequence[Config], rounds: int, *, taken: int = 0) -> Remeasured:
        self.batches.append((rounds, [config_key(config) for config in configs]))
        drift = 0.005 * self._rng.standard_normal(rounds)
        noise = 0.015 * self._rng.standard_normal((len(configs), rounds)) + drift
        times = np.array([[self._times[config_key(config)]] for config in configs]) * np.exp(noise)
        return Remeasured([tuple(row) for row in times.tolist()], Counter())

    @property
    def repetitions(self) -> int:
        return sum(rounds * len(keys) for rounds, keys in self.batches)


def raced(times: Sequence[float], seed: int) -> tuple[float, Noisy]:
    """Race configs of these times against a default that is a tenth slower; return the loss of the choice."""
    by_key = dict(zip([config_key(DEFAULT), *KEYS[1:]], [1.1 * min(times), *times], strict=False))
    device = Noisy(by_key, seed)
    race = Race(device, PROBLEM, Finalists(), list(by_key), config_key(DEFAULT))
    race.run()
    return by_key[race.leader] / min(by_key.values()) - 1, device


@pytest.mark.parametrize(
    "times",
    [[10.0] * 8, [10 + 0.01 * place for place in range(8)], [10 + 0.1 * place for place in range(8)], [10.0, 10.05]],
    ids=["equal", "a tenth of a percent apart", "one percent apart", "two"],
)
def test_half_the_repetitions_lose_next_to_nothing(times: list[float], monkeypatch: pytest.MonkeyPatch) -> None:
    found = [raced(times, seed) for seed in range(30)]
    monkeypatch.setattr("bo_tune.tuning.race.AT_STAKE", 0.0)
    certain = [raced(times, seed) for seed in range(30)]
    took, before = (sum(device.repetitions for _, device in each) for each in (found, certain))
    assert took <= 0.6 * before
    lost, least = (sum(loss for loss, _ in each) / 30 for each in (found, certain))
    assert lost <= least + 0.0015


def test_a_default_that_is_worth_leaving_is_raced_until_it_is_beaten() -> None:
    for seed in range(20):
        device = Noisy({config_key(DEFAULT): 10.0, KEYS[6]: 9.85}, seed)
        race = Race(device, PROBLEM, Finalists(), [config_key(DEFAULT), KEYS[6]], config_key(DEFAULT))
        race.run()
        times, beaten = race.times_us, race.beats(KEYS[6], config_key(DEFAULT))
        assert (
            beaten or times[config_key(DEFAULT)] <= 1.005 * times[KEYS[6]] or sum(n for n, _ in device.batches) == 200
        )


def test_of_what_runs_untuned_the_faster_stays_unless_it_is_beaten() -> None:
    default, rival = config_key(DEFAULT), KEYS[6]
    for seed in range(20):
        device = Noisy({default: 12.0, rival: 10.0, KEYS[7]: 10.0, KEYS[8]: 10.4}, seed)
        measured = {default: 12.0, rival: 10.4, KEYS[7]: 10.0, KEYS[8]: 10.1}
        found = choose(device, PROBLEM, measured, DEFAULT, Finalists(count=2), rivals=[rival, KEYS[9]])
        assert found is not None
        assert rival in found.times_us, "it takes part however slow it seemed"
        assert KEYS[9] not in found.times_us, "one that was never measured does not"
        assert found.default_time_us == pytest.approx(12.0, rel=0.02)
        assert config_key(found.config) == rival
        faster = Noisy({default: 12.0, rival: 10.0, KEYS[7]: 9.5}, seed)
        chosen = choose(faster, PROBLEM, measured | {KEYS[8]: 99.0}, DEFAULT, Finalists(count=1), rivals=[rival])
        assert chosen is not None
        assert config_key(chosen.config) == KEYS[7]
