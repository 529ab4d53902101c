"""The base model's experts tuned from the first trial to the engine's file: real compilers, times from a fake GPU."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from fake_experts_gpu import GPU, time_us
from helpers import ROOT
from vllm_wheel import VERSION, vllm_folder

from bo_tune.core.choices import MEMORY
from bo_tune.core.problem import Experts
from bo_tune.engines.folder import read_provenance, write_tables
from bo_tune.formats.pack.archive import read_manifest
from bo_tune.kernels.experts.step import KERNEL, ExpertsStep
from bo_tune.measure.deadlines import Deadlines
from bo_tune.measure.devices import job_of
from bo_tune.measure.gpu import device as cuda
from bo_tune.measure.gpu.device import GpuDevice
from bo_tune.measure.source import VLLM
from bo_tune.session.session import Session, SessionSettings
from bo_tune.store.storage import StudyStore

pytestmark = pytest.mark.slow

STEPS = [ExpertsStep(m, Experts(128, 8), hidden=2048, n=768) for m in (1, 256)]
"""One of which the tokens are not sorted into blocks, and one of which they are."""

PATIENT = Deadlines(compile_s=120.0)
"""On a busy machine a compile takes far longer, and without the defaults there would be nothing to test."""

SMALL = {"BLOCK_SIZE_M": (16, 32, 64), "BLOCK_SIZE_K": (64, 128)}
"""Tiles that compile in a second or two, those that vLLM ships for these steps among them."""


@pytest.fixture
def host(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> None:
    """A host with the fake GPU, whose compilers find vLLM's kernels."""
    for folder in (vllm_folder(), Path(__file__).parent):
        monkeypatch.syspath_prepend(folder)
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path_factory.getbasetemp() / "triton"))
    monkeypatch.setenv("TRITON_DEFAULT_FP_FUSION", "1")
    monkeypatch.setattr(cuda, "GPU_MODULE", "fake_experts_gpu")


@pytest.fixture
def device(host: None) -> Iterator[GpuDevice]:
    """A device on that host."""
    opened = GpuDevice(source=VLLM, compile_workers=2, deadlines=PATIENT)
    yield opened
    opened.close()


def test_a_layers_experts_are_tuned_and_written_for_the_engine(device: GpuDevice, tmp_path: Path) -> None:
    session = Session(StudyStore(MEMORY), SessionSettings(budget=4, compilers=2, spaces={KERNEL: SMALL}))
    tuned = session.run([job_of(step.problem, device) for step in STEPS])
    for one in tuned:
        assert one.result is not None
        tried = [dict(trial.params) for trial in one.trials if trial.value is not None]
        assert len(tried) == 4
        assert device.default_config(one.job.spec, one.job.problem) in tried, "what vLLM runs without a file"
        assert one.job.spec.default_config(one.job.problem) in tried, "its rule, where it ships a file"
        assert one.result.time_us == time_us(one.result.config) == min(trial.value or 1e9 for trial in one.trials)
    assert tuned[1].job.spec.default_config(STEPS[1].problem)["BLOCK_SIZE_M"] == 64, "the rule is another config"
    assert device.default_config(tuned[1].job.spec, STEPS[1].problem)["GROUP_SIZE_M"] == 16, "shipped for the H200"
    (path,) = write_tables(tmp_path, session.entries(tuned))
    assert path.name == "E=128,N=768,device_name=NVIDIA_H200.json"
    written = json.loads(path.read_text())
    assert {key: time_us(config) for key, config in written.items()} == {
        str(step.m): one.result.time_us for step, one in zip(STEPS, tuned, strict=True) if one.result
    }
    origin = read_provenance(path)["256",]
    assert (origin.gpu, origin.problem, origin.kernel_source) == (GPU.name, STEPS[1].problem, f"vllm {VERSION}")


def test_a_pack_holds_both_binaries_of_each_config(host: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    space = {"BLOCK_SIZE_M": (16,), "BLOCK_SIZE_N": (32,), "BLOCK_SIZE_K": (64,), "GROUP_SIZE_M": (1, 16)}
    space |= {"num_warps": (4,), "num_stages": (2,)}
    study, pack = tmp_path / "study.toml", tmp_path / "x.pack"
    ranges = "".join(f"{name} = {list(values)}\n" for name, values in space.items())
    model = f'[model]\nconfig = "{ROOT}/studies/models/qwen3-30b-a3b"\ntensor_parallel = 1\nm = [256]\n'
    study.write_text(f'kernels = ["{KERNEL}"]\n{model}[space.{KERNEL}]\n{ranges}')
    where = ["--kernels", "vllm", "--target", GPU.target, "--gpu", GPU.name, "--jobs", "2", "--storage", MEMORY]
    words = [sys.executable, "-m", "bo_tune", "compile", str(study), "--all", *where, "--out", str(pack)]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(map(str, (ROOT, vllm_folder())))}
    done = subprocess.run(words, env=environment, capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 0, done.stderr
    binaries = read_manifest(pack).binaries
    assert all(len(binary.entries) == 2 for binary in binaries)
    assert len({entry for binary in binaries for entry in binary.entries}) == 2 * len(binaries)
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path / "empty"))
    opened = GpuDevice(source=VLLM, compile_workers=1, deadlines=PATIENT, packs=[pack])
    try:
        session = Session(StudyStore(MEMORY), SessionSettings(budget=None, compilers=1, spaces={KERNEL: space}))
        (one,) = session.run([job_of(STEPS[1].problem, opened)])
        packed = opened.activity.farm
    finally:
        opened.close()
    assert packed is not None
    assert packed.packed == len(binaries)
    assert len(one.trials) == len(binaries) + packed.compiles
