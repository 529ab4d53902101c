"""What a driver's words mean: who else uses a GPU, told apart from the session's own processes."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from watches import using

from bo_tune.measure.watch.neighbours import AT_WORK, PRESENT, Neighbours, Reading, slowed_text, use_by_others

OURS, OTHER = 100, 7


@pytest.mark.parametrize(
    ("reading", "said"),
    [
        (using(), None),
        (using(percent=4), None),
        (Reading(), None),
        (using(used_bytes=2**29), None),
        (using(OTHER, percent=87), "1 other process, 87 % utilisation: times will be distorted"),
        (using(OTHER, 8, percent=0), "2 other processes, 0 % utilisation: times are distorted while they work"),
        (using(percent=40), "40 % utilisation: times will be distorted"),
        (using(OTHER, percent=None), "1 other process: times are distorted while they work"),
        (
            using(used_bytes=3 * 2**30),
            "3.0 GiB in use by processes that cannot be seen from here, 0 % utilisation: times are distorted "
            "while they work",
        ),
        (using(slowed=("too hot",)), "0 % utilisation, clocks lowered: too hot: times will be distorted"),
    ],
)
def test_use_before_anything_is_measured(reading: Reading, said: str | None) -> None:
    assert use_by_others(reading) == said


def test_processes_of_the_session_are_no_others_even_after_their_end() -> None:
    neighbours = Neighbours(using())
    assert neighbours.others(using(OURS), {OURS}, 1) == 0
    assert neighbours.others(using(OURS, 101), {OURS, 101}, 1) == 0
    assert neighbours.others(using(), {OURS, 101}, 1) == 0, "none is started anew just now"
    assert neighbours.others(using(OTHER), {OURS, 101}, 1) == 1
    assert neighbours.others(using(OTHER, OURS), {OURS, 101}, 1) == 1


def test_a_driver_that_counts_processes_as_its_host_does() -> None:
    neighbours = Neighbours(using(OTHER))
    assert neighbours.others(using(OTHER, 4711), {OURS}, 1) == 1, "4711 may be the session's"
    assert neighbours.others(using(4711), {OURS}, 1) == 0
    assert neighbours.others(using(4711, 4712), {OURS}, 1) == 1
    assert neighbours.others(using(4711, 4712, 4713), {OURS}, 3) == 0, "three may be the session's by now"


def test_a_driver_that_shows_no_processes_tells_nothing() -> None:
    assert Neighbours(using()).others(using(), {OURS}, 1) is None
    assert Neighbours(using()).others(Reading(), {OURS}, 1) is None
    assert Neighbours(using()).disturbances(using(), {OURS}, 1) == frozenset()


def test_others_disturb_while_they_work_where_the_driver_tells_who_works() -> None:
    neighbours = Neighbours(using())
    there = (OURS, OTHER)
    assert neighbours.disturbances(using(*there), {OURS}, 1) == {PRESENT}
    assert neighbours.disturbances(using(*there, working_percent={}), {OURS}, 1) == {PRESENT}, "it may not tell"
    assert neighbours.disturbances(using(*there, working_percent={OURS: 90, OTHER: 0}), {OURS}, 1) == frozenset()
    assert neighbours.disturbances(using(*there, working_percent={OURS: 60, OTHER: 30}), {OURS}, 1) == {AT_WORK}
    assert neighbours.disturbances(using(*there, working_percent={}), {OURS}, 1) == frozenset(), "it does tell"
    assert neighbours.disturbances(using(*there), {OURS}, 1) == {PRESENT}


def test_lowered_clocks_disturb_with_and_without_others() -> None:
    neighbours, hot = Neighbours(using()), slowed_text("too hot")
    assert neighbours.disturbances(using(OURS, slowed=("too hot",)), {OURS}, 1) == {hot}
    assert neighbours.disturbances(using(OURS, OTHER, slowed=("too hot",)), {OURS}, 1) == {hot, PRESENT}


PIDS = st.frozensets(st.integers(1, 12), max_size=5)


@given(before=PIDS, others=PIDS, ours=st.frozensets(st.integers(20, 30), min_size=1, max_size=4))
def test_others_are_counted_exactly_where_processes_have_the_same_numbers(
    before: frozenset[int], others: frozenset[int], ours: frozenset[int]
) -> None:
    neighbours = Neighbours(using(*before))
    assert neighbours.others(using(*others, *ours), ours, 1) == len(others)
    assert neighbours.others(using(*others), ours, 1) == len(others)


@given(before=PIDS, joined=PIDS, ours=st.frozensets(st.integers(20, 30), min_size=1, max_size=4))
def test_where_numbers_differ_the_session_itself_is_never_another(
    before: frozenset[int], joined: frozenset[int], ours: frozenset[int]
) -> None:
    seen = using(*before, *(pid + 50 for pid in (*joined, *ours)))
    assert Neighbours(using(*before)).others(seen, {1000}, len(ours)) == len(before) + len(joined)
