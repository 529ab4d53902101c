"""What is said of kernels that their engine may run otherwise."""

from dataclasses import dataclass

import pytest
from helpers import FakeDevice
from moe_recordings import small

from bo_tune.core.problem import LoraProblem
from bo_tune.core.space import SearchSpace
from bo_tune.measure.devices import engine_notes, job_of, replay_job

pytestmark = pytest.mark.slow

SPACE = SearchSpace.of({"block_m": (16,)})


@dataclass
class Noting(FakeDevice):
    """A device that has something to say of every problem."""

    def note(self, problem: LoraProblem) -> str | None:
        return f"rank {problem.k}"


def test_each_line_is_said_once_and_only_of_kernels_that_must_agree() -> None:
    device = Noting(times=lambda config: 1.0, space=SPACE)
    jobs = [job_of(recording.problem, device) for recording in [*small(16), *small(256)]]
    assert engine_notes([*jobs, job_of(LoraProblem("lora_shrink", 4, 1, 16, 4096, 32), device)]) == ["rank 16"]


def test_recordings_have_nothing_to_say() -> None:
    assert engine_notes([replay_job(recording) for recording in small(16)]) == []
