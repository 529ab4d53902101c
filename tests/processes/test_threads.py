"""How threads share the interpreter."""

import sys

import pytest

from bo_tune.processes.threads import SWITCH_INTERVAL_S, short_switch_interval


def test_threads_give_way_sooner_while_it_lasts_alone() -> None:
    before = sys.getswitchinterval()
    with short_switch_interval():
        assert sys.getswitchinterval() == pytest.approx(SWITCH_INTERVAL_S, abs=1e-6)
    assert sys.getswitchinterval() == before
    with pytest.raises(KeyError), short_switch_interval():
        raise KeyError
    assert sys.getswitchinterval() == before
