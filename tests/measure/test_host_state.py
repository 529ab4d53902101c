"""What decides on studies' names: told without starting anything, and otherwise wherever a GPU might say otherwise."""

import os
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from bo_tune.measure import host_state
from bo_tune.measure.backends.base import GpuIdentity
from bo_tune.measure.backends.nvidia import backend as nvidia
from bo_tune.measure.backends.nvidia.backend import Nvidia
from bo_tune.measure.host_state import host_digest

GPU = GpuIdentity("1-2-3", "0000:01:00.0")
SOURCE = "of a test"


class Vendor(Nvidia):
    release: str | None = "550.54.15"

    def driver_release(self) -> str | None:
        return self.release


@pytest.fixture
def packages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Two packages, of which the second counts by its version alone."""
    for file in ("deep/__init__.py", "deep/below/ptxas", "deep/__pycache__/x.pyc", "flat/version.py", "flat/nn/x.py"):
        path = tmp_path / file
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(file)
    (tmp_path / "flat/__init__.py").write_text("raise AssertionError('nothing is imported')")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(host_state, "PACKAGES", {SOURCE: ("deep", "flat")})
    monkeypatch.setattr(host_state, "SHALLOW", ("flat",))
    return tmp_path


def digest(vendor: Vendor | None = None, **more: float) -> str | None:
    return host_digest(vendor or Vendor(), SOURCE, [GPU], **more)


def test_it_is_the_same_for_as_long_as_nothing_changes(packages: Path) -> None:
    first = digest()
    assert first is not None
    assert len(first) == host_state.DIGITS
    (packages / "deep/__pycache__/y.pyc").write_text("compiled meanwhile")
    (packages / "flat/nn/x.py").write_text("not what decides on the version")
    assert digest() == first
    assert not {"deep", "flat"} & sys.modules.keys()


def rewrite_in_place(packages: Path) -> None:
    """As a package manager does that keeps the times of files."""
    file = packages / "deep/below/ptxas"
    before = file.stat()
    file.write_text(file.read_text()[::-1])
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))


CHANGES: dict[str, Callable[[Path], object]] = {
    "a file of the same size and time": rewrite_in_place,
    "another file": lambda packages: (packages / "deep/new.py").write_text(""),
    "one less": lambda packages: (packages / "deep/below/ptxas").unlink(),
    "the version": lambda packages: (packages / "flat/version.py").write_text("2"),
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_it_changes_with_the_files(packages: Path, change: Callable[[Path], object]) -> None:
    first = digest()
    time.sleep(0.02)  # the clock of files is coarse
    change(packages)
    assert digest() not in (first, None)


@pytest.mark.parametrize(
    ("name", "counts"),
    [("TRITON_PTXAS_PATH", True), ("VLLM_X", True), ("CUDA_VISIBLE_DEVICES", True), ("LD_PRELOAD", True), ("X", False)],
)
def test_it_changes_with_variables_that_decide(
    packages: Path, monkeypatch: pytest.MonkeyPatch, name: str, *, counts: bool
) -> None:
    first = digest()
    monkeypatch.setenv(name, "1")
    assert (digest() != first) is counts


def test_a_file_that_a_variable_names_counts(packages: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assembler = packages / "assembler"
    assembler.write_text("1")
    monkeypatch.setenv("TRITON_PTXAS_PATH", str(assembler))
    first = digest()
    assembler.write_text("12")
    assert digest() not in (first, None)


def test_it_changes_with_the_driver_the_gpus_and_the_vendor(packages: Path) -> None:
    newer = Vendor()
    newer.release = "560.1"
    other = GpuIdentity("4-5-6", "")
    found = [
        digest(),
        digest(newer),
        host_digest(Vendor(), SOURCE, [other]),
        host_digest(Vendor(), SOURCE, [GPU, other]),
    ]
    assert None not in found
    assert len(set(found)) == len(found)
    assert host_digest(Vendor(), SOURCE, [other, GPU]) == found[-1]


def test_there_is_none_where_something_cannot_be_told(packages: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    silent = Vendor()
    silent.release = None
    assert digest(silent) is None
    assert host_digest(Vendor(), SOURCE, []) is None
    assert host_digest(Vendor(), SOURCE, [GPU, None]) is None
    assert host_digest(Vendor(), SOURCE, [GpuIdentity("", "0000:01:00.0")]) is None
    assert host_digest(Vendor(), "/a/script.py", [GPU]) is None
    monkeypatch.setattr(host_state, "PACKAGES", {SOURCE: ("deep", "of_no_such_name")})
    assert digest() is None


def test_there_is_none_of_files_that_changed_since_processes_were_started(packages: Path) -> None:
    assert digest(unchanged_since=time.time() + 1) == digest()
    assert digest(unchanged_since=time.time() - 3600) is None


def test_the_driver_names_its_release(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "version"
    file.write_text("NVRM version: NVIDIA UNIX x86_64 Kernel Module  550.54.15")
    monkeypatch.setattr(nvidia, "KERNEL_MODULE", file)
    assert Nvidia().driver_release() == file.read_text()
    monkeypatch.setattr(nvidia, "KERNEL_MODULE", tmp_path / "none")
    monkeypatch.setattr(nvidia, "driver_release", lambda: "550.1")
    assert Nvidia().driver_release() == "550.1"
