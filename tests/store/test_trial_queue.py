"""Trials on their way into the database: in order, in batches, never far behind, and told only once stored."""

import threading
import time
from collections.abc import Sequence

import optuna
import pytest
from optuna.trial import FrozenTrial

from bo_tune.errors import LeaseLostError, StorageError
from bo_tune.store.rows import trial_queue
from bo_tune.store.rows.trial_queue import TrialQueue, Writer, Written

ONE, OTHER = (1, 7), (2, 8)


def trial(value: float) -> FrozenTrial:
    return optuna.trial.create_trial(value=value)


class Database:
    """Takes batches when it is let."""

    def __init__(self) -> None:
        self.open = threading.Event()
        self.batches: list[list[float | None]] = []
        self.lost: set[Writer] = set()

    def store(self, trials: Sequence[Written]) -> set[Writer]:
        assert self.open.wait(30)
        self.batches.append([t.value for writer, t in trials if writer not in self.lost])
        return self.lost


def test_what_comes_while_it_stores_is_stored_together_and_told_in_order(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trial_queue, "GATHERED_S", 0.0)
    database, told = Database(), []
    queue = TrialQueue(database.store)
    queue.put(ONE, trial(0.0), lambda: told.append(0))
    time.sleep(0.05)
    for number in range(1, 6):
        queue.put(ONE, trial(float(number)), lambda number=number: told.append(number))  # type: ignore[misc]
    assert told == []
    database.open.set()
    queue.flush()
    assert database.batches == [[0.0], [1.0, 2.0, 3.0, 4.0, 5.0]]
    assert told == [0, 1, 2, 3, 4, 5]
    assert queue.busy_s > 0
    queue.close()


def test_what_comes_in_a_moment_is_stored_together(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trial_queue, "GATHERED_S", 1.0)
    database, told = Database(), threading.Event()
    database.open.set()
    queue = TrialQueue(database.store)
    for number in range(4):
        queue.put(ONE, trial(float(number)), told.set if number == 3 else lambda: None)
        time.sleep(0.01)
    assert told.wait(30), "nobody waits for them, and they are stored all the same"
    first, *others = database.batches
    assert first[0] == 0.0, "the first is stored at once"
    assert len(others) == 1, "and those that come soon after it together"
    assert [*first, *others[0]] == [0.0, 1.0, 2.0, 3.0]
    queue.close()


def test_who_waits_is_not_kept_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trial_queue, "GATHERED_S", 60.0)
    database = Database()
    database.open.set()
    queue = TrialQueue(database.store)
    begun = time.monotonic()
    for value in (0.0, 1.0):
        queue.put(ONE, trial(value), lambda: None)
        queue.flush()
    queue.put(ONE, trial(2.0), lambda: None)
    queue.close()
    assert time.monotonic() - begun < 30
    assert database.batches == [[0.0], [1.0], [2.0]]


def test_who_waits_does_so_for_what_was_given_before_alone() -> None:
    """Dozens of studies bring trials all the time: a study that ends must not wait for the others' to end."""
    database, ended = Database(), threading.Event()
    database.open.set()
    queue = TrialQueue(database.store)

    def others() -> None:
        while not ended.wait(0.002):
            queue.put(OTHER, trial(1.0), lambda: None)

    stream = threading.Thread(target=others)
    stream.start()
    told: list[int] = []
    try:
        for number in range(20):
            queue.put(ONE, trial(0.0), lambda number=number: told.append(number))  # type: ignore[misc]
            queue.flush(ONE)
            assert told[-1] == number
    finally:
        ended.set()
        stream.join()
    queue.close()


def test_who_brings_a_trial_waits_once_the_oldest_has_waited_too_long(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trial_queue, "MOST_BEHIND_S", 0.1)
    monkeypatch.setattr(trial_queue, "GATHERED_S", 0.0)
    database = Database()
    queue = TrialQueue(database.store)
    queue.put(ONE, trial(0.0), lambda: None)
    time.sleep(0.2)
    threading.Timer(0.3, database.open.set).start()
    begun = time.monotonic()
    queue.put(ONE, trial(1.0), lambda: None)
    assert time.monotonic() - begun > 0.2
    queue.close()
    assert database.batches == [[0.0], [1.0]]


def test_what_the_database_raises_reaches_whoever_comes_next() -> None:
    def fail(_: Sequence[Written]) -> set[Writer]:
        raise StorageError("the disk is full")

    queue = TrialQueue(fail)
    queue.put(ONE, trial(0.0), lambda: pytest.fail("told though not stored"))
    for _ in range(2):
        with pytest.raises(StorageError, match="the disk is full"):
            queue.flush()
    with pytest.raises(StorageError, match="the disk is full"):
        queue.put(ONE, trial(1.0), lambda: None)
    queue.close()


def test_a_lost_study_takes_no_trials_and_the_others_go_on() -> None:
    database, told = Database(), []
    database.lost = {ONE}
    database.open.set()
    queue = TrialQueue(database.store)
    queue.put(ONE, trial(0.0), lambda: told.append("one"))
    queue.put(OTHER, trial(1.0), lambda: told.append("other"))
    queue.flush(OTHER)
    assert told == ["other"]
    with pytest.raises(LeaseLostError):
        queue.flush(ONE)
    with pytest.raises(LeaseLostError):
        queue.put(ONE, trial(2.0), lambda: None)
    queue.close()
