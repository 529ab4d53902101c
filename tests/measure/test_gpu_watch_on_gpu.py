"""What the driver of a real GPU says while this session, and another process, are at work on it."""

import subprocess
import sys
import time
from collections.abc import Iterator
from importlib.util import find_spec

import pytest
import torch

from bo_tune.core.problem import LoraProblem
from bo_tune.kernels.registry import kernel_spec
from bo_tune.measure.backends.nvidia.backend import Nvidia
from bo_tune.measure.backends.nvidia.nvml import NvmlWatch
from bo_tune.measure.device import Compiled
from bo_tune.measure.gpu.device import GpuDevice
from bo_tune.measure.watch.neighbours import AT_WORK, PRESENT

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU"),
    pytest.mark.skipif(find_spec("pynvml") is None, reason="needs nvidia-ml-py"),
]

PROBLEM = LoraProblem("lora_shrink", 4, 1, 256, 4096, 16)
BUSY = """
import torch
a = torch.ones(4096, 4096, device="cuda")
print(1, flush=True)
while True:
    a @ a
    torch.cuda.synchronize()
"""
LONG_S = 60.0
TO_SHOW_S = 2.0
"""Seconds of work after which a driver's figures of the last moments show it."""


@pytest.fixture
def neighbour() -> Iterator[None]:
    """Another process, at work on the GPU."""
    with subprocess.Popen([sys.executable, "-c", BUSY], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        time.sleep(TO_SHOW_S)
        yield
        process.kill()


@pytest.fixture
def device() -> Iterator[GpuDevice]:
    """The GPU, watched."""
    made = GpuDevice(identity=Nvidia().identities()[0], compile_workers=2)
    yield made
    made.close()


def measured(device: GpuDevice, seconds: float) -> set[str]:
    """Measure for a while, and return what disturbed it."""
    config = kernel_spec(PROBLEM.kernel).default_config(PROBLEM)
    build = device.compile(PROBLEM, config).result(LONG_S)
    assert isinstance(build, Compiled)
    assert device.monitor is not None
    found: set[str] = set()
    with device.monitor.noting(found.update):
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            device.measure(PROBLEM, config, build, stop_above_us=None)
    return found


def test_the_gpu_is_the_one_that_cuda_means() -> None:
    properties = torch.cuda.get_device_properties(0)
    assert Nvidia().identities()[0].uuid == str(properties.uuid)
    NvmlWatch(Nvidia().identities()[0]).close()


def test_nothing_disturbs_a_session_that_is_alone(device: GpuDevice) -> None:
    assert device.unwatched is None
    assert device.monitor is not None
    assert device.monitor.busy is None
    assert measured(device, 5.0) == set()
    device.restart_gpu_process()
    assert measured(device, 3.0) == set(), "nor does its own process that was just ended"


def test_another_process_is_noticed_before(neighbour: None, device: GpuDevice) -> None:
    assert device.monitor is not None
    assert "% utilisation: times will be distorted" in str(device.monitor.busy)


def test_another_process_is_noticed_meanwhile(device: GpuDevice, neighbour: None) -> None:
    assert device.monitor is not None
    found = measured(device, 5.0)
    if device.monitor.sees_processes:
        assert found & {AT_WORK, PRESENT}
    else:
        assert device.monitor.blind_spot is not None
