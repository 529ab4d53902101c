"""How one config is timed: how many repetitions, and when it is given up."""

from hypothesis import given
from hypothesis import strategies as st

from bo_tune.core.outcome import estimate_us
from bo_tune.core.repetitions import TimingProtocol, take_repetitions

TIMES = st.lists(st.floats(0.5, 1e4), min_size=40, max_size=40)


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
    all_of_them = max(least, repetitions)
    suspicious = incumbent is not None and protocol.confirm_factor * estimate_us(times[:all_of_them]) < incumbent
    assert len(taken.runtimes_us) == (least if slow else 2 * all_of_them if suspicious else all_of_them)


def test_what_seems_much_faster_than_the_incumbent_is_timed_again() -> None:
    def timed(time_us: float, incumbent: float | None) -> int:
        return len(take_repetitions(lambda count: [time_us] * count, TimingProtocol(), incumbent).runtimes_us)

    assert timed(10.0, None) == timed(10.0, 10.0) == timed(9.0, 10.0) == TimingProtocol().repetitions
    assert timed(7.9, 10.0) == 2 * TimingProtocol().repetitions
