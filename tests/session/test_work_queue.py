"""Handing out the work of a session."""

import threading
from collections import Counter
from concurrent.futures import ThreadPoolExecutor

import pytest

from bo_tune.session import work_queue as module
from bo_tune.session.work_queue import Pending


@pytest.fixture(autouse=True)
def _soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "RETRY_S", 0.02)


def test_each_piece_is_handed_out_once_and_in_order() -> None:
    pending = Pending(3, lambda: False)
    assert [pending.take() for _ in range(3)] == [0, 1, 2]
    for _ in range(3):
        pending.done()
    assert pending.take() is None
    assert pending.left == 0


def test_it_may_begin_anywhere() -> None:
    pending = Pending(4, lambda: False, first=3)
    assert [pending.take() for _ in range(4)] == [3, 0, 1, 2]


def test_what_is_put_back_comes_after_the_rest() -> None:
    pending = Pending(2, lambda: False)
    assert pending.take() == 0
    pending.put_back(0)
    assert pending.take() == 1
    pending.done()
    assert pending.take() == 0
    assert pending.left == 1


def test_who_waits_gets_what_another_puts_back() -> None:
    pending = Pending(1, lambda: False)
    assert pending.take() == 0
    with ThreadPoolExecutor(1) as threads:
        waiting = threads.submit(pending.take)
        pending.put_back(0)
        assert waiting.result(5) == 0


def test_once_stopped_nothing_is_handed_out() -> None:
    stop = threading.Event()
    pending = Pending(2, stop.is_set)
    assert pending.take() == 0
    pending.put_back(0)
    stop.set()
    assert pending.take() is None
    assert pending.left == 2


def test_threads_that_put_back_do_all_in_the_end() -> None:
    pending, done, tries = Pending(20, lambda: False), Counter[int](), Counter[int]()

    def work() -> None:
        while (piece := pending.take()) is not None:
            tries[piece] += 1
            if tries[piece] < 3:
                pending.put_back(piece)
            else:
                done[piece] += 1
                pending.done()

    with ThreadPoolExecutor(4) as threads:
        for future in [threads.submit(work) for _ in range(4)]:
            future.result(30)
    assert done == Counter(range(20))
