"""The CUDA device around a GPU process that hangs, dies and breaks its context, all without a GPU."""

import os
import signal
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from fake_gpu import GPU as FAKE_GPU

from bo_tune.core.choices import MEMORY
from bo_tune.core.conditions import Conditions
from bo_tune.core.outcome import Compilation, Invalid, InvalidReason, LaunchPurpose, Measurement, Outcome, Resources
from bo_tune.core.problem import GpuInfo, LoraProblem
from bo_tune.errors import DeviceError, UnusableDeviceError
from bo_tune.kernels.registry import kernel_spec
from bo_tune.measure.backends.base import GpuIdentity
from bo_tune.measure.compile.host import CompileHost
from bo_tune.measure.device import Compiled
from bo_tune.measure.devices import job_of
from bo_tune.measure.gpu import device as cuda
from bo_tune.measure.gpu.device import Deadlines, GpuDevice, compile_host
from bo_tune.measure.gpu.owner import GpuOwner, Told
from bo_tune.measure.source import BUILTIN
from bo_tune.session.session import Session, SessionSettings
from bo_tune.store.storage import StudyStore

pytestmark = pytest.mark.slow

PROBLEM = LoraProblem("lora_shrink", 4, 1, 16, 4096, 16)
CONFIG = {
    "block_m": 16, "block_n": 32, "block_k": 64, "num_warps": 4, "num_stages": 2, "split_k": 8, "num_ctas": 1
}  # fmt: skip
BUILD = Compiled(Compilation(1.5), Resources(50_000, 32, 0))
HANGS, DIES, BREAKS = 32, 64, 128
LAUNCHES_EACH = 4
"""Of a measurement of the fake GPU process."""


