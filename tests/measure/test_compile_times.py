"""What is known of compiles to come, from those that were made; on the times of recorded grids."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bo_tune.core.outcome import InvalidReason
from bo_tune.formats.recording import Recording, read_recording
from bo_tune.measure.compile.times import MOST_SLOWNESS, CompileTimes

CONFIG = {"block_m": 16, "num_warps": 4}
RECORDINGS = [
    "h100.lora_shrink.L4.s1.m16.k4096.n16.t4.json.gz",
    "h100.lora_expand.L4.s3.m4096.k64.n4096.t4.json.gz",
]


@given(st.lists(st.floats(0.01, 100.0), max_size=60), st.floats(0.5, 20.0))
def test_a_deadline_adapts_within_its_bounds(seconds: list[float], most_s: float) -> None:
    times = CompileTimes(most_s)
    assert times.deadline_s("a") == most_s
    for took in seconds:
        times.learn("a", CONFIG, took)
        assert min(2.0, most_s) <= times.deadline_s("a") <= most_s
    if len(seconds) < CompileTimes.KNOWN:
        assert times.deadline_s("a") == most_s


def test_a_deadline_follows_what_compiles_take() -> None:
    times = CompileTimes(60.0, least_s=3.0)
    for _ in range(CompileTimes.KNOWN):
        times.learn("a", CONFIG, 1.0)
    assert times.deadline_s("a") == CompileTimes.FACTOR
    assert times.deadline_s("another kernel") == 60.0
    assert times.deadline_s("fused_experts") == 120.0, "of two binaries"
    for _ in range(CompileTimes.KNOWN):
        times.learn("fused_experts", CONFIG, 0.1)
    assert times.deadline_s("fused_experts") == 6.0


def test_a_timeout_shortens_no_deadline() -> None:
    times = CompileTimes(60.0)
    for _ in range(CompileTimes.KNOWN):
        times.learn("a", CONFIG, 1.0)
    before = times.deadline_s("a")
    for _ in range(10 * CompileTimes.KNOWN):
        times.learn_timeout("a", CONFIG, before)
    assert times.deadline_s("a") == before


@pytest.mark.parametrize("name", RECORDINGS)
def test_slow_compiles_of_a_recorded_grid_are_foreseen(name: str) -> None:
    recording = read_recording(Path("studies/recordings", name))
    configs = recording.configs()
    times = CompileTimes(8.0)
    slowness = times.slowness(recording.problem.kernel, configs)
    assert slowness().tolist() == [1.0] * len(configs), "nothing is known yet"
    rng = np.random.default_rng(0)
    for index in rng.choice(len(configs), 64, replace=False):
        _learn(times, recording, configs[index])
    told = slowness()
    too_long = np.array([_timed_out(recording, config) for config in configs])
    assert np.mean(told[too_long] > 2.0) > 0.9
    assert np.mean(told[~too_long] > 2.0) < 0.2
    assert told.min() == 1.0


@given(
    st.lists(st.tuples(st.integers(-4, 2**20), st.integers(0, 64), st.floats(0.0, 1e4)), min_size=1, max_size=80),
)
def test_slowness_stays_within_its_bounds_whatever_was_seen(seen: Sequence[tuple[int, int, float]]) -> None:
    times = CompileTimes(8.0)
    configs = [{"block": block, "flag": flag} for block, flag, _ in seen]
    slowness = times.slowness("a", configs)
    for config, (*_, seconds) in zip(configs, seen, strict=True):
        times.learn("a", config, seconds)
    told = slowness()
    assert told.shape == (len(seen),)
    assert np.all((told >= 1.0) & (told <= MOST_SLOWNESS))


def _learn(times: CompileTimes, recording: Recording, config: dict[str, int]) -> None:
    entry = recording.entry(config)
    assert entry is not None
    learn = times.learn_timeout if _timed_out(recording, config) else times.learn
    learn(recording.problem.kernel, config, entry.compile_s)


def _timed_out(recording: Recording, config: dict[str, int]) -> bool:
    entry = recording.entry(config)
    return entry is not None and entry.reason is InvalidReason.COMPILE_TIMEOUT
