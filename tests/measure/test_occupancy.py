"""When a GPU counts as held up by the tuner."""

import threading
from contextlib import ExitStack

import pytest

from bo_tune.measure.occupancy import Activity, Occupancy


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.mark.parametrize(
    ("under_way", "held_up"),
    [
        ([], False),
        (["deciding"], True),
        (["deciding", "deciding"], True),
        (["deciding", "measuring"], False),
        (["deciding", "compiling"], True),
        (["deciding", "compiling", "compiling"], False),
        (["measuring"], False),
        (["compiling"], False),
    ],
)
def test_it_is_held_up_where_gpu_and_a_compiler_idle_while_a_study_decides(
    clock: Clock, under_way: list[Activity], held_up: bool
) -> None:
    occupancy = Occupancy(2, clock)
    with ExitStack() as stack:
        for activity in under_way:
            stack.enter_context(occupancy.at(activity))
        clock.now += 3.0
        assert occupancy.held_up_s == (3.0 if held_up else 0.0)
    clock.now += 50.0
    assert occupancy.held_up_s == (3.0 if held_up else 0.0)


def test_only_the_parts_without_work_count(clock: Clock) -> None:
    occupancy = Occupancy(1, clock)
    with occupancy.at("deciding"):
        clock.now += 1.0
        with occupancy.at("measuring"):
            clock.now += 10.0
        clock.now += 2.0
        with occupancy.at("compiling"):
            clock.now += 20.0
    assert occupancy.held_up_s == 3.0


def test_an_error_ends_what_it_was_at(clock: Clock) -> None:
    occupancy = Occupancy(1, clock)
    with pytest.raises(KeyError), occupancy.at("deciding"):
        raise KeyError
    clock.now += 5.0
    assert occupancy.held_up_s == 0.0


def test_many_threads_leave_nobody_behind(clock: Clock) -> None:
    occupancy = Occupancy(1, clock)

    def work() -> None:
        for _ in range(500):
            with occupancy.at("deciding"), occupancy.at("measuring"):
                pass

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    clock.now += 5.0
    assert occupancy.held_up_s == 0.0
