"""Experts' kernels race together in their layer, and what won there is what all of them end with."""

import json

import pytest
from helpers import BARE_US, FakeDevice
from hypothesis import given
from hypothesis import strategies as st

from bo_tune.core.choices import MEMORY
from bo_tune.core.conclusion import SHARED, Agreement, LayerTimes
from bo_tune.core.problem import Experts, Problem
from bo_tune.core.space import Config, SearchSpace, config_key
from bo_tune.core.surroundings import Batch, Mixture
from bo_tune.errors import DeviceError
from bo_tune.kernels.spec import AnySpec
from bo_tune.measure.device import Remeasured
from bo_tune.measure.devices import job_of
from bo_tune.session.session import Session, SessionSettings, Tuned
from bo_tune.store.storage import StudyStore
from bo_tune.tuning.joint.in_place import Together, race_layer
from bo_tune.tuning.settings import Finalists

MIXTURE = Mixture(2048, 1536, 768, Experts(128, 8))
PROBLEMS = MIXTURE.kernels(Batch(4, 16, 256))
SPACE = SearchSpace.of({
    "block_m": (16, 32, 64, 128), "block_n": (16,), "block_k": (32,), "group_size_m": (8,), "num_warps": (4, 8),
    "num_stages": (2, 3), "split_k": (1,),
})  # fmt: skip
CONFIGS = [dict(config) for config in SPACE]
DEFAULT = {**CONFIGS[0], "block_m": 64}
ALONE = {16: 5.0, 32: 5.1, 64: 5.2, 128: 9.0}
THERE = {16: 3.0, 32: 2.0, 64: 2.5, 128: 0.1}


def alone(config: Config) -> float:
    return ALONE[config["block_m"]] + 0.01 * config["num_warps"]


def in_place(config: Config) -> float:
    return THERE[config["block_m"]] + 0.1 * (config["num_stages"] == 2) + 0.2 * (config["num_warps"] == 4)


class OneGrid(FakeDevice):
    """A device on which all four kernels have the same grid, but for split_k, and the same default."""

    def default_config(self, spec: AnySpec, problem: Problem) -> dict[str, int]:
        return {name: DEFAULT[name] for name in spec.search_space.names}

    def search_space(self, spec: AnySpec, problem: Problem) -> SearchSpace:
        return SearchSpace.of({name: SPACE.ranges[name] for name in spec.search_space.names})

    def kernel_source(self, kernel: str) -> str:
        return "fake"


def device(**more: object) -> FakeDevice:
    return OneGrid(times=alone, space=SPACE, in_place=in_place, **{"times_in_place": True, **more})  # type: ignore[arg-type]


def tuned(on: FakeDevice, layer: Mixture | None = MIXTURE, store: StudyStore | None = None) -> list[Tuned]:
    session = Session(store or StudyStore(MEMORY), SessionSettings("random", None))
    return session.run([job_of(problem, on, layer=layer) for problem in PROBLEMS])


def test_the_layer_decides_for_all_of_its_kernels() -> None:
    store = StudyStore(MEMORY)
    results = [one.result for one in tuned(device(), store=store)]
    assert all(result is not None for result in results)
    chosen = [result.config for result in results if result]
    assert {config["block_m"] for config in chosen} == {32}, "128 is better there, and too far behind alone to be asked"
    assert {(config["num_warps"], config["num_stages"]) for config in chosen} == {(8, 3)}, "of each kernel the best"
    joint = results[0].joint if results[0] else None
    assert joint is not None
    assert joint.in_place == LayerTimes(BARE_US, pytest.approx(BARE_US + 4 * 2.0), pytest.approx(BARE_US + 4 * 2.8))
    assert joint.time_us == pytest.approx(4 * (5.1 + 0.08)), "times stay those alone, which others are compared with"
    assert Agreement.from_json(json.loads(json.dumps(joint.to_json()))) == joint
    again = tuned(device(), store=store)
    assert all(one.kept for one in again)
    assert [one.result for one in again] == results


def test_it_is_timed_alone_where_nothing_can_be_timed_there_and_where_the_layer_is_not_asked_for() -> None:
    class Lost(OneGrid):
        def remeasure_in_place(self, *arguments: object) -> Remeasured:
            raise DeviceError("lost")

    class Short(OneGrid):
        def remeasure_in_place(self, *arguments: object) -> Remeasured:
            answer = super().remeasure_in_place(*arguments)  # type: ignore[arg-type]
            return Remeasured([() for _ in answer.runtimes_us], answer.launches)

    made = [kind(alone, SPACE, in_place=in_place, times_in_place=True) for kind in (Lost, Short)]
    for on, layer in (
        (made[0], MIXTURE),
        (made[1], MIXTURE),
        (device(), None),
        (device(times_in_place=False), MIXTURE),
    ):
        results = [one.result for one in tuned(on, layer)]
        assert {result.config["block_m"] for result in results if result} == {16}
        assert all(result is not None and result.joint and result.joint.in_place is None for result in results)


def test_launches_there_are_counted() -> None:
    on = device()
    results = [one.result for one in tuned(on) if one.result]
    placed = sum(len(configs) for _, configs in on.placed)
    there = sum(result.costs.launches_by_purpose["finalists"] for result in results)
    assert there > 3 * placed


def test_the_defaults_stay_unless_they_are_beaten() -> None:
    on = FakeDevice(alone, SPACE, in_place=lambda config: 2.0, times_in_place=True)
    measured = [{config_key(config): alone(config) for config in CONFIGS} for _ in PROBLEMS]
    found, launches = race_layer(on, PROBLEMS, MIXTURE, measured, (config_key(DEFAULT),) * 4, Finalists())
    assert found is not None
    assert found[0] == (config_key(DEFAULT),) * 4
    assert found[1] == LayerTimes(BARE_US, BARE_US + 8.0, BARE_US + 8.0)
    assert launches.total() > 0


CONFIG = st.builds(dict, **{name: st.integers(1, 512) for name in SPACE.names})


@given(st.lists(CONFIG, min_size=4, max_size=4))
def test_a_choice_survives_being_one_config(configs: list[dict[str, int]]) -> None:
    together, keys = Together(PROBLEMS), tuple(map(config_key, configs))
    assert together.keys(together.joined(keys)) == keys
    assert together.split(dict(together.joined(keys))) == [dict(key) for key in keys]


TIMES = st.lists(st.sampled_from([1.0, 1.1, 1.2, 2.0]), min_size=len(CONFIGS), max_size=len(CONFIGS))


@given(st.lists(TIMES, min_size=4, max_size=4), TIMES)
def test_whatever_the_times_one_value_is_agreed_on(times: list[list[float]], there: list[float]) -> None:
    added = {config_key(config): us for config, us in zip(CONFIGS, there, strict=True)}
    on = FakeDevice(alone, SPACE, in_place=lambda config: added[config_key(config)], times_in_place=True)
    measured = [{config_key(config): us for config, us in zip(CONFIGS, one, strict=True)} for one in times]
    default = config_key(CONFIGS[0])
    found, _ = race_layer(on, PROBLEMS, MIXTURE, measured, (default,) * 4, Finalists())
    assert found is not None
    keys, layer = found
    assert len({dict(key)[SHARED] for key in keys}) == 1
    assert layer.time_us == pytest.approx(BARE_US + sum(added[key] for key in keys))
    assert layer.default_time_us is not None
    assert layer.time_us <= layer.default_time_us
