"""From what the user named as device to problems that can be measured."""

from collections.abc import Collection, Hashable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from bo_tune.conditions import Conditions
from bo_tune.errors import DeviceError, RecordingError
from bo_tune.kernels.registry import KERNELS, kernel_spec
from bo_tune.kernels.vllm.installed import unavailable
from bo_tune.measure.device import Device
from bo_tune.measure.protocol import TimingProtocol
from bo_tune.measure.replay import ReplayDevice
from bo_tune.measure.source import BUILTIN, VLLM
from bo_tune.problem import GpuInfo, Problem
from bo_tune.recording import Recording, read_recordings

if TYPE_CHECKING:
    from bo_tune.measure.cuda import CudaDevice
    from bo_tune.measure.target import CompileTarget


KERNEL_SOURCES = ("auto", "vllm", "builtin")
"""Whose kernels are measured: those of the installed vLLM, the project's own, or the first of these there is."""


def kernel_source(choice: str) -> str:
    """Return the module of a choice of ``KERNEL_SOURCES``. Raises DeviceError where vLLM's kernels cannot be had."""
    if choice == "builtin":
        return BUILTIN
    missing = unavailable()
    if missing is None:
        return VLLM
    if choice == "auto":
        return BUILTIN
    raise DeviceError(f"--kernels vllm: {missing}")


@dataclass(frozen=True, slots=True)
class Job:
    """A problem and the device that measures it.

    Attributes:
        twins: equal devices that could measure it just as well.
    """

    problem: Problem
    device: Device
    twins: tuple[Device, ...] = ()

    @property
    def devices(self) -> tuple[Device, ...]:
        """Every device that could measure it."""
        return (self.device, *self.twins)

    def on(self, lane: int) -> "Job":
        """Return the job for one of its devices, the same for the same lane."""
        return replace(self, device=self.devices[lane % len(self.devices)], twins=()) if self.twins else self


def together(jobs: Sequence[Job]) -> list[list[Job]]:
    """Return the jobs in groups whose kernels must agree (``KernelSpec.joint_group``), most of them single jobs.

    Groups stand in the order of their first jobs, and the jobs of a group in the order in which a layer runs them.
    """
    groups: dict[Hashable, list[Job]] = {}
    for job in jobs:
        group = kernel_spec(job.problem.kernel).joint_group(job.problem)
        place = (job.device.gpu.name, job.device.kernel_source(job.problem.kernel))
        groups.setdefault(id(job) if group is None else (group, place), []).append(job)
    order = list(KERNELS)
    return [sorted(group, key=lambda job: order.index(job.problem.kernel)) for group in groups.values()]


def replay_job(recording: Recording, *, seed: int = 0, protocol: TimingProtocol | None = None) -> Job:
    """Return the job that replays one recording."""
    default = kernel_spec(recording.problem.kernel).default_config(recording.problem)
    return Job(recording.problem, ReplayDevice(recording, default, seed=seed, protocol=protocol))


def replay_jobs(
    folder: Path, *, problems: Sequence[Problem] | None = None, kernels: Collection[str] = (), seed: int = 0
) -> list[Job]:
    """Return the jobs that replay the recordings of a folder.

    Args:
        problems: which ones, on every GPU they are recorded for; None for every recording.
        kernels: keep these kernels only; empty for all.

    Raises:
        RecordingError: a recording cannot be read, or a problem is not recorded, or twice for one GPU.
    """
    recordings = [r for r in read_recordings(folder) if not kernels or r.problem.kernel in kernels]
    seen: dict[tuple[Problem, str, str], Recording] = {}
    for recording in recordings:
        twin = seen.setdefault((recording.problem, recording.gpu.name, recording.kernel_source), recording)
        if twin is not recording:
            raise RecordingError(f"{recording.path}: records the same problem as {twin.path.name}")
    if problems is not None:
        wanted = [p for p in problems if not kernels or p.kernel in kernels]
        recorded = {r.problem for r in recordings}
        missing = [p for p in wanted if p not in recorded]
        if missing:
            raise RecordingError(
                f"{folder}: {len(missing)} of {len(wanted)} problems are not recorded, the first is {missing[0]}"
            )
        recordings = [r for p in wanted for r in recordings if r.problem == p]
    if not recordings:
        raise RecordingError(f"{folder}: no recording of {', '.join(sorted(kernels))}")
    return [replay_job(r, seed=seed) for r in recordings]


def cuda_device(
    index: int,
    *,
    source: str = BUILTIN,
    conditions: Conditions | None = None,
    compile_workers: int | None = None,
    compile_deadline_s: float | None = None,
    packs: Sequence[Path] = (),
) -> "CudaDevice":
    """Open an NVIDIA GPU of this host. Raises DeviceError and PackError."""
    # The only import of torch in this process, which takes seconds: replaying does without.
    from bo_tune.measure.cuda import CudaDevice, Deadlines  # noqa: PLC0415

    deadlines = Deadlines() if compile_deadline_s is None else Deadlines(compile_s=compile_deadline_s)
    return CudaDevice(
        index,
        source=source,
        conditions=conditions,
        compile_workers=compile_workers,
        deadlines=deadlines,
        packs=packs,
    )


def engine_notes(jobs: Sequence[Job]) -> list[str]:
    """Return what the kernels have to say of being tuned, each line once."""
    together = [job for job in jobs if kernel_spec(job.problem.kernel).joint_group(job.problem) is not None]
    notes = dict.fromkeys(job.device.note(job.problem) for job in together)
    return [note for note in notes if note is not None]


def cuda_devices(
    indices: Sequence[int] | None,
    *,
    source: str = BUILTIN,
    conditions: Conditions | None = None,
    compile_workers: int | None = None,
    compile_deadline_s: float | None = None,
    packs: Sequence[Path] = (),
) -> "AbstractContextManager[list[CudaDevice]]":
    """Open NVIDIA GPUs of this host, None for all, while it lasts. Raises DeviceError and PackError on entry."""
    # The only import of torch in this process, which takes seconds: replaying does without.
    from bo_tune.measure import cuda  # noqa: PLC0415

    deadlines = cuda.Deadlines() if compile_deadline_s is None else cuda.Deadlines(compile_s=compile_deadline_s)
    return cuda.cuda_devices(
        indices,
        source=source,
        conditions=conditions,
        compile_workers=compile_workers,
        deadlines=deadlines,
        packs=packs,
    )


def compile_target(gpu: GpuInfo, source: str, *, cache: Path, workers: int, deadline_s: float) -> "CompileTarget":
    """Return what compiles for a GPU that is known by its data alone, into a folder of Triton's cache."""
    # Imports torch, like ``cuda_device``.
    from bo_tune.measure.target import CompileTarget  # noqa: PLC0415

    return CompileTarget(gpu, source, cache=cache, workers=workers, deadline_s=deadline_s)
