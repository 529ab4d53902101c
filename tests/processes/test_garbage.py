"""How often objects in cycles are looked for."""

import gc

import pytest

from bo_tune.processes.garbage import less_frequent_gc, paused_gc


def test_garbage_is_sought_less_often_while_it_lasts_alone() -> None:
    before = gc.get_threshold()
    with less_frequent_gc():
        assert gc.get_threshold()[0] > 10 * before[0]
        assert gc.isenabled()
    assert gc.get_threshold() == before
    with pytest.raises(KeyError), less_frequent_gc():
        raise KeyError
    assert gc.get_threshold() == before


def test_garbage_is_not_sought_while_it_lasts_alone() -> None:
    assert gc.isenabled()
    with paused_gc(), paused_gc():
        assert not gc.isenabled()
    assert gc.isenabled()
    with pytest.raises(KeyError), paused_gc():
        raise KeyError
    assert gc.isenabled()
