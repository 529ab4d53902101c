"""One shrink for engines of one stream and of two."""

from collections import Counter
from dataclasses import replace

from helpers import BARE_US, FakeDevice

from bo_tune.core.choices import MEMORY
from bo_tune.core.outcome import Invalid, InvalidReason
from bo_tune.core.problem import LoraProblem
from bo_tune.core.space import Config, SearchSpace, config_key
from bo_tune.core.surroundings import Linear
from bo_tune.kernels.registry import kernel_spec
from bo_tune.measure.device import Remeasured
from bo_tune.measure.devices import job_of
from bo_tune.session.session import Session, SessionSettings
from bo_tune.store.storage import StudyStore
from bo_tune.tuning.both_streams import ROUNDS, Compromise, compromise, finalists_of, layer_us

ONE, TWO = Linear(4096, (4096,)), Linear(4096, (4096,), adds=False)
PROBLEM = LoraProblem("lora_shrink", 4, 1, 16, 4096, 16)
DEFAULT = kernel_spec("lora_shrink").default_config(PROBLEM)
SPACE = SearchSpace.of({**{name: (value,) for name, value in DEFAULT.items()}, "split_k": (1, 2, 4, 64)})


def with_split(split_k: int) -> dict[str, int]:
    return {**DEFAULT, "split_k": split_k}


def key(split_k: int) -> tuple[tuple[str, int], ...]:
    return config_key(with_split(split_k))


def device(in_place: dict[int, float]) -> FakeDevice:
    def added(config: Config) -> float:
        return in_place[config["split_k"]]

    return FakeDevice(lambda config: 5.0 + config.get("split_k", 0) / 100, SPACE, times_in_place=True, in_place=added)


def chosen(one: dict[int, float], two: dict[int, float]) -> Compromise | None:
    """What is chosen of configs by split_k, the default's is 64, with the same time in every round."""
    ways = ({key(split_k): (time_us,) * ROUNDS for split_k, time_us in way.items()} for way in (one, two))
    return compromise(*ways, DEFAULT, 0.95)


def test_the_least_sum_of_both_ways_decides() -> None:
    found = chosen({1: 4.0, 2: 5.0, 4: 9.0}, {1: 8.0, 2: 5.0, 4: 4.0, 64: 3.0})
    assert found is not None
    assert found.config == with_split(2)
    assert (found.loss_one_us, found.loss_two_us) == (1.0, 2.0), "over the least of each way, asked or not"


def test_the_default_stays_unless_it_is_beaten() -> None:
    found = chosen({2: 5.0, 64: 6.0}, {2: 5.0, 64: 5.0})
    assert found is not None
    assert found.config == with_split(2)
    noisy = tuple(6.0 + (-1) ** n for n in range(ROUNDS))
    same = compromise(
        {key(2): noisy, key(64): (6.0,) * ROUNDS}, {key(2): (5.0,) * ROUNDS, key(64): (5.0,) * ROUNDS}, DEFAULT, 0.95
    )
    assert same is not None
    assert same.config == DEFAULT, "in every other round it is the faster"


def test_what_was_timed_one_way_alone_cannot_be_chosen() -> None:
    assert chosen({1: 4.0}, {2: 5.0}) is None


def test_finalists_of_both_ways_are_timed_once_each_in_the_layer() -> None:
    results = []
    for linear, in_place in ((ONE, {1: 1.0, 2: 2.0, 4: 3.0, 64: 4.0}), (TWO, {1: 4.0, 2: 3.0, 4: 2.0, 64: 1.0})):
        session = Session(StudyStore(MEMORY), SessionSettings("random", None))
        (tuned,) = session.run([job_of(PROBLEM, device(in_place), layer=linear)])
        results.append(tuned.result)
    configs = finalists_of([result for result in results if result is not None])
    assert len({config_key(config) for config in configs}) == len(configs) == 4
    on = device({1: 1.0, 2: 2.0, 4: 3.0, 64: 4.0})
    expected = {
        key(split_k): (BARE_US + added,) * ROUNDS for split_k, added in ((1, 1.0), (2, 2.0), (4, 3.0), (64, 4.0))
    }
    assert layer_us(on, PROBLEM, TWO, configs) == expected
    ((around, timed),) = on.placed
    assert around.layer == TWO
    assert timed == [dict(config) for config in configs]
    assert all(config in on.compiled for config in timed), "the other way's binaries are not this one's"
    assert finalists_of([replace(result, in_place=None) for result in results if result is not None]) == []


def test_a_config_that_is_wrong_there_or_does_not_compile_has_no_times() -> None:
    class Wrong(FakeDevice):
        def remeasure_in_place(self, *arguments: object) -> Remeasured:  # type: ignore[override]
            (_, choices, rounds, _) = arguments
            assert isinstance(choices, list)
            assert isinstance(rounds, int)
            times = [() if config["split_k"] == 1 else (22.0,) * rounds for (config,) in choices]
            return Remeasured(times, Counter(), (20.0,) * rounds)

    def alone(config: Config) -> float | Invalid:
        return Invalid(InvalidReason.COMPILE_ERROR) if config.get("split_k") == 4 else 5.0

    on = Wrong(alone, SPACE, times_in_place=True)
    assert layer_us(on, PROBLEM, ONE, [with_split(n) for n in (1, 2, 4)]) == {key(2): (22.0,) * ROUNDS}
