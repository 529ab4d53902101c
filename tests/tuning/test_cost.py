"""What trying a config costs: it follows what the compilers are doing."""

from collections.abc import Callable
from unittest.mock import Mock

import numpy as np
import pytest

from bo_tune.core.activity import DeviceActivity, FarmActivity
from bo_tune.core.problem import LoraProblem
from bo_tune.measure.device import Device
from bo_tune.tuning.cost import COMPILED_WHERE_BUSY, COMPILED_WHERE_IDLE, SLOW, compiler_load, cost, cost_of_compiled

PROBLEM = LoraProblem("lora_shrink", 4, 1, 64, 4096, 16)
CONFIGS = [{"block_m": size} for size in (16, 32, 64, 128)]
WORKERS = 4


def compilers(farm: FarmActivity | None) -> Mock:
    """Return a device of which only what its compilers do is told."""
    return Mock(spec=Device, activity=DeviceActivity(farm))


def clock(*readings: float) -> Callable[[], float]:
    passing = iter(readings)
    return lambda: next(passing)


def test_compiling_is_cheaper_where_compilers_idle() -> None:
    assert cost_of_compiled(0.0) == pytest.approx(COMPILED_WHERE_IDLE)
    assert cost_of_compiled(1.0) == pytest.approx(COMPILED_WHERE_BUSY)
    assert COMPILED_WHERE_BUSY < cost_of_compiled(0.5) < COMPILED_WHERE_IDLE < 1.0


def test_the_load_is_what_they_worked_since_the_study_began() -> None:
    device = compilers(FarmActivity(WORKERS, busy_s=100.0))
    load = compiler_load(device, clock(10.0, 10.0, 20.0, 20.0))
    assert load() == 0.0
    device.activity = DeviceActivity(FarmActivity(WORKERS, busy_s=110.0))
    assert load() == pytest.approx(10.0 / (WORKERS * 10.0))
    device.activity = DeviceActivity(FarmActivity(WORKERS, busy_s=1000.0))  # long compiles, begun before
    assert load() == 1.0


def test_compilers_are_short_where_a_compile_waits_for_one() -> None:
    device = compilers(FarmActivity(WORKERS))
    load = compiler_load(device, clock(0.0, 100.0))
    device.activity = DeviceActivity(FarmActivity(WORKERS, waiting=1))
    assert load() == 1.0


def test_a_device_that_compiles_nothing_counts_as_busy() -> None:
    assert compiler_load(compilers(None))() == 1.0


def test_costs_follow_binaries_and_load() -> None:
    device = compilers(FarmActivity(WORKERS, waiting=1))
    there = np.array([True, False, False, False])
    device.binaries.return_value = lambda: there
    device.slowness.return_value = lambda: np.array([9.0, 1.0, 1.0, 1.0])
    of = cost(device, PROBLEM, CONFIGS)
    assert of(np.array([0, 1, 3])) == pytest.approx([COMPILED_WHERE_BUSY, 1.0, 1.0])
    there[3], device.activity = True, DeviceActivity(FarmActivity(WORKERS))
    assert of(np.array([0, 1, 3])) == pytest.approx([COMPILED_WHERE_IDLE, 1.0, COMPILED_WHERE_IDLE])


def test_a_slow_compile_costs_in_proportion_until_its_binary_exists() -> None:
    device = compilers(FarmActivity(WORKERS, waiting=1))
    there, slowness = np.zeros(4, dtype=bool), np.array([1.0, SLOW, 2.5 * SLOW, 10.0 * SLOW])
    device.binaries.return_value, device.slowness.return_value = lambda: there, lambda: slowness
    of = cost(device, PROBLEM, CONFIGS)
    assert of(np.arange(4)) == pytest.approx([1.0, 1.0, 2.5, 10.0])
    there[3] = True
    assert of(np.arange(4)) == pytest.approx([1.0, 1.0, 2.5, COMPILED_WHERE_BUSY])
