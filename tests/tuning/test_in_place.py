"""Finalists race where an engine runs them, and what decided is kept with the result."""

import json
from collections.abc import Sequence
from dataclasses import replace

import pytest
from helpers import BARE_US, FakeDevice

from bo_tune.core.choices import MEMORY
from bo_tune.core.outcome import Invalid, InvalidReason
from bo_tune.core.problem import LoraProblem, Problem
from bo_tune.core.space import Config, SearchSpace, config_key
from bo_tune.core.surroundings import Linear, Surroundings
from bo_tune.display.results import mix_lines
from bo_tune.errors import DeviceError
from bo_tune.kernels.registry import kernel_spec
from bo_tune.measure.device import Remeasured
from bo_tune.measure.devices import job_of
from bo_tune.session.session import Session, SessionSettings
from bo_tune.store.results import StudyResult
from bo_tune.store.storage import StudyStore
from bo_tune.tuning.in_place import KEPT, ONE_STREAM, TWO_STREAMS, race_in_place, surroundings_in
from bo_tune.tuning.settings import Finalists

LINEAR = Linear(4096, (4096,))
PROBLEM = LoraProblem("lora_shrink", 4, 1, 16, 4096, 16)
DEFAULT = kernel_spec("lora_shrink").default_config(PROBLEM)
SPACE = SearchSpace.of({**{name: (value,) for name, value in DEFAULT.items()}, "split_k": (1, 2, 4, 8, 16, 64)})
ALONE = {1: 9.0, 2: 5.0, 4: 5.2, 8: 5.25, 16: 5.6, 64: 8.0}
"""Times alone by split_k, in us. The default's is 8 us."""


def alone(config: Config) -> float:
    return ALONE[config.get("split_k", 64)]  # the expand beside it has none


def device(in_place: dict[int, float], **more: object) -> FakeDevice:
    return FakeDevice(
        times=alone, space=SPACE, times_in_place=True, in_place=lambda config: in_place[config["split_k"]], **more
    )  # type: ignore[arg-type]


def tuned(on: FakeDevice, linear: Linear | None = LINEAR, store: StudyStore | None = None):  # type: ignore[no-untyped-def]
    session = Session(store or StudyStore(MEMORY), SessionSettings("random", None))
    (one,) = session.run([job_of(PROBLEM, on, layer=linear)])
    return one


def test_the_layer_decides_between_those_that_come_near() -> None:
    on = device({2: 3.0, 4: 2.5, 8: 2.0, 16: 1.0, 1: 0.5, DEFAULT["split_k"]: 4.0})
    result = tuned(on).result
    assert result.config["split_k"] == 16, "1 is better there, and too far behind alone to be asked"
    assert result.time_us == ALONE[16], "times stay those alone, which others are compared with"
    assert result.in_place.time_us == BARE_US + 1.0
    assert result.in_place.default_time_us == BARE_US + on.in_place(DEFAULT)
    assert result.in_place.bare_us == BARE_US
    assert result.in_place.linear == LINEAR
    timed = {config["split_k"] for _, configs in on.placed for config in configs}
    near = {split for split, time_us in ALONE.items() if time_us <= ONE_STREAM.near * min(ALONE.values())}
    assert timed == near | {DEFAULT["split_k"]}
    assert dict(result.config) in [dict(config) for config, _ in result.finalists]


def test_on_two_streams_the_order_alone_says_less() -> None:
    on = device({2: 3.0, 4: 2.5, 8: 2.0, 16: 1.0, 1: 0.5, 64: 9.0})
    tuned(on, replace(LINEAR, adds=False))
    timed = {config["split_k"] for _, configs in on.placed for config in configs}
    near = {split for split, time_us in ALONE.items() if time_us <= TWO_STREAMS.near * min(ALONE.values())}
    assert timed == near | {64}


def test_most_leave_after_a_few_rounds_and_the_default_never() -> None:
    space = SearchSpace.of({**SPACE.ranges, "split_k": (64,), "num_stages": tuple(range(1, 13))})
    on = FakeDevice(
        times=lambda config: 5.0, space=space, times_in_place=True, in_place=lambda config: float(config["num_stages"])
    )
    measured = {config_key(config): 5.0 + 0.01 * config["num_stages"] for config in space}
    around = Surroundings(LINEAR, {})
    default = {**DEFAULT, "num_stages": 12}
    found, launches = race_in_place(on, PROBLEM, around, measured, default, Finalists())
    (_, first), (_, second), *_ = on.placed
    assert len(first) == ONE_STREAM.count
    assert [config["num_stages"] for config in second] == [*range(1, KEPT + 1), 12]
    assert found is not None
    assert dict(found.winner)["num_stages"] == 1
    assert launches.total() == sum(launches.values()) > len(first)


def test_the_default_stays_unless_it_is_beaten_there() -> None:
    on = device({2: 3.0, 4: 3.0, 8: 3.0, 16: 9.0, 1: 9.0, 64: 9.0} | {DEFAULT["split_k"]: 2.0})
    result = tuned(on).result
    assert result.config == DEFAULT
    assert result.in_place.time_us == result.in_place.default_time_us


def test_without_a_layer_or_a_device_that_has_places_they_race_alone() -> None:
    there = dict.fromkeys(ALONE, 1.0)
    for on, linear in ((device(there), None), (FakeDevice(times=alone, space=SPACE), LINEAR)):
        result = tuned(on, linear).result
        assert result.in_place is None
        assert result.config["split_k"] == 2
        assert not on.placed


