"""A recorded grid in place of a GPU: what it says is what was recorded, and the same on every run."""

from dataclasses import replace

import numpy as np
import pytest
from helpers import EXPAND, EXPAND_DECODE, SHRINK, bundled, sliced
from hypothesis import given
from hypothesis import strategies as st

from bo_tune.core.outcome import Invalid, InvalidReason, LaunchPurpose, Measurement, estimate_us, on_time
from bo_tune.core.repetitions import TimingProtocol
from bo_tune.core.space import Config, config_key
from bo_tune.formats.recording import Recording
from bo_tune.kernels.registry import kernel_spec
from bo_tune.measure.device import Compiled
from bo_tune.measure.replay import ReplayDevice

RECORDING = sliced(SHRINK)
CONFIGS = RECORDING.configs()
VALID = [config for config in CONFIGS if RECORDING.entries[config_key(config)].reason is None]


def device(recording: Recording = RECORDING, seed: int = 0, protocol: TimingProtocol | None = None) -> ReplayDevice:
    default = kernel_spec(recording.problem.kernel).default_config(recording.problem)
    return ReplayDevice(recording, default, seed=seed, protocol=protocol)


def measure(on: ReplayDevice, config: Config, incumbent: float | None = None) -> Measurement:
    problem = on.recording.problem
    build = on.compile(problem, config).result()
    assert isinstance(build, Compiled)
    outcome = on.measure(problem, config, build, stop_above_us=incumbent)
    assert isinstance(outcome, Measurement)
    return outcome


@given(st.sampled_from(VALID), st.integers(0, 50), st.none() | st.floats(1, 100))
def test_repetitions_are_the_recorded_ones_in_an_order_that_the_seed_gives(
    config: dict[str, int], seed: int, incumbent: float | None
) -> None:
    outcome = measure(device(seed=seed), config, incumbent)
    entry = RECORDING.entries[config_key(config)]
    assert set(outcome.runtimes_us) <= set(entry.runtimes_us)
    assert outcome.launches == {LaunchPurpose.CHECK: 1, LaunchPurpose.TIMING: len(outcome.runtimes_us)}
    assert outcome.stopped == (len(outcome.runtimes_us) == 3)
    assert outcome.compilation.compile_s == entry.compile_s
    assert outcome.resources == entry.resources
    assert outcome == measure(device(seed=seed), config, incumbent)


def test_seeds_draw_differently() -> None:
    drawn = {measure(device(seed=seed), VALID[0]).runtimes_us for seed in range(10)}
    assert len(drawn) > 5


def test_as_many_repetitions_as_asked_for_though_fewer_are_recorded() -> None:
    outcome = measure(device(protocol=TimingProtocol(repetitions=50)), VALID[0])
    assert len(outcome.runtimes_us) == 50


@pytest.mark.parametrize("recording", [RECORDING, sliced(EXPAND)], ids=["shrink", "expand"])
def test_an_invalid_config_has_its_recorded_reason(recording: Recording) -> None:
    on = device(recording)
    for key, entry in recording.entries.items():
        build = on.compile(recording.problem, dict(key)).result()
        if entry.reason is None:
            assert isinstance(build, Compiled)
        else:
            assert isinstance(build, Invalid)
            assert (build.reason, build.detail, build.compilation.compile_s) == (
                entry.reason, entry.detail, entry.compile_s
            )  # fmt: skip


def test_a_config_that_was_not_recorded_is_invalid() -> None:
    build = device().compile(RECORDING.problem, {**VALID[0], "block_m": 32}).result()
    assert isinstance(build, Invalid)
    assert build.reason is InvalidReason.NOT_RECORDED


def test_the_default_off_the_grid_takes_its_recorded_time() -> None:
    on = device()
    default = kernel_spec("lora_shrink").default_config(RECORDING.problem)
    assert default not in RECORDING.space
    outcome = measure(on, default)
    assert set(outcome.runtimes_us) == {RECORDING.default_time_us}
    assert len(outcome.runtimes_us) == 10
    assert set(on.remeasure(RECORDING.problem, [default], 20).runtimes_us[0]) == {RECORDING.default_time_us}


