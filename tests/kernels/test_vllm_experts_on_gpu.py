"""The published vLLM's kernel of the base model's experts through the adapter, on a GPU."""

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from experts_cases import assemble, check, launches
from hypothesis import HealthCheck, given, settings
from vllm_wheel import vllm_folder

from bo_tune.core.choices import MEMORY
from bo_tune.core.outcome import InvalidReason
from bo_tune.core.problem import Experts
from bo_tune.kernels.experts.step import KERNEL, ExpertsStep
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

QWEN = Experts(128, 8)
SPEC = kernel_spec(KERNEL)


@pytest.mark.usefixtures("vllm")
@pytest.mark.parametrize("experts", [QWEN, Experts(128, 8, local=32)], ids=["all", "expert parallel"])
@pytest.mark.parametrize("m", [1, 4, 16, 256, 1000])
def test_a_layer_as_served_is_right(m: int, experts: Experts) -> None:
    step = ExpertsStep(m, experts, hidden=2048, n=768)
    inputs = assemble(step, device="cuda")
    default = SPEC.default_config(step.problem)
    for changes in ({}, {"BLOCK_SIZE_M": 128, "num_warps": 8}, {"GROUP_SIZE_M": 32, "num_stages": 2}):
        check(inputs, {**default, **changes})


HELD = {
    "fp8, blocks": {"weights": "fp8_w8a8", "block": (128, 128)},
    "fp8, an expert": {"weights": "fp8_w8a8"},
    "int8": {"weights": "int8_w8a16", "block": (0, 128)},
    "int8, zero points": {"weights": "int8_w8a16", "block": (0, 128), "zeros": True},
    "int4": {"weights": "int4_w4a16", "block": (0, 128)},
    "int4, zero points": {"weights": "int4_w4a16", "block": (0, 128), "zeros": True},
}


@pytest.mark.usefixtures("vllm")
@pytest.mark.parametrize("held", HELD.values(), ids=HELD)
@pytest.mark.parametrize("experts", [QWEN, Experts(128, 8, local=32)], ids=["all", "expert parallel"])
@pytest.mark.parametrize("m", [1, 16, 512])
def test_weights_of_fewer_bits_are_right(m: int, experts: Experts, held: dict[str, Any]) -> None:
    inputs = assemble(ExpertsStep(m, experts, hidden=2048, n=768, **held), device="cuda")
    tile = {"BLOCK_SIZE_N": 64, "BLOCK_SIZE_K": 64, "GROUP_SIZE_M": 1, "num_warps": 4, "num_stages": 3}
    for changes in ({"BLOCK_SIZE_M": 16}, {"BLOCK_SIZE_M": 64}, {"BLOCK_SIZE_M": 32, "BLOCK_SIZE_K": 128}):
        check(inputs, {**tile, **changes})


@pytest.mark.usefixtures("vllm")
def test_every_number_of_rows_and_columns_of_the_grid_is_right() -> None:
    step = ExpertsStep(300, Experts(8, 2), hidden=1024, n=512)
    inputs = assemble(step, device="cuda")
    ranges = SPEC.search_space.ranges
    for rows in ranges["BLOCK_SIZE_M"]:
        for columns in ranges["BLOCK_SIZE_N"]:
            tile = {"BLOCK_SIZE_M": rows, "BLOCK_SIZE_N": columns, "BLOCK_SIZE_K": 64, "GROUP_SIZE_M": 16}
            check(inputs, {**tile, "num_warps": 8, "num_stages": 2})


@pytest.mark.usefixtures("vllm")
@settings(max_examples=20, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(launches(dtypes=("bfloat16", "float16"), most_tokens=100, most_size=256, most_block=128))
def test_any_launch_matches_the_reference(case: tuple[ExpertsStep, dict[str, int]]) -> None:
    step, config = case
    check(assemble(step, device="cuda"), config)


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
    job = job_of(ExpertsStep(1024, Experts(8, 2), hidden=4096, n=1792).problem, device)
    (one,) = Session(StudyStore(MEMORY), SessionSettings(budget=12, compilers=4)).run([job])
    assert one.result is not None
    assert device.default_config(job.spec, job.problem) in [dict(trial.params) for trial in one.trials]
    reasons = {trial.user_attrs.get(REASON) for trial in one.trials}
    assert str(InvalidReason.WRONG_RESULT) not in reasons
    assert one.result.default_time_us is not None
    assert one.result.time_us <= one.result.default_time_us * 1.01
