"""Recordings of the one-launch MoE kernels, made up: times that follow from block_m as a test wants them."""

from pathlib import Path

from moe_recordings import small

from bo_tune.core.outcome import Launches, LaunchPurpose, Measurement
from bo_tune.core.space import SearchSpace
from bo_tune.formats.recording import Recording, recording_file_name
from bo_tune.formats.recording_format import DEFAULT_CONFIG
from bo_tune.kernels.moe.spec import one_launch_problems

SOURCE = "vllm 0.33.0 (one-launch path)"


def one_launch(m: int, times_us: dict[int, tuple[float, float]]) -> list[Recording]:
    """Record w13 and w2 of the bundled problem of an m.

    Args:
        times_us: block_m to the times of both.
    """
    recordings = small(m)
    made = []
    for part, problem in enumerate(one_launch_problems([recording.problem for recording in recordings])):
        path = Path(recording_file_name(recordings[0].gpu, problem))
        outcomes = [({"block_m": block_m}, _measured(both[part])) for block_m, both in times_us.items()]
        space = SearchSpace.of({"block_m": tuple(times_us)})
        gpu = recordings[0].gpu
        default = {DEFAULT_CONFIG: {"block_m": 64}}
        made.append(Recording.of(path, problem, gpu, outcomes, kernel_source=SOURCE, space=space, metadata=default))
    return made


def _measured(time_us: float) -> Measurement:
    runtimes = tuple(time_us * (1 + 0.001 * ((7 * k) % 5)) for k in range(10))
    return Measurement(runtimes, stopped=False, launches=Launches({LaunchPurpose.TIMING: 10}))
