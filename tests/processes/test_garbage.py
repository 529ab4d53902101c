"""How often objects in cycles are looked for."""

import gc

import pytest

from bo_tune.processes.garbage import garbage_not_sought, garbage_sought_seldom


def test_garbage_is_sought_less_often_while_it_lasts_alone() -> None:
    before = gc.get_threshold()
    with garbage_sought_seldom():
        assert gc.get_threshold()[0] > 10 * before[0]
        assert gc.isenabled()
    assert gc.get_threshold() == before
    with pytest.raises(KeyError), garbage_sought_seldom():
        raise KeyError
    assert gc.get_threshold() == before


def test_garbage_is_not_sought_while_it_lasts_alone() -> None:
    assert gc.isenabled()
    with garbage_not_sought(), garbage_not_sought():
        assert not gc.isenabled()
    assert gc.isenabled()
    with pytest.raises(KeyError), garbage_not_sought():
        raise KeyError
    assert gc.isenabled()
