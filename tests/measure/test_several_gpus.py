"""Several GPUs of one host, without a GPU: a process each, and compilers in common."""

import os
from pathlib import Path

import pytest

from bo_tune.errors import DeviceError
from bo_tune.measure import devices as opening
from bo_tune.measure.compile.host import CompileHost
from bo_tune.measure.deadlines import Deadlines
from bo_tune.measure.devices import gpu_devices
from bo_tune.measure.gpu import device as cuda
from bo_tune.measure.source import BUILTIN

pytestmark = pytest.mark.slow

DEADLINES = Deadlines(first_s=0.5, measure_s=0.5)


@pytest.fixture(autouse=True)
def _fake_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parent))
    monkeypatch.setattr(cuda, "GPU_MODULE", "fake_gpu")


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


def test_each_has_a_process_and_all_share_the_compilers(monkeypatch: pytest.MonkeyPatch) -> None:
    hosts: list[CompileHost] = []
    make = cuda.compile_host

    def kept(*arguments: object, **more: object) -> CompileHost:
        hosts.append(make(*arguments, **more))  # type: ignore[arg-type]
        return hosts[-1]

    monkeypatch.setattr(opening, "compile_host", kept)
    with gpu_devices([0, 1, 3], source=BUILTIN, compile_workers=2, deadlines=DEADLINES) as devices:
        assert len(hosts) == 1
        pids = {int(device.provenance["pid"]) for device in devices}
        assert len(pids) == 3
        assert all(map(alive, pids))
        farms = {id(device._compilers.farm) for device in devices}
        assert len(farms) == 1
        assert [device.compile_workers for device in devices] == [2, 2, 2]
        devices[0].close()
        assert alive(int(devices[1].provenance["pid"])), "one that ends takes no other down"
    assert not any(map(alive, pids))
    assert os.getpid() not in pids


def test_if_one_cannot_be_used_all_are_given_back(monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[int] = []
    init = cuda.GpuDevice.__init__

    def start(self: cuda.GpuDevice, index: int, **more: object) -> None:
        if index == 1:
            raise DeviceError("CUDA device 1 cannot be used: it is broken")
        init(self, index, **more)  # type: ignore[arg-type]
        opened.append(int(self.provenance["pid"]))

    monkeypatch.setattr(cuda.GpuDevice, "__init__", start)
    with (
        pytest.raises(DeviceError, match="device 1 cannot be used"),
        gpu_devices([0, 1], source=BUILTIN, compile_workers=1, deadlines=DEADLINES),
    ):
        pytest.fail("it must not open")
    assert len(opened) == 1
    assert not alive(opened[0])
