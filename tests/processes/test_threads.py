"""How threads share the interpreter."""

import gc
import sys

import pytest

from bo_tune.processes.threads import SWITCH_INTERVAL_S, garbage_sought_seldom, turns_taken_fast


def test_threads_give_way_sooner_while_it_lasts_alone() -> None:
    before = sys.getswitchinterval()
    with turns_taken_fast():
        assert sys.getswitchinterval() == pytest.approx(SWITCH_INTERVAL_S, abs=1e-6)
    assert sys.getswitchinterval() == before
    with pytest.raises(KeyError), turns_taken_fast():
        raise KeyError
    assert sys.getswitchinterval() == before


def test_garbage_is_sought_less_often_while_it_lasts_alone() -> None:
    before = gc.get_threshold()
    with garbage_sought_seldom():
        assert gc.get_threshold()[0] > 10 * before[0]
        assert gc.isenabled()
    assert gc.get_threshold() == before
    with pytest.raises(KeyError), garbage_sought_seldom():
        raise KeyError
    assert gc.get_threshold() == before