@pytest.fixture(scope="module")
def host() -> Iterator[CompileHost]:
    """What forks the processes of every test's device."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(Path(__file__).parent))
        patch.setattr(cuda, "GPU_MODULE", "fake_gpu")
        made = compile_host(BUILTIN, Conditions(), 1, Deadlines(), ())
    yield made
    made.close()


@pytest.fixture
def device(host: CompileHost, monkeypatch: pytest.MonkeyPatch) -> Iterator[GpuDevice]:
    """A CUDA device on the fake GPU process."""
    monkeypatch.setattr(cuda, "GPU_MODULE", "fake_gpu")
    made = GpuDevice(host=host, deadlines=Deadlines(prepare_s=8.0, first_s=0.5, measure_s=0.5))
    yield made
    made.close()


def measure(on: GpuDevice, block_m: int, build: Compiled = BUILD, incumbent: float | None = None) -> Outcome:
    return on.measure(PROBLEM, {**CONFIG, "block_m": block_m}, build, stop_above_us=incumbent)


def restarts(of: GpuDevice) -> int:
    gpu = of.activity.gpu
    assert gpu is not None
    return gpu.restarts


def test_it_is_what_the_gpu_process_says(device: GpuDevice) -> None:
    assert device.gpu.name == "NVIDIA Fake 1"
    assert device.provenance["driver"] == "1"
    assert device.kernel_source("lora_shrink").startswith("bo_tune ")
    spec = kernel_spec("lora_shrink")
    assert device.search_space(spec, PROBLEM) == spec.search_space


def test_a_measurement_has_the_cost_of_its_compile_and_the_resources_of_its_binary(device: GpuDevice) -> None:
    outcome = measure(device, 16, incumbent=7.5)
    assert isinstance(outcome, Measurement)
    assert outcome.runtimes_us[1] == 7.5
    assert outcome.compilation == Compilation(1.5)
    assert outcome.resources == BUILD.resources


@pytest.mark.parametrize(
    ("block_m", "reason", "detail"),
    [
        (HANGS, InvalidReason.HANG, "no answer came within 0.5 s"),
        (DIES, InvalidReason.GPU_PROCESS_DIED, "CUDA error: an illegal memory access was encountered"),
        (BREAKS, InvalidReason.LAUNCH_ERROR, "unspecified launch failure"),
    ],
)
def test_a_config_that_breaks_the_process_costs_its_own_trial(
    device: GpuDevice, block_m: int, reason: InvalidReason, detail: str
) -> None:
    before = measure(device, 16)
    outcome = measure(device, block_m)
    assert isinstance(outcome, Invalid)
    assert (outcome.reason, outcome.detail) == (reason, detail)
    assert outcome.compilation == Compilation(1.5)
    assert outcome.resources == BUILD.resources
    after = measure(device, 16)
    assert isinstance(before, Measurement)
    assert isinstance(after, Measurement)
    assert before.runtimes_us[0] != after.runtimes_us[0]  # another process
    assert restarts(device) == 1


@pytest.mark.parametrize("block_m", [HANGS, DIES])
def test_a_launch_that_never_came_back_is_counted(device: GpuDevice, block_m: int) -> None:
    assert measure(device, block_m).launches == {LaunchPurpose.CHECK: 1}


def test_shared_memory_over_the_limit_is_known_before_loading(device: GpuDevice) -> None:
    over = Compiled(Compilation(1.0), Resources(shared_memory_bytes=device.gpu.shared_memory_bytes + 1))
    outcome = measure(device, DIES, over)
    assert isinstance(outcome, Invalid)
    assert outcome.reason is InvalidReason.OUT_OF_SHARED_MEMORY
    assert outcome.launches.total() == 0
    assert outcome.compilation == Compilation(1.0)
    assert restarts(device) == 0
    exactly = Compiled(Compilation(1.0), Resources(shared_memory_bytes=device.gpu.shared_memory_bytes))
    assert isinstance(measure(device, 16, exactly), Measurement)


def test_finalists_are_re_measured_together(device: GpuDevice) -> None:
    configs = [{**CONFIG, "block_m": block_m} for block_m in (16, 256)]
    timed = device.remeasure(PROBLEM, configs, 20)
    assert timed.runtimes_us == [(16.0,) * 20, (256.0,) * 20]
    assert timed.launches == {LaunchPurpose.FINALISTS: 40}


@pytest.mark.parametrize("breaks", [HANGS, DIES])
def test_a_finalist_that_breaks_the_process_costs_no_other(device: GpuDevice, breaks: int) -> None:
    configs = [{**CONFIG, "block_m": block_m} for block_m in (16, breaks, 256)]
    assert device.remeasure(PROBLEM, configs, 20).runtimes_us == [(16.0,) * 20, (), (256.0,) * 20]
    assert restarts(device) == 2, "by all of them, then by the one alone"
    assert device.remeasure(PROBLEM, configs[1:2], 20).runtimes_us == [()]


def test_a_process_lost_between_batches_of_a_race_costs_nothing(device: GpuDevice) -> None:
    first = device.remeasure(PROBLEM, [CONFIG], 20)
    pid = device._owner.worker.pid
    assert pid is not None
    os.kill(pid, signal.SIGKILL)
    assert device.remeasure(PROBLEM, [CONFIG], 20, taken=20) == first


def test_what_concerns_the_whole_problem_is_a_device_error(device: GpuDevice) -> None:
    unprepared = LoraProblem("lora_shrink", 4, 1, 13, 4096, 16)
    with pytest.raises(DeviceError, match=r"lora_shrink L4\.s1\.m13.*MemoryError: out of memory"):
        device.measure(unprepared, CONFIG, BUILD, stop_above_us=None)
    with pytest.raises(DeviceError, match="finalists"):
        device.remeasure(PROBLEM, [{**CONFIG, "num_warps": 1}, CONFIG], 20)
    assert isinstance(measure(device, 16), Measurement)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_there_is_one_clear_line() -> None:
    with pytest.raises(DeviceError) as caught:
        GpuDevice(0)
    message = str(caught.value)
    assert "\n" not in message
    assert "CUDA device 0 cannot be used" in message
    assert "GPU" in message or "CUDA" in message


def test_seconds_and_binaries_are_told(device: GpuDevice) -> None:
    configs = [{**CONFIG, "block_m": block_m} for block_m in (16, 32)]
    have = device.binaries(PROBLEM, configs)
    assert have().tolist() == [False, False]
    device.compile(PROBLEM, configs[1]).result(120)
    assert have().tolist() == [False, True]
    measure(device, 16)
    gpu, farm = device.activity.gpu, device.activity.farm
    assert gpu is not None
    assert farm is not None
    assert gpu.busy_s >= gpu.measuring_s > 0
    assert set(gpu.seconds) == {"start", "prepare", "measure"}
    assert (farm.workers, farm.compiles + farm.cached, farm.waiting) == (1, 1, 0)
    assert farm.busy_s > 0


def standing_ready(of: GpuDevice, count: int = 1) -> list[int]:
    standbys = of._owner.relief
    end = time.monotonic() + 30
    while len(standbys.pids) < count and time.monotonic() < end:
        time.sleep(0.01)
    return standbys.pids


def is_there(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")")[-1].split()[0] != "Z"
    except OSError:
        return False


def gone(pid: int) -> bool:
    end = time.monotonic() + 10
    while is_there(pid) and time.monotonic() < end:
        time.sleep(0.01)
    return not is_there(pid)


def process_of(outcome: Outcome) -> int:
    assert isinstance(outcome, Measurement)
    return int(outcome.runtimes_us[0])


@pytest.mark.parametrize("fault", [HANGS, DIES, BREAKS])
def test_a_process_that_stands_ready_and_warm_takes_over(device: GpuDevice, fault: int) -> None:
    measure(device, 16)
    measure(device, DIES)
    measure(device, 16)
    (ready,) = standing_ready(device)
    gpu = device.activity.gpu
    assert gpu is not None
    assert gpu.warm_ups == 2 * LAUNCHES_EACH, "each fresh process measured once"
    assert isinstance(measure(device, fault), Invalid)
    assert process_of(measure(device, 16)) == ready
    after = device.activity.gpu
    assert after is not None
    assert after.restarts == 2
    assert after.standby_starts >= 2
    assert after.standby_s > 0
    assert after.seconds["restart"] > 0


def test_no_process_stands_ready_while_nothing_is_lost(device: GpuDevice) -> None:
    measure(device, 16)
    assert device._owner.relief.pids == []
    gpu = device.activity.gpu
    assert gpu is not None
    assert (gpu.standby_starts, gpu.warm_ups) == (0, 0)


def test_a_standby_that_was_killed_costs_no_trial(device: GpuDevice) -> None:
    measure(device, 16)
    measure(device, DIES)
    measure(device, 16)
    (ready,) = standing_ready(device)
    os.kill(ready, signal.SIGKILL)
    assert gone(ready)
    measure(device, DIES)
    assert process_of(measure(device, 16)) != ready
    assert restarts(device) == 2


def test_a_hang_right_after_a_restart_costs_no_more_than_any_other(device: GpuDevice) -> None:
    measure(device, 16)
    device._owner.deadlines = Deadlines(first_s=60.0, measure_s=0.5)
    measure(device, DIES)
    outcome = measure(device, HANGS)
    assert isinstance(outcome, Invalid)
    assert outcome.detail == "no answer came within 0.5 s"


def test_closing_leaves_no_process(device: GpuDevice) -> None:
    measure(device, 16)
    for _ in range(3):
        measure(device, DIES)
        serving = process_of(measure(device, 16))
    ready = standing_ready(device, 3)
    assert all(map(is_there, (*ready, serving)))
    device.close()
    assert all(map(gone, (*ready, serving)))


def test_a_gpu_that_the_driver_describes_compiles_before_it_can_be_used(
    host: CompileHost, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cuda, "GPU_MODULE", "fake_gpu")
    hello = threading.Event()
    meet = GpuOwner._start_and_greet

    def later(self: GpuOwner, expected: GpuInfo | None) -> Told:
        assert hello.wait(60)
        return meet(self, expected)

    monkeypatch.setattr(GpuOwner, "_start_and_greet", later)
    made = GpuDevice(host=host, identity=GpuIdentity("", "", FAKE_GPU))
    try:
        assert made.gpu == FAKE_GPU
        assert made.toolchain.startswith("triton ")
        made.compile(PROBLEM, CONFIG).result(120)
        assert made.activity.gpu is not None
        assert made.activity.gpu.seconds == {}
        hello.set()
        made.expect(PROBLEM)
        assert isinstance(measure(made, 16), Measurement)
        assert made.provenance["driver"] == "1"
    finally:
        hello.set()
        made.close()


def test_a_gpu_that_is_not_what_the_driver_said_measures_nothing(
    host: CompileHost, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cuda, "GPU_MODULE", "fake_gpu")
    made = GpuDevice(host=host, identity=GpuIdentity("", "", replace(FAKE_GPU, sm_count=2)))
    try:
        with pytest.raises(UnusableDeviceError, match="CUDA device 0 cannot be used: the driver describes it as"):
            measure(made, 16)
        store, settings = StudyStore(MEMORY), SessionSettings(budget=2)
        with pytest.raises(UnusableDeviceError):  # no study costs itself alone: none can be measured
            Session(store, settings).run([job_of(PROBLEM, made)])
    finally:
        made.close()
