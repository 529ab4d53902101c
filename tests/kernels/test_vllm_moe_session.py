"""The published vLLM's fused MoE kernels tuned for the path that it takes: real compilers, times from a fake GPU."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from moe_cases import KERNELS, ONE_LAUNCH, moe_problem
from vllm_wheel import vllm_folder

from bo_tune.core.choices import MEMORY
from bo_tune.core.problem import Experts
from bo_tune.measure.devices import engine_notes, job_of, with_deciding
from bo_tune.measure.gpu import device as cuda
from bo_tune.measure.gpu.device import GpuDevice
from bo_tune.measure.source import VLLM
from bo_tune.session.session import Session, SessionSettings
from bo_tune.store.storage import StudyStore

pytestmark = pytest.mark.slow

LAYER = {"max_loras": 2, "k": 16, "n": 128, "i": 64, "experts": Experts(16, 2), "dtype": "bfloat16"}
"""Whose steps of up to two tokens are not sorted into blocks."""


@pytest.fixture
def device(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> Iterator[GpuDevice]:
    """A device on the fake GPU process, whose compilers find vLLM's kernels."""
    for folder in (vllm_folder(), Path(__file__).parent):
        monkeypatch.syspath_prepend(folder)
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path_factory.getbasetemp() / "triton"))
    monkeypatch.setenv("TRITON_DEFAULT_FP_FUSION", "1")
    monkeypatch.setattr(cuda, "GPU_MODULE", "fake_moe_gpu")
    opened = GpuDevice(source=VLLM, compile_workers=2)
    yield opened
    opened.close()


def test_what_vllm_launches_decides_where_it_sorts_tokens_into_blocks(device: GpuDevice) -> None:
    problems = [moe_problem(kernel, **{**LAYER, "m": m}) for m in (2, 16) for kernel in KERNELS]
    jobs = with_deciding([job_of(problem, device) for problem in problems])
    assert [(job.problem.kernel, job.problem.m) for job in jobs[8:]] == [(kernel, 16) for kernel in ONE_LAUNCH]
    notes = engine_notes(jobs)
    assert ["reads nothing from these files" in note for note in notes] == [True, False]
    tuned = Session(StudyStore(MEMORY), SessionSettings(budget=2, compilers=2)).run(jobs)
    values = {(one.job.problem.kernel, one.job.problem.m): one.result.config["block_m"] for one in tuned if one.result}
    assert len(values) == 10
    assert {value for (_, m), value in values.items() if m == 16} == {32}
    (joint,) = (one.result.joint for one in tuned if one.result and one.job.problem == problems[4])
    assert joint is not None
    assert joint.decided_by is not None
    assert joint.decided_by.to_json() == {
        "kernels": list(ONE_LAUNCH),
        "value": 32,
        "time_us": pytest.approx(20.0),
        "default_time_us": pytest.approx(23.2),  # an untuned engine runs block_m 16 at this m
    }
