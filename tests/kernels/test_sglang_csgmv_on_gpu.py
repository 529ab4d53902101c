"""The published SGLang's chunked LoRA kernels through the adapter, on a GPU."""

from collections.abc import Iterator

import pytest
import torch
from csgmv_cases import CONFIGS, assemble, check, qkv, steps
from hypothesis import HealthCheck, given, settings
from sglang_wheel import importable, sglang_folder

from bo_tune.core.choices import MEMORY
from bo_tune.core.outcome import InvalidReason
from bo_tune.kernels.csgmv.step import KERNELS, CsgmvStep
from bo_tune.kernels.registry import kernel_spec
from bo_tune.measure.devices import job_of
from bo_tune.measure.gpu.device import GpuDevice
from bo_tune.measure.source import SGLANG
from bo_tune.session.session import Session, SessionSettings
from bo_tune.store.storage import StudyStore
from bo_tune.store.trials import REASON

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU"),
    pytest.mark.filterwarnings("ignore:TRITON_DEFAULT_FP_FUSION:UserWarning"),
]


@pytest.fixture
def sglang() -> Iterator[None]:
    """Let SGLang's kernels be found."""
    with importable(sglang_folder()):
        yield


@pytest.mark.usefixtures("sglang")
@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize(("m", "chunk"), [(1, 16), (60, 16), (200, 32), (1000, 128)])
def test_a_layer_as_served_is_right(m: int, chunk: int, kernel: str) -> None:
    step = qkv(kernel, m=m, chunk=chunk)
    inputs = assemble(step, device="cuda")
    for config in (kernel_spec(kernel).default_config(step.problem), CONFIGS[kernel]):
        check(inputs, config)


@pytest.mark.usefixtures("sglang")
@pytest.mark.parametrize("kernel", KERNELS)
def test_configs_from_all_over_the_grid_are_right(kernel: str) -> None:
    inputs = assemble(qkv(kernel, m=100), device="cuda")
    for config in list(kernel_spec(kernel).search_space)[::41]:
        check(inputs, config)


@pytest.mark.usefixtures("sglang")
@settings(max_examples=20, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(steps(dtypes=("bfloat16", "float16"), most_tokens=200, most_size=500))
def test_any_launch_matches_the_reference(step: CsgmvStep) -> None:
    check(assemble(step, device="cuda"))


@pytest.fixture
def device(monkeypatch: pytest.MonkeyPatch) -> Iterator[GpuDevice]:
    """A device whose processes find SGLang's kernels."""
    monkeypatch.syspath_prepend(sglang_folder())
    opened = GpuDevice(source=SGLANG, compile_workers=4)
    try:
        yield opened
    finally:
        opened.close()


@pytest.mark.parametrize("kernel", KERNELS)
def test_a_study_is_never_slower_than_what_the_engine_runs_without_a_file(device: GpuDevice, kernel: str) -> None:
    job = job_of(qkv(kernel).problem, device)
    (one,) = Session(StudyStore(MEMORY), SessionSettings(budget=12, compilers=4)).run([job])
    assert one.result is not None
    assert device.default_config(job.spec, job.problem) in [dict(trial.params) for trial in one.trials]
    reasons = {trial.user_attrs.get(REASON) for trial in one.trials}
    assert str(InvalidReason.WRONG_RESULT) not in reasons
    assert one.result.default_time_us is not None
    assert one.result.time_us <= one.result.default_time_us * 1.01
