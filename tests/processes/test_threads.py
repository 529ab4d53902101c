"""How threads share the interpreter."""

import sys

import pytest

from bo_tune.processes.threads import SWITCH_INTERVAL_S, turns_taken_fast


def test_threads_give_way_sooner_while_it_lasts_alone() -> None:
    before = sys.getswitchinterval()
    with turns_taken_fast():
        assert sys.getswitchinterval() == pytest.approx(SWITCH_INTERVAL_S, abs=1e-6)
    assert sys.getswitchinterval() == before
    with pytest.raises(KeyError), turns_taken_fast():
        raise KeyError
    assert sys.getswitchinterval() == before
