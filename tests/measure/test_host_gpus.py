"""Counting GPUs without torch: a driver made for the test stands for NVIDIA's."""

import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from bo_tune.errors import DeviceError
from bo_tune.measure.host_gpus import gpu_count

pytestmark = pytest.mark.skipif(shutil.which("cc") is None, reason="needs a C compiler")

Driver = Callable[[str, str], None]


@pytest.fixture
def driver(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Driver:
    def make(on_start: str, on_count: str) -> None:
        source = tmp_path / "cuda.c"
        source.write_text(
            f"#include <stdlib.h>\nint cuInit(unsigned f) {{ {on_start} }}\n"
            f"int cuDeviceGetCount(int *n) {{ {on_count} }}\n"
        )
        subprocess.run(["cc", "-shared", "-fPIC", "-o", tmp_path / "libcuda.so.1", source], check=True)
        monkeypatch.setenv("LD_LIBRARY_PATH", str(tmp_path))

    return make


def test_the_driver_is_asked(driver: Driver) -> None:
    driver("return 0;", "*n = 3; return 0;")
    assert gpu_count() == 3


def test_a_driver_that_refuses_has_none(driver: Driver) -> None:
    driver("return 100;", "*n = 3; return 0;")  # CUDA_ERROR_NO_DEVICE
    assert gpu_count() == 0
    driver("return 0;", "*n = 3; return 3;")  # CUDA_ERROR_NOT_INITIALIZED
    assert gpu_count() == 0


def test_without_a_driver_there_are_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "libcuda.so.1").write_text("this is no library")
    monkeypatch.setenv("LD_LIBRARY_PATH", str(tmp_path))
    assert gpu_count() == 0


def test_a_driver_that_breaks_is_told(driver: Driver) -> None:
    driver("abort();", "return 0;")
    with pytest.raises(DeviceError, match=r"the GPUs of this host cannot be counted: .*died with"):
        gpu_count()
