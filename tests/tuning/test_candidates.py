"""Which configs a study may try, and why the others are left out."""

from collections import Counter

import pytest
from helpers import H100, SHRINK, FakeDevice, bundled, sliced
from hypothesis import given
from hypothesis import strategies as st

from bo_tune.core.problem import LoraProblem
from bo_tune.core.space import Config, SearchSpace, config_key
from bo_tune.kernels.registry import kernel_spec
from bo_tune.measure.devices import replay_job
from bo_tune.tuning.candidates import HOPELESS, IDENTICAL, IMPOSSIBLE, candidates

PROBLEM = LoraProblem("lora_shrink", 4, 1, 16, 4096, 16)
SPEC = kernel_spec("lora_shrink")
BASE = {"block_m": (16,), "block_n": (32,), "block_k": (32,), "num_warps": (4,), "split_k": (4,), "num_ctas": (1,)}


def without_stages(config: Config) -> dict[str, int]:
    return {**config, "num_stages": 1}


def test_identical_configs_count_once() -> None:
    space = SearchSpace.of({**BASE, "num_stages": (2, 3, 4, 5)})
    on = FakeDevice(times=lambda config: 1.0, space=space, effective=without_stages)
    found = candidates(SPEC, PROBLEM, space, on, exhaustive=True)
    assert [c["num_stages"] for c in found.configs] == [2]
    assert found.excluded == {IDENTICAL: 3}
    assert set(found.twins.values()) == {config_key(found.configs[0])}
    assert {dict(key)["num_stages"] for key in found.twins} == {3, 4, 5}


@pytest.mark.parametrize("exhaustive", [True, False])
def test_what_cannot_run_is_left_out_and_what_is_not_worth_it_only_of_a_search(exhaustive: bool) -> None:
    recording = bundled(SHRINK)
    on = replay_job(recording).device
    found = candidates(SPEC, PROBLEM, recording.space, on, exhaustive=exhaustive)
    assert (HOPELESS in found.excluded) == (not exhaustive)
    assert found.excluded[IMPOSSIBLE] > 0
    assert len(found) + sum(found.excluded.values()) == len(recording.space)
    for config in recording.space:
        reasons = [SPEC.impossible(config, PROBLEM, H100), None if exhaustive else SPEC.hopeless(config)]
        assert (config in found) == (not any(reasons))


def test_nothing_that_was_measured_is_called_impossible() -> None:
    recording = bundled(SHRINK)
    valid = [dict(key) for key, entry in recording.entries.items() if entry.reason is None]
    assert [c for c in valid if SPEC.impossible(c, PROBLEM, recording.gpu)] == []


@given(
    st.sets(st.sampled_from([2, 3, 4, 5]), min_size=1),
    st.sets(st.sampled_from([16, 64, 128, 256]), min_size=1),
    st.sets(st.sampled_from([32, 128, 256]), min_size=1),
    st.booleans(),
    st.booleans(),
)
def test_every_config_is_a_candidate_or_has_a_reason(
    stages: set[int], block_m: set[int], block_k: set[int], twins: bool, exhaustive: bool
) -> None:
    ranges = {"num_stages": stages, "block_m": block_m, "block_k": block_k, "block_n": {64, 256}}
    space = SearchSpace.of({**BASE, **{name: tuple(sorted(values)) for name, values in ranges.items()}})
    on = FakeDevice(times=lambda config: 1.0, space=space, effective=without_stages if twins else dict)
    found = candidates(SPEC, PROBLEM, space, on, exhaustive=exhaustive)
    assert len(found) + sum(found.excluded.values()) == len(space)
    assert len(found.twins) == Counter(found.excluded)[IDENTICAL]
    assert set(found.twins.values()) <= found.keys
    assert not found.keys & set(found.twins)
    assert len(found.keys) == len(found)
    effective = Counter(config_key(on.effective(c)) for c in found.configs)
    assert max(effective.values(), default=1) == 1
    assert [c for c in found.configs if SPEC.impossible(on.effective(c), PROBLEM, H100)] == []


def test_a_candidate_is_asked_for_by_config() -> None:
    recording = sliced(SHRINK)
    found = candidates(SPEC, PROBLEM, recording.space, replay_job(recording).device, exhaustive=False)
    assert found.configs[0] in found
    assert {**found.configs[0], "block_m": 17} not in found
    assert "block_m" not in found
