"""Exhaustive studies as recordings, and back."""

from collections import Counter
from pathlib import Path

import pytest
from helpers import EXPAND, SHRINK, FakeDevice, sliced

from bo_tune.core.choices import MEMORY
from bo_tune.core.outcome import Invalid, InvalidReason
from bo_tune.core.problem import LoraProblem
from bo_tune.core.space import Config, SearchSpace, config_key
from bo_tune.formats.recording import Recording, read_recording
from bo_tune.kernels.registry import kernel_spec
from bo_tune.measure.devices import Job, job_of, replay_job
from bo_tune.session.exchange import record
from bo_tune.session.session import Session, SessionSettings, Tuned
from bo_tune.store.storage import StudyStore

GRID = SessionSettings(sampler="grid", budget=None)


def grid(job: Job) -> Tuned:
    (tuned,) = Session(StudyStore(MEMORY), GRID).run([job])
    return tuned


def validity(recording: Recording) -> dict[object, bool]:
    return {key: entry.reason is None for key, entry in recording.entries.items()}


@pytest.mark.parametrize("name", [SHRINK, EXPAND])
def test_recording_a_replayed_grid_gives_a_compatible_one(name: str, tmp_path: Path) -> None:
    original = sliced(name)
    first = grid(replay_job(original))
    path = record(first, tmp_path)
    assert path == tmp_path / original.path.name
    again = read_recording(path)
    assert again.configs() == original.configs()
    assert validity(again) == validity(original)
    assert (again.problem, again.gpu, again.kernel_source) == (original.problem, original.gpu, original.kernel_source)
    assert again.default_time_us == pytest.approx(original.default_time_us, rel=0.05)
    for key, entry in again.entries.items():
        old = original.entries[key]
        assert set(entry.runtimes_us) <= set(old.runtimes_us)
        assert len(entry.runtimes_us) == (10 if entry.reason is None else 0)
        if entry.time_us is not None:
            assert min(old.runtimes_us) <= entry.time_us <= max(old.runtimes_us)
        if old.reason is InvalidReason.COMPILE_TIMEOUT:
            assert entry.reason in (old.reason, InvalidReason.CONSTRAINT)
            assert entry.compile_s in (0.0, pytest.approx(old.compile_s, abs=1e-4))
    second = grid(replay_job(again))
    assert again.best == first.result.config  # type: ignore[union-attr]
    assert validity(read_recording(record(second, tmp_path / "second"))) == validity(original)


def test_identical_and_impossible_configs_are_in_the_recording(tmp_path: Path) -> None:
    problem = LoraProblem("lora_shrink", 4, 1, 16, 4096, 16)
    space = kernel_spec("lora_shrink").search_space.override(
        {"block_m": (16, 256), "block_n": (32,), "block_k": (256,), "num_warps": (4,), "split_k": (4, 8)}
    )

    def times(config: Config) -> float | Invalid:
        if config["split_k"] == 8 and config["num_stages"] == 2:
            return Invalid(InvalidReason.WRONG_RESULT, "relative error 1")
        return float(config["block_m"] + config["num_stages"] + config["split_k"])

    def effective(config: Config) -> dict[str, int]:
        return {**config, "num_stages": min(config["num_stages"], 3)}

    tuned = grid(job_of(problem, FakeDevice(times=times, space=space, effective=effective)))
    recording = read_recording(record(tuned, tmp_path))
    assert recording.configs() == list(space)
    for config in space:
        entry, stands_in = recording.entry(config), recording.entry(effective(config))
        assert entry == stands_in
    reasons = Counter(entry.reason for entry in recording.entries.values())
    assert reasons[InvalidReason.WRONG_RESULT] == 1
    assert reasons[InvalidReason.CONSTRAINT] > 0
    assert recording.best_time_us == 16 + 2 + 4
    assert recording.metadata["torch"] == "3.4"
    assert recording.default_time_us == 32 + 2 + 64


def test_a_default_that_does_not_run_has_no_time(tmp_path: Path) -> None:
    problem = LoraProblem("lora_shrink", 4, 1, 16, 4096, 16)
    default = kernel_spec("lora_shrink").default_config(problem)
    space = SearchSpace.of({**{name: (value,) for name, value in default.items()}, "split_k": (4, 8)})
    broken = Invalid(InvalidReason.LAUNCH_ERROR, "illegal address")
    tuned = grid(job_of(problem, FakeDevice(times=lambda c: broken if c == default else 1.0, space=space)))
    recording = read_recording(record(tuned, tmp_path))
    assert recording.default_time_us is None
    assert len(recording.entries) == 2


def test_where_nothing_runs_the_recording_says_why(tmp_path: Path) -> None:
    problem = LoraProblem("lora_shrink", 4, 1, 16, 4096, 16)
    space = SearchSpace.of({**sliced(SHRINK).space.ranges, "block_m": (16,), "block_k": (64,)})
    broken = Invalid(InvalidReason.COMPILE_TIMEOUT, "the compile took longer than 8 s")
    tuned = grid(job_of(problem, FakeDevice(times=lambda config: broken, space=space)))
    recording = read_recording(record(tuned, tmp_path))
    assert tuned.result is None
    assert {entry.reason for entry in recording.entries.values()} == {InvalidReason.COMPILE_TIMEOUT}


def test_configs_that_a_budget_left_untried_are_not_recorded_as_invalid(tmp_path: Path) -> None:
    """A recording holds what was measured: of the others nothing is known."""
    original = sliced(SHRINK)
    session = Session(StudyStore(MEMORY), SessionSettings(sampler="grid", budget=5))
    (tuned,) = session.run([replay_job(original)])
    recording = read_recording(record(tuned, tmp_path))
    spec = kernel_spec("lora_shrink")
    called_invalid = [
        config
        for config in recording.configs()
        if recording.entries[config_key(config)].reason is InvalidReason.CONSTRAINT
        and spec.impossible(config, original.problem, original.gpu) is None
    ]
    assert called_invalid == []


def test_a_range_beyond_the_recorded_one_can_be_recorded(tmp_path: Path) -> None:
    """Configs of the user's range that the replayed recording does not hold have no outcome to record."""
    settings = SessionSettings(sampler="grid", budget=None, spaces={"lora_shrink": {"block_m": (16, 32)}})
    (tuned,) = Session(StudyStore(MEMORY), settings).run([replay_job(sliced(SHRINK))])
    recording = read_recording(record(tuned, tmp_path))
    beyond = {entry.reason for key, entry in recording.entries.items() if dict(key)["block_m"] == 32}
    assert beyond <= {InvalidReason.CONSTRAINT}
    assert len(recording.entries) == len({config_key(config) for config in recording.configs()}) > len(beyond)
