"""What the doctor finds on hosts that are played: drivers made for the tests, a toolchain that says what it is told."""

import shutil
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path

import pytest
from helpers import ROOT

from bo_tune.analysis.doctor import Finding, Status, Wanted, examine, examined
from bo_tune.core.choices import MEMORY
from bo_tune.measure.backends.nvidia.backend import KERNEL_MODULE
from bo_tune.measure.backends.registry import GpuName

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        shutil.which("cc") is None or find_spec("pynvml") is None, reason="needs a C compiler and nvidia-ml-py"
    ),
    pytest.mark.skipif(KERNEL_MODULE.exists(), reason="the host's own driver would be found"),
]

UUID = "00010203-0405-0607-0809-0a0b0c0d0e0f"
CUDA = """
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
int cuInit(unsigned flags) {
  const char *does = getenv("FAKE_CUDA");
  if (!strcmp(does, "hangs")) for (;;) pause();
  if (!strcmp(does, "dies")) _exit(9);
  return strcmp(does, "nothing") ? 0 : 100;
}
int cuDeviceGetCount(int *count) { *count = atoi(getenv("FAKE_CUDA")); return 0; }
int cuDeviceGetUuid_v2(unsigned char *uuid, int gpu) { for (int i = 0; i < 16; i++) uuid[i] = i; return 0; }
"""
VERSIONS = '{"torch": "2.11"}\n{"triton": "3.6"}'
GPU = '{"gpu": {"name": "NVIDIA H200", "target": "cuda:90", "free_bytes": 150000000000}}\n{"assembler": "V12.9"}'
LAUNCHED = f'{VERSIONS}\ngo\n{{"refusal": null}}\n{GPU}\n{{"launched": true, "seconds": 0.9}}'


@dataclass
class Played:
    """A host.

    Attributes:
        said: what NVML says (``fake_nvml.c``); None where it is not there.
        cuda: how many GPUs CUDA's driver counts, or what it does instead.
        toolchain: what the other process says.
    """

    said: Sequence[str] | None = ("driver 570.1", "names H200", f"uuids GPU-{UUID}", "processes", "utilisation 0")
    cuda: str = "1"
    toolchain: str = LAUNCHED
    environment: Mapping[str, str] = field(default_factory=dict)


Examine = Callable[..., dict[str, Finding]]