def test_without_a_recorded_time_the_default_is_invalid() -> None:
    on = device(replace(RECORDING, default_time_us=None))
    build = on.compile(RECORDING.problem, kernel_spec("lora_shrink").default_config(RECORDING.problem)).result()
    assert isinstance(build, Invalid)
    assert build.reason is InvalidReason.NOT_RECORDED


def test_a_default_on_the_grid_is_measured_like_any_other() -> None:
    recording = sliced(EXPAND_DECODE, block_m=(16, 64), block_n=(32, 128), block_k=(32,))
    default = kernel_spec("lora_expand").default_config(recording.problem)
    entry = recording.entry(default)
    assert entry is not None
    assert set(measure(device(recording), default).runtimes_us) <= set(entry.runtimes_us)


def test_finalists_are_drawn_anew_each_by_itself() -> None:
    on = device(seed=4)
    alone = [on.remeasure(RECORDING.problem, [config], 20).runtimes_us[0] for config in VALID[:3]]
    assert on.remeasure(RECORDING.problem, VALID[:3], 20).runtimes_us == alone
    assert all(len(times) == 20 for times in alone)


@given(st.sampled_from(VALID), st.integers(0, 50), st.integers(1, 30))
def test_re_measured_repetitions_are_the_recorded_ones_at_the_level_of_the_recorded_time(
    config: dict[str, int], seed: int, rounds: int
) -> None:
    entry = RECORDING.entries[config_key(config)]
    assert entry.time_us is not None
    level = entry.time_us / estimate_us(entry.runtimes_us)
    (times,) = device(seed=seed).remeasure(RECORDING.problem, [config], rounds).runtimes_us
    assert set(times) <= {level * runtime for runtime in entry.runtimes_us}


def test_a_whole_re_measurement_comes_to_the_recorded_time_whatever_the_trial_saw() -> None:
    """The fastest configs were re-measured when they were recorded, some to another level than their first passes."""
    whole = bundled(SHRINK)
    timed = [(estimate_us(e.runtimes_us), dict(key), e) for key, e in whole.entries.items() if e.runtimes_us]
    fastest = sorted(timed, key=lambda found: found[0])[:30]
    on = device(whole)
    for _, config, entry in fastest:
        (times,) = on.remeasure(whole.problem, [config], len(on_time(entry.runtimes_us))).runtimes_us
        assert np.median(times) == pytest.approx(entry.time_us)
    assert max(abs(entry.time_us / raw_us - 1) for raw_us, _, entry in fastest if entry.time_us) > 0.05


def test_rounds_taken_before_are_gone_on_from() -> None:
    on = device(seed=2)
    (whole,) = on.remeasure(RECORDING.problem, VALID[:1], 12).runtimes_us
    (first,), (rest,) = (
        on.remeasure(RECORDING.problem, VALID[:1], n, taken=taken).runtimes_us for n, taken in ((5, 0), (7, 5))
    )
    assert first + rest == whole


def test_it_says_what_measured_it() -> None:
    on = device()
    assert on.gpu.name == "NVIDIA H100 80GB HBM3"
    assert on.kernel_source("lora_shrink") == "vllm 0.33.0"
    assert set(on.provenance) <= {"driver", "torch", "triton"}
    assert on.search_space(kernel_spec("lora_shrink"), RECORDING.problem) == RECORDING.space
    assert on.effective_configs(RECORDING.problem, VALID) == VALID
    on.close()


def test_launches_of_a_re_measurement_are_those_a_gpu_would_have_made() -> None:
    on = device()
    alone = on.remeasure(RECORDING.problem, VALID[:1], 20).launches
    assert alone == {LaunchPurpose.CHECK: 1, LaunchPurpose.FINALISTS: 20}
    together = on.remeasure(RECORDING.problem, VALID[:3], 20).launches
    assert together == {LaunchPurpose.CHECK: 3, LaunchPurpose.FINALISTS: 3 * 2 * 20}
    more = on.remeasure(RECORDING.problem, VALID[:3], 20, taken=20).launches
    assert more == {LaunchPurpose.FINALISTS: 3 * 2 * 20}
