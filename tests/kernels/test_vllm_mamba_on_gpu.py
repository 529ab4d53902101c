"""The published vLLM's kernel of a Mamba-2 layer's decode step through the adapter, on a GPU."""

from collections.abc import Iterator

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from mamba_cases import assemble, check, steps
from vllm_wheel import vllm_folder

from bo_tune.core.choices import MEMORY
from bo_tune.core.outcome import InvalidReason
from bo_tune.kernels.mamba.step import KERNEL, STATE_DTYPES, MambaStep
from bo_tune.kernels.registry import kernel_spec
from bo_tune.measure.devices import job_of
from bo_tune.measure.gpu.device import GpuDevice
from bo_tune.measure.source import VLLM
from bo_tune.session.session import Session, SessionSettings
from bo_tune.store.storage import StudyStore
from bo_tune.store.trials import REASON

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU"),
    pytest.mark.filterwarnings("ignore:TRITON_DEFAULT_FP_FUSION:UserWarning"),
]

SPEC = kernel_spec(KERNEL)


@pytest.mark.usefixtures("vllm")
@pytest.mark.parametrize("state", STATE_DTYPES)
@pytest.mark.parametrize("sequences", [1, 17, 256])
def test_a_layer_as_served_is_right(sequences: int, state: str) -> None:
    step = MambaStep(sequences, 64, 64, 128, 8, state_dtype=state)
    inputs = assemble(step, device="cuda")
    for config in (SPEC.default_config(step.problem), {"BLOCK_SIZE_M": 64, "num_warps": 8}):
        check(inputs, config)


@pytest.mark.usefixtures("vllm")
def test_every_config_of_the_grid_is_right() -> None:
    inputs = assemble(MambaStep(8, 24, 128, 256), device="cuda")
    for config in SPEC.search_space:
        check(inputs, config)


@pytest.mark.usefixtures("vllm")
@settings(max_examples=20, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(steps(dtypes=("bfloat16", "float16"), states=STATE_DTYPES, most=40))
def test_any_launch_matches_the_reference(step: MambaStep) -> None:
    check(assemble(step, device="cuda"))


@pytest.fixture
def device(monkeypatch: pytest.MonkeyPatch) -> Iterator[GpuDevice]:
    """A device whose processes find vLLM's kernels."""
    monkeypatch.syspath_prepend(vllm_folder())
    opened = GpuDevice(source=VLLM, compile_workers=4)
    try:
        yield opened
    finally:
        opened.close()


def test_a_study_is_never_slower_than_what_the_engine_runs_without_a_file(device: GpuDevice) -> None:
    job = job_of(MambaStep(64, 64, 64, 128, 8).problem, device)
    (one,) = Session(StudyStore(MEMORY), SessionSettings(compilers=4)).run([job])
    assert one.result is not None
    assert len(one.trials) == len(one.candidates)
    assert device.default_config(job.spec, job.problem) in [dict(trial.params) for trial in one.trials]
    reasons = {trial.user_attrs.get(REASON) for trial in one.trials}
    assert str(InvalidReason.WRONG_RESULT) not in reasons
    assert one.result.default_time_us is not None
    assert one.result.time_us <= one.result.default_time_us * 1.01
