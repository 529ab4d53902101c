"""The published vLLM's fused MoE kernels through the adapter, on a GPU."""

from collections.abc import Iterator

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from moe_cases import KERNELS, ONE_LAUNCH, assemble, check, launches, moe_problem
from vllm_wheel import vllm_folder

from bo_tune.core.choices import MEMORY
from bo_tune.core.problem import Experts
from bo_tune.kernels.registry import kernel_spec
from bo_tune.kernels.vllm import operations
from bo_tune.measure.devices import job_of, with_deciding
from bo_tune.measure.gpu.device import GpuDevice
from bo_tune.measure.source import VLLM
from bo_tune.session.session import Session, SessionSettings
from bo_tune.store.storage import StudyStore

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU"),
    pytest.mark.filterwarnings("ignore:TRITON_DEFAULT_FP_FUSION:UserWarning"),
    pytest.mark.usefixtures("vllm"),
]

QWEN_3 = {"max_loras": 4, "k": 16, "n": 2048, "i": 768, "experts": Experts(128, 8), "dtype": "bfloat16"}


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("m", [1, 256])
def test_a_layer_as_served_is_right(kernel, m):
    problem = moe_problem(kernel, m=m, **QWEN_3)
    inputs = assemble(problem, [token % 5 - 1 for token in range(m)], device="cuda")
    for block_m in (16, 64):
        check(inputs, {**kernel_spec(kernel).default_config(problem), "block_m": block_m}, operations)


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("m", [1, 8, 64, 1000])
def test_large_ranks_are_right_with_tensor_descriptors(kernel, m):
    """Sorted and not; unsorted up to m 8."""
    problem = moe_problem(kernel, m=m, **{**QWEN_3, "k": 256})
    inputs = assemble(problem, [token % 5 - 1 for token in range(m)], device="cuda", source=operations)
    default = kernel_spec(kernel).default_config(problem)
    for changes in ({}, {"block_m": 32, "block_n": 32, "block_k": 32}, {"block_m": 64, "split_k": 4}):
        check(inputs, {**default, **{name: value for name, value in changes.items() if name in default}}, operations)


@settings(max_examples=20, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(launches(dtypes=("bfloat16", "float16"), most_tokens=100, most_k=128, most_n=256, most_block=128))
def test_any_launch_matches_the_reference(case):
    problem, config, assignment = case
    check(assemble(problem, assignment, device="cuda"), config, operations)


@pytest.mark.parametrize("kernel", ONE_LAUNCH)
@pytest.mark.parametrize(("m", "rank"), [(1, 16), (256, 64)])
def test_a_layer_as_served_is_right_in_one_launch(kernel, m, rank):
    problem = moe_problem(kernel, **{**QWEN_3, "m": m, "k": rank})
    inputs = assemble(problem, [token % 5 - 1 for token in range(m)], device="cuda", source=operations)
    for block_m in kernel_spec(kernel).search_space.ranges["block_m"]:
        check(inputs, {"block_m": block_m}, operations)


@settings(max_examples=15, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(
    launches(
        dtypes=("bfloat16", "float16"), most_tokens=100, most_k=128, most_n=256, most_block=128, kernels=ONE_LAUNCH
    )
)
def test_any_one_launch_matches_the_reference(case):
    problem, config, assignment = case
    check(assemble(problem, assignment, device="cuda", source=operations), config, operations)


@pytest.fixture
def device(monkeypatch) -> Iterator[GpuDevice]:
    """A device whose processes find vLLM's kernels."""
    monkeypatch.syspath_prepend(vllm_folder())
    opened = GpuDevice(source=VLLM, compile_workers=4)
    try:
        yield opened
    finally:
        opened.close()


def test_the_launch_that_runs_decides_on_block_m(device):
    problems = [moe_problem(kernel, **{**QWEN_3, "m": 16, "experts": Experts(16, 2)}) for kernel in KERNELS]
    jobs = with_deciding([job_of(problem, device) for problem in problems])
    assert [job.problem.kernel for job in jobs] == [*KERNELS, *ONE_LAUNCH]
    tuned = Session(StudyStore(MEMORY), SessionSettings(budget=3, compilers=4)).run(jobs)
    found = {one.job.problem.kernel: one for one in tuned}
    assert {one.result.config["block_m"] for one in tuned} == {found[ONE_LAUNCH[0]].result.config["block_m"]}
    for kernel in ONE_LAUNCH:
        trials = found[kernel].trials
        assert sorted(trial.params["block_m"] for trial in trials) == [16, 32, 64, 128]
        assert all(trial.value is not None for trial in trials), "a result is wrong"
    joint = found[KERNELS[0]].result.joint
    assert joint.decided_by.kernels == tuple(ONE_LAUNCH)
    assert 0 < joint.decided_by.time_us <= joint.decided_by.default_time_us * 1.01
