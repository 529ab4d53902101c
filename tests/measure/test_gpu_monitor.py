"""Watching a GPU before and while something is measured, with a watch that follows a script."""

import threading
from collections.abc import Callable, Collection, Iterator

import pytest
from watches import Scripted, using

from bo_tune.errors import DeviceError
from bo_tune.measure.watch import monitor as gpu_monitor
from bo_tune.measure.watch.monitor import GpuMonitor, monitored
from bo_tune.measure.watch.neighbours import LOST, PRESENT, GpuWatch, Reading, WatchError

OURS, OTHER = 100, 7
LONG_S = 60.0

Monitor = Callable[[Scripted], GpuMonitor]


@pytest.fixture(autouse=True)
def _fast(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpu_monitor, "LOOK_EVERY_S", 0.005)
    monkeypatch.setattr(gpu_monitor, "BETWEEN_LOOKS_S", 0.0)


@pytest.fixture
def monitor() -> Iterator[Monitor]:
    """Makes monitors of a session that has one GPU process; they are closed at the end."""
    made: list[GpuMonitor] = []

    def make(watch: Scripted) -> GpuMonitor:
        made.append(GpuMonitor("GPU 0", watch, lambda: {OURS}, lambda: 1))
        return made[-1]

    yield make
    for one in made:
        one.close()


class Heard:
    """Takes note of what it is told."""

    def __init__(self) -> None:
        self.all: list[frozenset[str]] = []
        self.told = threading.Event()

    def __call__(self, found: Collection[str]) -> None:
        self.all.append(frozenset(found))
        self.told.set()


def test_an_idle_gpu_is_read_once_and_not_busy(monitor: Monitor) -> None:
    watch = Scripted([using()])
    assert monitor(watch).busy is None
    assert watch.reads == 1


def test_a_gpu_that_others_use_is_busy(monitor: Monitor) -> None:
    found = monitor(Scripted([using(OTHER, percent=87)])).busy
    assert found == "GPU 0 is busy: 1 other process, 87 % utilisation: times will be distorted"


def test_a_moments_work_of_what_has_just_ended_is_not(monitor: Monitor) -> None:
    watch = Scripted([using(percent=99), using(percent=50), using(percent=0)])
    assert monitor(watch).busy is None
    assert watch.reads == 3


def test_who_listens_is_told_while_it_happens_and_no_later(monitor: Monitor) -> None:
    watch, heard, after = Scripted([using(), using(OURS)]), Heard(), Heard()
    watched = monitor(watch)
    watched.begin()
    with watched.noting(heard):
        assert not heard.told.wait(0.05)
        watch.says(using(OURS, OTHER))
        assert heard.told.wait(LONG_S)
        watch.says(using(OURS))
    count = len(heard.all)
    assert set(heard.all) == {frozenset({PRESENT})}
    with watched.noting(after):
        pass
    assert after.all == []
    watch.says(using(OURS, OTHER))
    with watched.noting(after):
        assert after.told.wait(LONG_S)
    assert len(heard.all) == count


def test_what_is_measured_between_two_looks_is_looked_at_too(monitor: Monitor, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpu_monitor, "LOOK_EVERY_S", 3600.0)
    watch, heard = Scripted([using(), using(OURS), using(OURS, OTHER)]), Heard()
    watched = monitor(watch)
    watched.begin()
    while watch.reads < 2:
        pass
    with watched.noting(heard):
        pass
    assert heard.all == [frozenset({PRESENT})]


def test_a_driver_that_goes_silent_is_told_once_and_seen_no_more(monitor: Monitor) -> None:
    heard, later = Heard(), Heard()
    watched = monitor(Scripted([using(), None]))
    with watched.noting(heard):
        assert watched.sees_processes
    assert heard.all == [frozenset({LOST})]
    assert not watched.sees_processes
    assert "cannot tell whether others use" in str(watched.blind_spot)
    with watched.noting(later):
        pass
    assert later.all == []


def test_what_would_not_be_noticed_is_said(monitor: Monitor) -> None:
    sees = monitor(Scripted([using(), using(OURS)]))
    hidden = monitor(Scripted([using(), using()]))
    unknown = monitor(Scripted([Reading(utilisation_percent=0)]))
    part = monitor(Scripted([using(), using(OURS)], is_slice=True))
    for one in (sees, hidden, unknown, part):
        with one.noting(lambda found: None):
            pass
    assert (sees.blind_spot, sees.sees_processes) == (None, True)
    assert "does not show its processes" in str(hidden.blind_spot)
    assert (hidden.sees_processes, unknown.sees_processes) == (False, False)
    assert "does not show its processes" in str(unknown.blind_spot)
    assert "MIG instance" in str(part.blind_spot)


def test_closing_ends_the_watch() -> None:
    watch = Scripted([using(), using(OURS)])
    watched = GpuMonitor("GPU 0", watch, lambda: {OURS}, lambda: 1)
    watched.begin()
    watched.close()
    assert watch.closed
    assert not [thread for thread in threading.enumerate() if thread.name == "gpu-monitor"]


def test_a_gpu_that_must_be_idle_is_refused_where_it_is_not() -> None:
    watch = Scripted([using(OTHER, percent=87)])
    ours, most = (lambda: {OURS}), (lambda: 1)

    def none() -> GpuWatch:
        raise WatchError("the driver does not say which GPU it is")

    with pytest.raises(DeviceError, match=r"^--require-idle: GPU 0 is busy: 1 other process, 87 %"):
        monitored("GPU 0", lambda: watch, ours, most, require_idle=True)
    assert watch.closed
    with pytest.raises(
        DeviceError,
        match=r"^--require-idle: bo_tune cannot tell whether others use GPU 0: the "
        r"driver does",
    ):
        monitored("GPU 0", none, ours, most, require_idle=True)
    found, unwatched = monitored("GPU 0", none, ours, most, require_idle=False)
    assert (found, unwatched) == (
        None,
        "bo_tune cannot tell whether others use GPU 0: the driver does not say which GPU it is",
    )
    found, unwatched = monitored("GPU 0", lambda: Scripted([using()]), ours, most, require_idle=True)
    assert found is not None
    assert unwatched is None
    found.close()
