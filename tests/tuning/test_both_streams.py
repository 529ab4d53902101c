"""One shrink for engines of one stream and of two."""

from dataclasses import replace

import pytest
from helpers import FakeDevice

from bo_tune.core.choices import MEMORY
from bo_tune.core.problem import LoraProblem
from bo_tune.core.space import Config, SearchSpace, config_key
from bo_tune.core.surroundings import Linear
from bo_tune.kernels.registry import kernel_spec
from bo_tune.measure.device import Remeasured
from bo_tune.measure.devices import job_of
from bo_tune.session.session import Session, SessionSettings
from bo_tune.store.storage import StudyStore
from bo_tune.tuning.both_streams import ROUNDS, added_us, compromise, finalists_of

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


def test_the_sum_of_both_ways_decides() -> None:
    chosen = compromise({key(1): 4.0, key(2): 5.0, key(4): 9.0}, {key(1): 8.0, key(2): 5.0, key(4): 4.0, key(64): 3.0})
    assert chosen is not None
    assert chosen.config == with_split(2)
    assert (chosen.loss_one, chosen.loss_two) == pytest.approx((0.25, 2 / 3)), "over the best of each way, asked or not"


def test_what_was_timed_one_way_alone_cannot_be_chosen() -> None:
    assert compromise({key(1): 4.0}, {key(2): 5.0}) is None


def test_finalists_of_both_ways_are_timed_once_each_in_the_layer() -> None:
    results = []
    for linear, in_place in ((ONE, {1: 1.0, 2: 2.0, 4: 3.0, 64: 4.0}), (TWO, {1: 4.0, 2: 3.0, 4: 2.0, 64: 1.0})):
        session = Session(StudyStore(MEMORY), SessionSettings("random", None))
        (tuned,) = session.run([job_of(PROBLEM, device(in_place), linear=linear)])
        results.append(tuned.result)
    configs = finalists_of([result for result in results if result is not None])
    assert len({config_key(config) for config in configs}) == len(configs) == 4
    on = device({1: 1.0, 2: 2.0, 4: 3.0, 64: 4.0})
    assert added_us(on, PROBLEM, TWO, configs) == pytest.approx({key(1): 1.0, key(2): 2.0, key(4): 3.0, key(64): 4.0})
    ((around, timed),) = on.placed
    assert around.linear == TWO
    assert timed == [dict(config) for config in configs]
    assert all(config in on.compiled for config in timed), "the other way's binaries are not this one's"
    assert finalists_of([replace(result, in_place=None) for result in results if result is not None]) == []


def test_a_config_that_is_wrong_there_and_a_layer_that_cannot_run_have_no_times() -> None:
    class Wrong(FakeDevice):
        bare = (20.0,) * ROUNDS

        def remeasure_in_place(self, *arguments: object) -> Remeasured:  # type: ignore[override]
            return Remeasured([(), (22.0,) * ROUNDS], {}, self.bare)  # type: ignore[arg-type]

    on = Wrong(lambda config: 5.0, SPACE, times_in_place=True)
    assert added_us(on, PROBLEM, ONE, [with_split(1), with_split(2)]) == pytest.approx({key(2): 2.0})
    Wrong.bare = ()
    assert added_us(on, PROBLEM, ONE, [with_split(1), with_split(2)]) == {}
