"""How one config is timed: how many repetitions, and when it is given up."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bo_tune.measure.protocol import TimingProtocol, fastest, take_repetitions
from bo_tune.outcome import estimate_us

TIMES = st.lists(st.floats(0.5, 1e4), min_size=30, max_size=30)


@given(TIMES, st.integers(1, 12), st.integers(1, 20), st.none() | st.floats(0.5, 1e4))
def test_repetitions_end_early_only_where_even_the_fastest_is_clearly_slow(
    times: list[float], first: int, repetitions: int, incumbent: float | None
) -> None:
    protocol = TimingProtocol(first=first, repetitions=repetitions)
    drawn: list[int] = []

    def draw(count: int) -> list[float]:
        begin = sum(drawn)
        drawn.append(count)
        return times[begin : begin + count]

    taken = take_repetitions(draw, protocol, incumbent)
    assert list(taken.runtimes_us) == times[: sum(drawn)]
    least = min(first, repetitions)
    slow = incumbent is not None and min(times[:least]) > protocol.slow_factor * incumbent
    assert taken.stopped == slow
    assert len(taken.runtimes_us) == (least if slow else repetitions)


@pytest.mark.parametrize(
    ("times", "index"), [([[5.0, 5.1], [4.0, 9.0], [4.5, 4.5]], 1), ([[3.0], [3.0]], 0), ([[1.0]], 0)]
)
def test_the_fastest_is_the_first_of_the_lowest_estimates(times: list[list[float]], index: int) -> None:
    assert fastest(times) == index
    assert estimate_us(times[index]) == min(map(estimate_us, times))
