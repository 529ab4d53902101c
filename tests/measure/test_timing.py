"""How launches are put in turn, retaken and counted, on a GPU of which only the events are there."""

from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import count

import pytest
import torch

from bo_tune.measure.gpu.timing import MOST_PASSES, MOST_QUEUED, ColdTimer, GraphTimer, Timer, WarmTimer


@dataclass
class FakeGpu:
    """Writes down what is asked of it; says of some launches that they came late."""

    done: list[str] = field(default_factory=list)
    is_late: Callable[[], bool] = lambda: False

    def launch(self, name: str) -> Callable[[], None]:
        return lambda: self.done.append(name)


class Cold(ColdTimer):
    def __init__(self, gpu: FakeGpu) -> None:
        self.gpu = gpu

    def hide(self) -> None:
        self.gpu.done.append("-")


class Warm(WarmTimer):
    def __init__(self, gpu: FakeGpu) -> None:
        self.gpu = gpu

    def hide(self) -> None:
        self.gpu.done.append("-")


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> FakeGpu:
    made = FakeGpu()

    class Event:
        def __init__(self, *, enable_timing: bool) -> None:
            assert enable_timing

        def record(self, stream: object) -> None:
            made.done.append("|")

        def query(self) -> bool:
            return made.is_late()

        def elapsed_time(self, end: object) -> float:
            return 0.007

    monkeypatch.setattr(torch.cuda, "Event", Event)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda: None)
    monkeypatch.setattr(torch.cuda, "synchronize", lambda: None)
    return made


def test_a_launch_alone_is_timed_behind_what_hides_it(gpu: FakeGpu) -> None:
    timed = Cold(gpu).time_in_turn([gpu.launch("a")], 2)
    assert "".join(gpu.done) == "-" + 2 * "-|a|"
    assert timed.runtimes_us == [[pytest.approx(7.0)] * 2]
    assert (timed.launches, timed.late) == (2, 0)


def test_in_turn_each_timed_launch_is_led_by_one_of_the_same_kernel(gpu: FakeGpu) -> None:
    timed = Cold(gpu).time_in_turn([gpu.launch("a"), gpu.launch("b")], 2)
    assert "".join(gpu.done) == "-" + 2 * "a-|a|b-|b|"
    assert [len(runtimes) for runtimes in timed.runtimes_us] == [2, 2]
    assert (timed.launches, timed.late) == (8, 0)


@pytest.mark.parametrize(
    ("kind", "names", "expected"),
    [
        (Cold, "a", "r" + "-" + 2 * "r-|a|"),
        (Cold, "ab", "rr" + "-" + 2 * "rar-|a|rbr-|b|"),
        (Warm, "ab", "rarb" + "-" + 2 * "rar-|a|rbr-|b|"),
    ],
)
def test_what_launches_change_is_brought_back_before_each_and_outside_of_what_is_timed(
    gpu: FakeGpu, kind: Callable[[FakeGpu], Timer], names: str, expected: str
) -> None:
    kind(gpu).time_in_turn([gpu.launch(name) for name in names], 2, gpu.launch("r"))
    assert "".join(gpu.done) == expected


def test_no_more_are_queued_than_ten_before_the_gpu_is_waited_for(
    gpu: FakeGpu, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "synchronize", lambda: gpu.done.append("!"))
    timed = Cold(gpu).time_in_turn([gpu.launch("a")], 2 * MOST_QUEUED + 1)
    whole = "-" + MOST_QUEUED * "-|a|" + "!"
    assert "".join(gpu.done) == 2 * whole + "--|a|!"
    assert (len(timed.runtimes_us[0]), timed.launches) == (21, 21)


@pytest.mark.parametrize("kind", [Cold, Warm])
@pytest.mark.parametrize("kernels", [1, 2, 5])
@pytest.mark.parametrize("every", [1, 2, 3, 7])
def test_every_launch_is_counted_and_late_ones_are_taken_again(
    gpu: FakeGpu, kind: Callable[[FakeGpu], Timer], kernels: int, every: int
) -> None:
    numbers = count(1)
    gpu.is_late = lambda: next(numbers) % every == 0
    timed = kind(gpu).time_in_turn([gpu.launch("x") for _ in range(kernels)], 6)
    assert [len(runtimes) for runtimes in timed.runtimes_us] == [6] * kernels
    assert timed.launches + timed.late == gpu.done.count("x")
    assert timed.late >= 6 * kernels // every
    if every == 1:  # a host that is always late
        assert timed.late == (MOST_PASSES - 1) * 6 * kernels


def test_python_that_takes_longer_than_what_hides_it_is_hidden_longer(gpu: FakeGpu) -> None:
    gpu.is_late = lambda: "----|" not in "".join(gpu.done)
    timed = Cold(gpu).time_in_turn([gpu.launch("a")], 2)
    assert "".join(gpu.done) == "-" + 2 * "-|a|" + 4 * "-" + 2 * (4 * "-" + "|a|")
    assert (timed.launches, timed.late) == (2, 2)


def test_where_few_launches_are_late_they_are_hidden_no_longer(gpu: FakeGpu) -> None:
    numbers = count(1)
    gpu.is_late = lambda: next(numbers) == 1
    timed = Cold(gpu).time_in_turn([gpu.launch("a")], 3)
    assert "".join(gpu.done) == "-" + 3 * "-|a|" + "--|a|"
    assert (timed.launches, timed.late) == (3, 1)


def test_no_launches_take_no_time(gpu: FakeGpu) -> None:
    timed = Cold(gpu).time_in_turn([], 20)
    assert (timed.runtimes_us, timed.launches, timed.late) == ([], 0, 0)


def test_a_graph_of_many_launches_needs_no_lead() -> None:
    assert not GraphTimer.is_led
    assert GraphTimer.launches_before == 1
