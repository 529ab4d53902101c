"""Counting GPUs without torch: a driver made for the test stands for NVIDIA's."""

import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from bo_tune.core.problem import GpuInfo
from bo_tune.errors import DeviceError
from bo_tune.measure.backends.base import GpuIdentity, known_identities
from bo_tune.measure.backends.nvidia.backend import Nvidia

pytestmark = pytest.mark.skipif(shutil.which("cc") is None, reason="needs a C compiler")

Driver = Callable[..., None]


@pytest.fixture
def driver(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Driver:
    def make(on_start: str, on_count: str, more: str = "") -> None:
        source = tmp_path / "cuda.c"
        source.write_text(
            f"#include <stdlib.h>\n#include <string.h>\n{more}\nint cuInit(unsigned f) {{ {on_start} }}\n"
            f"int cuDeviceGetCount(int *n) {{ {on_count} }}\n"
        )
        subprocess.run(["cc", "-shared", "-fPIC", "-o", tmp_path / "libcuda.so.1", source], check=True)
        monkeypatch.setenv("LD_LIBRARY_PATH", str(tmp_path))

    return make


def test_the_driver_is_asked(driver: Driver) -> None:
    driver("return 0;", "*n = 3; return 0;")
    assert len(Nvidia().identities()) == 3


def test_a_driver_that_refuses_has_none(driver: Driver) -> None:
    driver("return 100;", "*n = 3; return 0;")  # CUDA_ERROR_NO_DEVICE
    assert len(Nvidia().identities()) == 0
    driver("return 0;", "*n = 3; return 3;")  # CUDA_ERROR_NOT_INITIALIZED
    assert len(Nvidia().identities()) == 0


def test_without_a_driver_there_are_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "libcuda.so.1").write_text("this is no library")
    monkeypatch.setenv("LD_LIBRARY_PATH", str(tmp_path))
    assert len(Nvidia().identities()) == 0


def test_a_driver_that_breaks_is_told(driver: Driver) -> None:
    driver("abort();", "return 0;")
    with pytest.raises(DeviceError, match=r"the driver cannot count the GPUs of this host: .*died with"):
        Nvidia().identities()


UUID = """
int {name}(unsigned char *uuid, int gpu) {{ for (int i = 0; i < 16; i++) uuid[i] = i + 16 * gpu; return 0; }}
"""
BUS_ID = """
int cuDeviceGetPCIBusId(char *text, int room, int gpu) {
  strcpy(text, gpu ? "0000:AA:00.0" : "0000:3B:00.0");
  return 0;
}
"""
FIRST, SECOND = "00010203-0405-0607-0809-0a0b0c0d0e0f", "10111213-1415-1617-1819-1a1b1c1d1e1f"


@pytest.mark.parametrize("name", ["cuDeviceGetUuid_v2", "cuDeviceGetUuid"])
def test_gpus_are_told_by_what_they_are_in_the_order_of_cuda(driver: Driver, name: str) -> None:
    driver("return 0;", "*n = 2; return 0;", UUID.format(name=name) + BUS_ID)
    assert Nvidia().identities() == [GpuIdentity(FIRST, "0000:3B:00.0"), GpuIdentity(SECOND, "0000:AA:00.0")]


def test_instances_are_asked_for_themselves(driver: Driver) -> None:
    whole = "int cuDeviceGetUuid(unsigned char *uuid, int gpu) { abort(); }"
    driver("return 0;", "*n = 1; return 0;", whole + UUID.format(name="cuDeviceGetUuid_v2"))
    assert Nvidia().identities() == [GpuIdentity(FIRST, "")]


DESCRIBED = """
int cuDeviceGetName(char *text, int room, int gpu) { strcpy(text, "NVIDIA H100"); return 0; }
int cuDeviceGetAttribute(int *value, int attribute, int gpu) {
  *value = attribute == 75 ? 9 : attribute == 76 ? 0 : 1000 * attribute;
  return attribute == {refused} ? 1 : 0;
}
"""


def test_gpus_are_described_as_torch_and_triton_will(driver: Driver) -> None:
    driver("return 0;", "*n = 1; return 0;", DESCRIBED.replace("{refused}", "-1"))
    (found,) = Nvidia().identities()
    assert found.info == GpuInfo("NVIDIA H100", (9, 0), 16000, 97000, 12000, 39000, 38000)


def test_a_gpu_of_which_something_is_not_told_is_not_described(driver: Driver) -> None:
    driver("return 0;", "*n = 1; return 0;", DESCRIBED.replace("{refused}", "97"))
    (found,) = Nvidia().identities()
    assert found.info is None


def test_gpus_that_cannot_be_told_are_only_an_error_where_they_are_needed(driver: Driver) -> None:
    driver("abort();", "return 0;")
    assert known_identities(Nvidia(), required=False) == []
    with pytest.raises(DeviceError):
        known_identities(Nvidia(), required=True)
