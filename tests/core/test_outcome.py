"""The estimate of a time from noisy repetitions, and what outcomes hold."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bo_tune.core.outcome import Invalid, InvalidReason, LaunchPurpose, Measurement, estimate_us

TIMES = st.floats(0.5, 1e6, allow_nan=False)


@given(st.lists(TIMES, min_size=1, max_size=40))
def test_the_estimate_lies_within_the_repetitions(runtimes: list[float]) -> None:
    assert min(runtimes) <= estimate_us(runtimes) <= max(runtimes)


@given(st.lists(TIMES, min_size=1, max_size=40), st.randoms(use_true_random=False))
def test_the_estimate_does_not_depend_on_the_order(runtimes: list[float], random: "object") -> None:
    shuffled = list(runtimes)
    random.shuffle(shuffled)  # type: ignore[attr-defined]
    assert estimate_us(shuffled) == estimate_us(runtimes)


@given(TIMES, st.integers(6, 20), st.lists(st.floats(2, 100), max_size=6))
def test_late_launches_do_not_move_it(time_us: float, count: int, delays: list[float]) -> None:
    late = [time_us * delay for delay in delays]
    assert estimate_us([time_us] * count + late) == pytest.approx(time_us)


@given(TIMES)
def test_equal_repetitions_give_their_time(time_us: float) -> None:
    assert Measurement((time_us,) * 3).time_us == pytest.approx(time_us)


def test_nothing_measured_is_no_time() -> None:
    with pytest.raises(ValueError, match="no repetitions"):
        estimate_us(())


def test_an_invalid_config_has_no_time() -> None:
    assert not hasattr(Invalid(InvalidReason.HANG), "time_us")


def test_launch_counts_are_not_shared() -> None:
    one, other = Measurement((1.0,)), Measurement((1.0,))
    one.launches[LaunchPurpose.TIMING] += 1
    assert not other.launches