def test_a_result_is_that_of_its_layer() -> None:
    on, store = device(dict.fromkeys(ALONE, 1.0) | {4: 0.5}), StudyStore(MEMORY)
    first = tuned(on, store=store)
    assert first.result.asked["in_place"] == {"k": 4096, "widths": [4096], "adds": True}
    races = len(on.placed)
    again = tuned(on, store=store)
    assert (again.kept, len(on.placed)) == (True, races), "nothing was asked otherwise"
    other = tuned(on, None, store)
    assert not other.kept
    assert other.result.config["split_k"] == 2, "alone, from the trials that there are"


def test_a_race_that_times_nothing_there_leaves_the_choice_alone() -> None:
    class Lost(FakeDevice):
        def remeasure_in_place(self, *arguments: object) -> Remeasured:
            answer = super().remeasure_in_place(*arguments)  # type: ignore[arg-type]
            return Remeasured([() for _ in answer.runtimes_us], answer.launches)

    on = Lost(times=alone, space=SPACE, times_in_place=True)
    result = tuned(on).result
    assert (result.in_place, result.config["split_k"]) == (None, 2)


def test_a_layer_that_breaks_the_gpu_process_or_is_not_compiled_leaves_the_choice_alone() -> None:
    class Broken(FakeDevice):
        def remeasure_in_place(self, *arguments: object) -> Remeasured:
            raise DeviceError("lost again")

    def times(config: Config) -> float | Invalid:
        return alone(config) if "split_k" in config else Invalid(InvalidReason.COMPILE_ERROR, "no")

    for on in (Broken(times=alone, space=SPACE, times_in_place=True), device({})):
        if not isinstance(on, Broken):
            on.times = times
        result = tuned(on).result
        assert (result.in_place, result.config["split_k"]) == (None, 2)
        assert not on.placed


def test_the_layers_other_kernel_runs_its_default_config() -> None:
    on = FakeDevice(times=lambda config: 1.0, space=SPACE, times_in_place=True)
    expand = LINEAR.beside(PROBLEM)
    around = surroundings_in(LINEAR, PROBLEM, on)
    assert around.beside == {"lora_expand": kernel_spec("lora_expand").default_config(expand)}
    assert on.compiled == [*around.beside.values()]
    broken = FakeDevice(times=lambda config: Invalid(InvalidReason.COMPILE_ERROR, "no"), space=SPACE)
    with pytest.raises(DeviceError, match="the default config does not compile: no"):
        surroundings_in(LINEAR, PROBLEM, broken)


class OfAdapters(FakeDevice):
    """A GPU whose layer takes a us more for each adapter that a step uses; the mean over a mix."""

    def remeasure_in_place(
        self, problems: Sequence[Problem], choices: Sequence[Sequence[Config]], rounds: int, around: Surroundings
    ) -> Remeasured:
        timed = super().remeasure_in_place(problems, choices, rounds, around)
        more = sum(around.active) / len(around.active)
        return replace(timed, runtimes_us=[tuple(time_us + more for time_us in one) for one in timed.runtimes_us])


def mixed(active: tuple[int, ...]) -> tuple[OfAdapters, StudyResult]:
    added = {2: 3.0, 4: 2.5, 8: 2.0, 16: 1.0, 1: 0.5, 64: 4.0}
    on = OfAdapters(alone, SPACE, times_in_place=True, in_place=lambda config: added[config["split_k"]])
    settings = SessionSettings("random", None, finalists=Finalists(active=active))
    (one,) = Session(StudyStore(MEMORY), settings).run([job_of(PROBLEM, on, layer=LINEAR)])
    assert one.result is not None
    return on, one.result


def test_a_mix_of_adapters_decides_and_each_number_of_them_is_told() -> None:
    on, result = mixed((1, 4))
    assert result.in_place is not None
    assert result.in_place.time_us == BARE_US + 1.0 + 2.5
    told = [(one.adapters, one.time_us - one.bare_us, one.default_time_us) for one in result.in_place.by_active]
    assert told == [(1, 2.0, BARE_US + 5.0), (4, 5.0, BARE_US + 8.0)]
    assert {around.active for around, _ in on.placed} == {(1, 4), (1,), (4,)}
    read = StudyResult.from_json(json.loads(json.dumps(result.to_json()))).in_place
    assert read is not None
    assert list(read.by_active) == list(result.in_place.by_active)
    (line,) = mix_lines([result])
    assert line.endswith("in a step: 1 active: -60.0 %, worst -60.0 %; 4 active: -37.5 %, worst -37.5 %")


def test_one_number_of_adapters_is_no_mix() -> None:
    _, result = mixed((4,))
    assert result.in_place is not None
    assert not result.in_place.by_active
    assert mix_lines([result]) == []


def test_a_mix_is_asked_of_other_workers_and_of_no_study_without_one() -> None:
    plain, mix = SessionSettings(), SessionSettings(finalists=Finalists(active=(1, 4)))
    assert "active" not in plain.asked("lora_shrink")["finalists"], "what was asked before there were mixes is the same"
    for settings in (plain, mix):
        assert SessionSettings.of_job("lora_shrink", settings.job("lora_shrink")).finalists == settings.finalists
    assert mix.asked("lora_shrink") != plain.asked("lora_shrink")
