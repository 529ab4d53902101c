"""NVML through its real package: a library made for the test stands for NVIDIA's, in a process of its own."""

import json
import os
import shutil
import subprocess
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from bo_tune.measure.backends.base import GpuIdentity
from bo_tune.measure.backends.nvidia import nvml
from bo_tune.measure.backends.nvidia.nvml import NvmlWatch
from bo_tune.measure.watch.neighbours import WatchError
from bo_tune.processes.interpreter import python_command

needs_library = pytest.mark.skipif(
    shutil.which("cc") is None or find_spec("pynvml") is None, reason="needs a C compiler and nvidia-ml-py"
)
HERE = Path(__file__).parent
UUID, BUS = "0a1b2c3d-0000-1111-2222-333344445555", "00000000:3B:00.0"

Asked = Callable[..., Any]


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the library."""
    folder = tmp_path_factory.mktemp("nvml")
    subprocess.run(["cc", "-shared", "-fPIC", "-o", folder / "libnvidia-ml.so.1", HERE / "fake_nvml.c"], check=True)
    return folder


@pytest.fixture
def asked(library: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Asked:
    """Returns what is read of a GPU that the library says this of, or the message of what went wrong."""
    monkeypatch.syspath_prepend(HERE)

    def ask(*lines: str, uuid: str = UUID, bus_id: str = BUS) -> Any:
        said = tmp_path / "said.txt"
        said.write_text("\n".join(lines))
        environment = {**os.environ, "LD_LIBRARY_PATH": str(library), "FAKE_NVML": str(said)}
        command = python_command("reading_nvml", uuid, bus_id)
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
        return json.loads(done.stdout)

    return ask


@needs_library
def test_everything_that_the_driver_tells_is_read(asked: Asked) -> None:
    lines = ("processes 101 102", "mps 102 103", "utilisation 87", "used 2048", "reasons 0x60", "working 101:30 102:40")
    assert asked(f"uuids GPU-{UUID}", *lines) == {
        "is_slice": False,
        "first": {
            "processes": [101, 102, 103],
            "working_percent": {"101": 30, "102": 40},
            "utilisation_percent": 87,
            "used_bytes": 2048,
            "slowed": ["too hot"],
        },
        "then": {"102": 40},
    }


@needs_library
def test_what_the_driver_does_not_tell_is_unknown_and_none_is_none(asked: Asked) -> None:
    read = asked(f"uuids GPU-{UUID}", "processes")["first"]
    assert read == {
        "processes": [], "working_percent": None, "utilisation_percent": None, "used_bytes": None, "slowed": [],
    }  # fmt: skip
    read = asked(f"uuids GPU-{UUID}", "utilisation 0", "working")["first"]
    assert (read["processes"], read["working_percent"], read["utilisation_percent"]) == (None, {}, 0)


@needs_library
@pytest.mark.parametrize(
    ("reasons", "slowed"),
    [
        (0x00, []),
        (0x04, []),  # the power cap, which a GPU that serves runs into as well
        (0x01, []),
        (0x08, ["slowed by its hardware"]),
        (0x48, ["too hot"]),
        (0x88, ["limited by its power supply"]),
    ],
)
def test_lowered_clocks_are_told_where_service_would_not_lower_them(
    asked: Asked, reasons: int, slowed: list[str]
) -> None:
    assert asked(f"uuids GPU-{UUID}", "processes", f"reasons {reasons}")["first"]["slowed"] == slowed


@needs_library
def test_a_gpu_is_found_by_what_it_is_and_never_by_its_number(asked: Asked) -> None:
    assert asked(f"uuids GPU-other MIG-{UUID}", "processes")["is_slice"] is True
    assert asked("uuids GPU-other", f"buses {BUS}", "processes")["is_slice"] is False
    assert asked(f"buses {BUS}", "processes", uuid="")["is_slice"] is False
    assert "does not know the GPU" in asked("uuids GPU-other", "buses 00000000:AA:00.0", "processes")
    assert "does not know the GPU" in asked("uuids GPU-", "buses", "processes", uuid="", bus_id="")


@needs_library
def test_a_driver_that_tells_nothing_is_said(asked: Asked) -> None:
    assert asked(f"uuids GPU-{UUID}") == "NVML says neither which processes use the GPU nor how busy it is"
    assert asked("broken yes") == "NVML does not work: Driver Not Loaded"


def test_without_the_package_it_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> object:
        raise ImportError(name)

    monkeypatch.setattr(nvml, "import_module", missing)
    with pytest.raises(WatchError, match=r"^the package nvidia-ml-py is not installed$"):
        NvmlWatch(GpuIdentity(UUID, BUS))


@pytest.mark.skipif(find_spec("pynvml") is None, reason="needs nvidia-ml-py")
def test_without_the_library_it_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "libnvidia-ml.so.1").write_text("this is no library")
    monkeypatch.setenv("LD_LIBRARY_PATH", str(tmp_path))
    monkeypatch.syspath_prepend(HERE)
    done = subprocess.run(python_command("reading_nvml", UUID, BUS), capture_output=True, text=True, check=True)
    assert json.loads(done.stdout) == "NVML does not work: NVML Shared Library Not Found"