@pytest.fixture(scope="module")
def drivers(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the libraries."""
    folder = tmp_path_factory.mktemp("drivers")
    (folder / "cuda.c").write_text(CUDA)
    nvml = ROOT / "tests" / "measure" / "fake_nvml.c"
    for name, source in {"libcuda.so.1": folder / "cuda.c", "libnvidia-ml.so.1": nvml}.items():
        subprocess.run(["cc", "-shared", "-fPIC", "-o", folder / name, source], check=True)
    return folder


@pytest.fixture
def examine_host(drivers: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Examine:
    """Returns what is found on a host, by check."""
    monkeypatch.syspath_prepend(Path(__file__).parent)
    monkeypatch.setattr(examine, "TOOLCHAIN_MODULE", "played_toolchain")
    for name in ("CUDA_VISIBLE_DEVICES", "CC"):
        monkeypatch.delenv(name, raising=False)

    def examined_host(played: Played, *, index: int | None = None, wait_s: float = 60.0) -> dict[str, Finding]:
        said = tmp_path / "said.txt"
        said.write_text("\n".join(played.said or ["broken yes"]))
        played_by = {"LD_LIBRARY_PATH": str(drivers), "FAKE_NVML": str(said), "FAKE_CUDA": played.cuda}
        for name, value in {**played_by, "PLAYED": played.toolchain, **played.environment}.items():
            monkeypatch.setenv(name, value)
        found = examined(Wanted(GpuName("cuda", index), "builtin", MEMORY, wait_s))
        return {finding.check: finding for finding in found}

    return examined_host


def test_a_host_that_is_fit(examine_host: Examine) -> None:
    found = examine_host(Played())
    assert {finding.status for finding in found.values()} == {Status.OK}
    assert found["driver"].said == "NVIDIA 570.1"
    assert found["GPUs"].said == "1 can be used; the host has H200"
    assert found["trial kernel"].said == (
        "compiled for cuda:90 and launched on NVIDIA H200 in 0.9 s; assembler V12.9, 140 GiB of memory free"
    )


BUSY = ("driver 570.1", "names H200", f"uuids GPU-{UUID}", "processes 7", "utilisation 90")


@pytest.mark.parametrize(
    ("played", "check", "status", "said", "remedy"),
    [
        (Played(said=None, cuda="nothing"), "driver", Status.FAILED, "no NVIDIA driver was found", "--gpus all"),
        (Played(said=None, cuda="nothing"), "GPUs", Status.FAILED, "no NVIDIA GPU was found", "replay:DIR"),
        (Played(said=None, cuda="nothing"), "idle", Status.SKIPPED, "no GPU", None),
        (Played(said=None, cuda="nothing"), "trial kernel", Status.SKIPPED, "needs a GPU", None),
        (Played(said=BUSY), "idle", Status.FAILED, "1 other process, 90 % utilisation: times will be", "nvidia-smi"),
        (Played(said=("driver 5", "names H200")), "idle", Status.WARNING, "unknown: NVML does not know", "nobody"),
        (
            Played(said=("names H200%", f"uuids MIG-{UUID}", "processes")),
            "watch",
            Status.WARNING,
            "is a MIG instance",
            "nobody",
        ),
        (
            Played(said=("driver 5", "names H200%"), cuda="0"),
            "GPUs",
            Status.FAILED,
            "none of H200% (partitioned) can be used",
            "nvidia-smi mig -cgi",
        ),
        (
            Played(cuda="0", environment={"CUDA_VISIBLE_DEVICES": "7"}),
            "GPUs",
            Status.FAILED,
            "none of H200 can be used; CUDA_VISIBLE_DEVICES=7",
            "unset CUDA_VISIBLE_DEVICES",
        ),
        (Played(cuda="dies"), "GPUs", Status.FAILED, "the driver cannot count the GPUs of this host", "driver"),
        (
            Played(toolchain='{"torch_fault": "ModuleNotFoundError: No module named \'torch\'"}'),
            "torch",
            Status.FAILED,
            "is not installed",
            "pip install 'bo_tune[gpu]'",
        ),
        (
            Played(toolchain='{"torch": "2"}\n{"triton_fault": "ImportError: libtriton.so"}'),
            "triton",
            Status.FAILED,
            "cannot be imported: ImportError: libtriton.so",
            "reinstall it",
        ),
        (
            Played(toolchain=f'{VERSIONS}\ngo\n{{"refusal": "torch is built without CUDA"}}'),
            "trial kernel",
            Status.FAILED,
            "torch is built without CUDA",
            "torch for NVIDIA GPUs",
        ),
        (
            Played(toolchain=f'{VERSIONS}\ngo\n{{"refusal": null}}\n{{"launch_fault": "PTXASError: no ptxas"}}'),
            "trial kernel",
            Status.FAILED,
            "PTXASError: no ptxas",
            "fix what failed above",
        ),
        (
            Played(toolchain=LAUNCHED.replace("true", "false")),
            "trial kernel",
            Status.FAILED,
            "with a wrong result",
            "another release",
        ),
        (Played(environment={"CC": "/none/cc"}), "C compiler", Status.FAILED, "CC=/none/cc is not a program", "gcc"),
        (
            Played(environment={"TRITON_CACHE_DIR": "/proc/none"}),
            "Triton's cache",
            Status.FAILED,
            "cannot be written",
            "TRITON_CACHE_DIR",
        ),
    ],
)
def test_what_is_wrong_is_said_with_how_to_mend_it(
    examine_host: Examine, played: Played, check: str, status: Status, said: str, remedy: str | None
) -> None:
    finding = examine_host(played)[check]
    assert finding.status is status, finding
    assert said in finding.said
    assert (finding.remedy is None) if remedy is None else (remedy in (finding.remedy or ""))


def test_a_gpu_that_is_not_there_is_said(examine_host: Examine) -> None:
    finding = examine_host(Played(), index=3)["GPUs"]
    assert (finding.status, finding.remedy) == (Status.FAILED, "choose one with --device cuda:0")
    assert finding.said == "1 can be used, but --device names cuda:3"


@pytest.mark.parametrize(
    ("played", "check", "said"),
    [
        (Played(cuda="hangs"), "GPUs", "NVIDIA's driver, when asked for its GPUs, did not answer"),
        (Played(toolchain="…"), "torch", "its import did not finish"),
        (Played(toolchain=f'{VERSIONS}\ngo\n{{"refusal": null}}\n…'), "trial kernel", "compiling and launching it did"),
    ],
)
def test_what_hangs_is_said_in_time(examine_host: Examine, played: Played, check: str, said: str) -> None:
    start = time.monotonic()
    finding = examine_host(played, wait_s=3.0)[check]
    assert time.monotonic() - start < 20
    assert (finding.status, finding.said[: len(said)]) == (Status.FAILED, said)
    assert "--wait" in (finding.remedy or "")
