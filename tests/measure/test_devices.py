"""From what the user named as device to problems that can be measured."""

from dataclasses import replace
from pathlib import Path

import pytest
from helpers import BUNDLED, EXPAND, SHRINK, SHRINK_BIG, sliced, write_all

from bo_tune.core.problem import LoraProblem
from bo_tune.errors import RecordingError
from bo_tune.formats.recording import write_recording
from bo_tune.measure.devices import job_of, replay_job, replay_jobs


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three problems on an H100, one of them on an H200 too."""
    path = tmp_path_factory.mktemp("recordings")
    return write_all(path, sliced(SHRINK), sliced(SHRINK_BIG), sliced(EXPAND), sliced(SHRINK, gpu="NVIDIA H200"))


def test_every_recording_is_a_problem_under_its_own_gpu(folder: Path) -> None:
    jobs = replay_jobs(folder)
    assert [(job.problem.kernel, job.problem.max_loras, job.device.gpu.name) for job in jobs] == [
        ("lora_expand", 4, "NVIDIA H100 80GB HBM3"),
        ("lora_shrink", 4, "NVIDIA H100 80GB HBM3"),
        ("lora_shrink", 8, "NVIDIA H100 80GB HBM3"),
        ("lora_shrink", 4, "NVIDIA H200"),
    ]
    assert {job.device.kernel_source(job.problem.kernel) for job in jobs} == {"vllm 0.33.0"}


def test_named_problems_are_replayed_in_their_order_on_every_gpu(folder: Path) -> None:
    problems = [sliced(SHRINK).problem, sliced(EXPAND).problem]
    jobs = replay_jobs(folder, problems=problems)
    assert [(job.problem, job.device.gpu.name) for job in jobs] == [
        (problems[0], "NVIDIA H100 80GB HBM3"),
        (problems[0], "NVIDIA H200"),
        (problems[1], "NVIDIA H100 80GB HBM3"),
    ]


def test_kernels_can_be_chosen(folder: Path) -> None:
    jobs = replay_jobs(folder, kernels=["lora_expand"], problems=[sliced(SHRINK).problem, sliced(EXPAND).problem])
    assert [job.problem.kernel for job in jobs] == ["lora_expand"]


def test_a_problem_that_is_not_recorded_is_named(folder: Path) -> None:
    missing = LoraProblem("lora_shrink", 4, 1, 17, 4096, 16)
    with pytest.raises(
        RecordingError,
        match=r"1 of the 2 problems .* the first is lora_shrink "
        r"L4\.s1\.m17\.k4096\.n16",
    ):
        replay_jobs(folder, problems=[sliced(SHRINK).problem, missing])


def test_no_recording_of_a_kernel(tmp_path: Path) -> None:
    write_all(tmp_path, sliced(EXPAND))
    with pytest.raises(RecordingError, match="no recording of lora_shrink"):
        replay_jobs(tmp_path, kernels=["lora_shrink"])


def test_two_recordings_of_one_problem_and_gpu_are_refused(tmp_path: Path) -> None:
    write_all(tmp_path, sliced(SHRINK))
    write_recording(tmp_path / "z.t4.json", sliced(SHRINK))
    with pytest.raises(RecordingError, match=rf"z\.t4\.json records the same problem as {SHRINK}; remove one of them"):
        replay_jobs(tmp_path)


def test_two_sources_of_one_problem_may_stand_side_by_side(tmp_path: Path) -> None:
    write_all(tmp_path, sliced(SHRINK))
    write_recording(tmp_path / "z.t4.json", replace(sliced(SHRINK), kernel_source="vllm 0.34.0"))
    assert len(replay_jobs(tmp_path)) == 2


def test_the_bundled_recordings_are_jobs() -> None:
    jobs = replay_jobs(BUNDLED)
    assert len(jobs) == 8
    assert {job.problem.kernel for job in jobs} == {"lora_shrink", "lora_expand"}


def test_a_job_keeps_to_one_of_several_equal_gpus_in_each_lane() -> None:
    devices = [replay_job(sliced(SHRINK, m=m)).device for m in (1, 2, 3)]
    job = job_of(sliced(SHRINK).problem, devices[0], tuple(devices[1:]))
    assert [job.on(lane).device for lane in range(5)] == [*devices, *devices[:2]]
    assert all(job.on(lane).twins == () for lane in range(3))
    alone = job_of(job.problem, devices[0])
    assert alone.on(4) is alone
