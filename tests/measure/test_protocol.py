"""How one config is timed: how many repetitions, and when it is given up."""

from hypothesis import given
from hypothesis import strategies as st

from bo_tune.measure.protocol import TimingProtocol, take_repetitions

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
