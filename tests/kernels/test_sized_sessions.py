"""Mamba's and SGLang's kernels tuned from the first trial to the file: real compilers, times from a fake GPU."""

import json
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest
from csgmv_cases import qkv
from fake_sized_gpu import GPU, time_us
from sglang_wheel import VERSION as SGLANG_VERSION
from sglang_wheel import sglang_folder
from vllm_wheel import VERSION, vllm_folder

from bo_tune.core.choices import MEMORY
from bo_tune.engines.folder import read_provenance, write_placed
from bo_tune.kernels.csgmv.step import EXPAND, SHRINK
from bo_tune.kernels.mamba.step import KERNEL as MAMBA
from bo_tune.kernels.mamba.step import MambaStep
from bo_tune.measure.devices import job_of
from bo_tune.measure.gpu import device as cuda
from bo_tune.measure.gpu.device import GpuDevice
from bo_tune.measure.source import SGLANG, VLLM
from bo_tune.session.session import Session, SessionSettings
from bo_tune.store.storage import StudyStore

pytestmark = pytest.mark.slow

Opening = Callable[[str, Path], "contextmanager[GpuDevice]"]


@pytest.fixture
def opening(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Opening]:
    """Opens a device on the fake GPU process, whose compilers find an engine's kernels."""

    @contextmanager
    def opened(source: str, folder: Path) -> Iterator[GpuDevice]:
        for path in (folder, Path(__file__).parent):
            monkeypatch.syspath_prepend(path)
        monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path_factory.getbasetemp() / "triton"))
        monkeypatch.setenv("TRITON_DEFAULT_FP_FUSION", "1")
        monkeypatch.setattr(cuda, "GPU_MODULE", "fake_sized_gpu")
        device = GpuDevice(source=source, compile_workers=2)
        with closing(device):
            yield device

    return opened


def test_mambas_configs_are_all_measured_and_written_for_the_engine(opening: Opening, tmp_path: Path) -> None:
    steps = [MambaStep(count, 64, 64, 128, 8) for count in (1, 16)]
    few = {MAMBA: {"BLOCK_SIZE_M": (4, 8, 128), "num_warps": (1, 4)}}
    with opening(VLLM, vllm_folder()) as device:
        session = Session(StudyStore(MEMORY), SessionSettings(compilers=2, spaces=few))
        tuned = session.run([job_of(step.problem, device) for step in steps])
        for one in tuned:
            assert one.result is not None
            tried = [dict(trial.params) for trial in one.trials if trial.value is not None]
            assert len(tried) == 4, "a head has no 128 channels"
            assert device.default_config(one.job.spec, one.job.problem) in tried, "what vLLM ships for the H200"
            assert one.result.time_us == time_us(one.result.config)
        (path,) = write_placed(tmp_path, session.entries(tuned))
    assert path == tmp_path / "headdim=64,dstate=128,device_name=NVIDIA_H200,cache_dtype=float32.json"
    assert json.loads(path.read_text()) == {key: {"BLOCK_SIZE_M": 4, "num_warps": 1} for key in ("64", "1024")}
    assert read_provenance(path)["64",].kernel_source == f"vllm {VERSION}"


def test_sglangs_configs_are_written_where_its_triton_looks(opening: Opening, tmp_path: Path) -> None:
    steps = [qkv(SHRINK), qkv(EXPAND)]
    few = {SHRINK: {"BLOCK_N": (16, 32), "BLOCK_K": (64, 256)}, EXPAND: {"BLOCK_N": (32, 64), "maxnreg": (128, 255)}}
    with opening(SGLANG, sglang_folder()) as device:
        session = Session(StudyStore(MEMORY), SessionSettings(budget=5, compilers=2, spaces=few))
        tuned = session.run([job_of(step.problem, device) for step in steps])
        for one in tuned:
            assert one.result is not None
            tried = [dict(trial.params) for trial in one.trials if trial.value is not None]
            assert len(tried) == 5
            default = device.default_config(one.job.spec, one.job.problem)
            assert default in tried, "it begins first; where its compile takes longer, others are measured before it"
            assert one.result.default_time_us == time_us(default)
            assert one.result.time_us == time_us(one.result.config) == min(t.value or 1e9 for t in one.trials)
        paths = write_placed(tmp_path, session.entries(tuned))
    place = tmp_path / "csgmv_configs" / "triton_3_6_0"
    assert [path.relative_to(place).name for path in paths] == [
        "lora_expand,K=6144,R=16,S=3,device=NVIDIA_H200.json", "lora_shrink,K=4096,R=16,S=3,device=NVIDIA_H200.json",
    ]  # fmt: skip
    for path, one in zip(paths, reversed(tuned), strict=True):
        origin = read_provenance(path)["16",]
        assert (origin.gpu, origin.problem) == (GPU.name, one.job.problem)
        assert origin.kernel_source == f"sglang {SGLANG_VERSION}"
