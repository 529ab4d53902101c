"""Turns the devices that the user named into jobs: problems with a device that measures them."""

from collections.abc import Callable, Collection, Hashable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from bo_tune.core.choices import EngineChoice, MoePathChoice
from bo_tune.core.conditions import Conditions
from bo_tune.core.problem import DEFAULT_BACKEND, GpuInfo, LoraProblem, Problem
from bo_tune.core.repetitions import TimingProtocol
from bo_tune.core.surroundings import Layer
from bo_tune.errors import DeviceError, InputError, RecordingError
from bo_tune.formats.recording import Recording, read_recordings
from bo_tune.kernels.moe.spec import one_launch_problems
from bo_tune.kernels.registry import IN_ORDER, kernel_spec
from bo_tune.kernels.sglang import installed as sglang
from bo_tune.kernels.spec import AnySpec
from bo_tune.kernels.vllm.installed import unavailable
from bo_tune.measure.backends.base import known_identities
from bo_tune.measure.backends.registry import backend_named
from bo_tune.measure.compile.compilers import Compilers
from bo_tune.measure.compile.host import CompileHost
from bo_tune.measure.deadlines import Deadlines
from bo_tune.measure.device import Device
from bo_tune.measure.gpu.device import COMPILE_MODULE, GpuDevice, compile_host
from bo_tune.measure.host_state import HostState, host_digest
from bo_tune.measure.replay import ReplayDevice
from bo_tune.measure.source import BUILTIN, SGLANG, VLLM
from bo_tune.processes.fork_server import IMPORTED_FIRST

OWN_INSTEAD = "bo_tune tunes its own kernels instead, which no engine runs; pass --kernels builtin if you want that"


def kernel_source(choice: str) -> str:
    """Return the module for a choice of ``KERNEL_SOURCES``. Raises DeviceError if its kernels are not available."""
    if choice == "builtin":
        return BUILTIN
    if choice == EngineChoice.SGLANG:
        if missing := sglang.unavailable():
            raise DeviceError(f"--kernels sglang: {missing}")
        return SGLANG
    missing = unavailable()
    if missing is None:
        return VLLM
    if choice == "auto":
        return BUILTIN
    raise DeviceError(f"--kernels vllm: {missing}")


def fallback_warning(choice: str) -> str | None:
    """Return the warning to show if ``auto`` means the project's own kernels here, or None."""
    missing = unavailable() if choice == "auto" else None
    return None if missing is None else f"{missing}: {OWN_INSTEAD}"


@dataclass(frozen=True, slots=True)
class Job:
    """A problem, the spec of its kernel, and the device that measures it.

    Attributes:
        spec: what a search needs to know about the problem's kernel.
        twins: equal devices that could measure it just as well.
        layer: the layer of a model in which the kernel runs, if known.
        serves: names of the layers that look its config up, for people.
    """

    problem: Problem
    spec: AnySpec
    device: Device
    twins: tuple[Device, ...] = ()
    layer: Layer | None = None
    serves: tuple[str, ...] = ()

    @property
    def devices(self) -> tuple[Device, ...]:
        """Every device that could measure the problem."""
        return (self.device, *self.twins)

    def races_in(self, *, decided: bool) -> Layer | None:
        """Return the layer in which the finalists of the job's study race, or None if they race alone.

        Args:
            decided: whether other kernels decide for this one because an engine launches them instead.
        """
        return self.layer if self.device.times_in_place and not decided else None

    def on(self, lane: int) -> "Job":
        """Return the job for one of its devices. The same lane always gets the same device."""
        return replace(self, device=self.devices[lane % len(self.devices)], twins=()) if self.twins else self


def job_of(problem: Problem, device: Device, twins: Sequence[Device] = (), layer: Layer | None = None) -> Job:
    """Return the job of a problem, looking its kernel up by name. Raises InputError if there is no such kernel."""
    return Job(problem, kernel_spec(problem.kernel), device, tuple(twins), layer)


def together(jobs: Sequence[Job]) -> list[list[Job]]:
    """Return the jobs in groups whose kernels must agree (``KernelSpec.joint_group``). Most groups hold one job.

    Groups are in the order of their first jobs. Within a group, jobs are in the order in which a layer runs them, with
    those that decide for the others first.
    """
    groups: dict[Hashable, list[Job]] = {}
    for job in jobs:
        group = job.spec.joint_group(job.problem)
        groups.setdefault(id(job) if group is None else (group, _place(job)), []).append(job)
    order = {name: place for place, name in enumerate(IN_ORDER)}
    return [sorted(group, key=lambda job: order.get(job.problem.kernel, 0)) for group in groups.values()]


def _place(job: Job) -> tuple[str, str]:
    """Return a job's GPU and the code it measures, ignoring which of several paths through that code runs."""
    return job.device.gpu.name, job.device.kernel_source(job.problem.kernel).partition(" (")[0]


def with_deciding(jobs: Sequence[Job], path: MoePathChoice = MoePathChoice.AUTO) -> list[Job]:
    """Return the jobs together with those of the kernels that decide for some of them.

    Args:
        path: which path the engine is assumed to take; ``AUTO`` asks the devices.

    Raises:
        InputError: the problems do not have that path.
    """
    if path is MoePathChoice.TWO_KERNELS:
        return list(jobs)
    added = []
    for group in together(jobs):
        first, problems = group[0], _engine_problems(group)
        if path is MoePathChoice.ONE_LAUNCH:
            deciding = list(one_launch_problems(problems))
            _check_one_launch(first, deciding)
            for problem in deciding:  # raises if the kernel source has none
                first.device.kernel_source(problem.kernel)
        else:
            deciding = deciding_problems(problems, first.device.decided_by)
        added += [job_of(problem, first.device, first.twins, first.layer) for problem in deciding]
    return [*jobs, *added]


def deciding_problems(
    problems: Sequence[Problem], decided_by: Callable[[LoraProblem], Collection[str]]
) -> list[LoraProblem]:
    """Return the problems of the kernels that decide for some of these problems.

    Args:
        decided_by: names the kernels that decide for a problem's kernel (``Device.decided_by``).
    """
    groups: dict[Hashable, list[LoraProblem]] = {}
    for problem in problems:
        if isinstance(problem, LoraProblem):
            groups.setdefault(kernel_spec(problem.kernel).joint_group(problem), []).append(problem)
    found: list[LoraProblem] = []
    for key, group in groups.items():
        deciding = one_launch_problems(group) if key is not None else ()
        names = decided_by(group[0]) if deciding else ()
        found += [problem for problem in deciding if problem.kernel in names]
    return found


def _engine_problems(jobs: Sequence[Job]) -> list[LoraProblem]:
    return [problem for job in jobs if isinstance(problem := job.problem, LoraProblem)]


def _check_one_launch(job: Job, deciding: Sequence[LoraProblem]) -> None:
    """Check that the job has a one-launch path. Raises InputError if not."""
    if job.spec.joint_group(job.problem) is not None and not deciding:
        raise InputError(
            f"--moe-path {MoePathChoice.ONE_LAUNCH} needs all four kernels of a layer whose adapters are not "
            f"fully sharded, which {job.problem} is not part of"
        )


def replay_job(recording: Recording, *, seed: int = 0, protocol: TimingProtocol | None = None) -> Job:
    """Return the job that replays one recording."""
    return job_of(recording.problem, ReplayDevice(recording, recording.default_config, seed=seed, protocol=protocol))


def replay_jobs(
    folder: Path,
    *,
    problems: Sequence[Problem] | None = None,
    kernels: Collection[str] = (),
    seed: int = 0,
    path: MoePathChoice = MoePathChoice.AUTO,
) -> list[Job]:
    """Return the jobs that replay the recordings of a folder.

    Args:
        problems: which problems, on every GPU they are recorded for; None for every recording.
        kernels: keep only these kernels and those that decide for them; empty for all.
        path: which path an engine takes. It says whether kernels that decide are left out, used if recorded, or
            required.

    Raises:
        RecordingError: a recording cannot be read, or a problem is not recorded, or is recorded twice for one GPU.
    """
    found = read_recordings(folder, known_alone=bool(kernels))
    recordings = [r for r in found if not kernels or r.problem.kernel in kernels]
    seen: dict[tuple[Problem, str, str], Recording] = {}
    for recording in recordings:
        twin = seen.setdefault((recording.problem, recording.gpu.name, recording.kernel_source), recording)
        if twin is not recording:
            raise RecordingError(f"{recording.path} records the same problem as {twin.path.name}; remove one of them")
    if problems is not None:
        wanted = [p for p in problems if not kernels or p.kernel in kernels]
        recorded = {r.problem for r in recordings}
        missing = [p for p in wanted if p not in recorded]
        if missing:
            raise RecordingError(
                f"{folder}: {len(missing)} of the {len(wanted)} problems have no recording; the first is {missing[0]}"
            )
        recordings = [r for p in wanted for r in recordings if r.problem == p]
    if not recordings:
        raise RecordingError(f"{folder}: there is no recording of {', '.join(sorted(kernels))}")
    jobs = [replay_job(r, seed=seed) for r in recordings]
    deciding = [job for r in found if (job := replay_job(r, seed=seed)).spec.decides]
    return _with_recorded(jobs, deciding, path)


def _with_recorded(jobs: Sequence[Job], deciding: Sequence[Job], path: MoePathChoice) -> list[Job]:
    """Return the jobs plus the recorded ones that decide for some of them, without any others that decide."""
    chosen = [job for job in jobs if not job.spec.decides]
    for group in together(chosen) if path is not MoePathChoice.TWO_KERNELS else []:
        wanted = one_launch_problems(_engine_problems(group))
        found = [job for job in deciding if job.problem in wanted and _place(job) == _place(group[0])]
        if path is MoePathChoice.ONE_LAUNCH:
            _check_one_launch(group[0], wanted)
            if len(found) < len(wanted):
                raise RecordingError(f"--moe-path {path}: there is no recording of that path for {group[0].problem}")
        chosen += found
    return chosen


def engine_notes(jobs: Sequence[Job]) -> list[str]:
    """Return what the devices say about tuning these kernels, each line once."""
    together = [job for job in jobs if job.spec.joint_group(job.problem) is not None]
    notes = dict.fromkeys(job.device.note(job.problem) for job in together)
    return [note for note in notes if note is not None]


@contextmanager
def gpu_devices(
    indices: Sequence[int] | None,
    *,
    backend: str = DEFAULT_BACKEND,
    source: str = BUILTIN,
    conditions: Conditions | None = None,
    compile_workers: int | None = None,
    deadlines: Deadlines | None = None,
    packs: Sequence[Path] = (),
    require_idle: bool = False,
    host: CompileHost | None = None,
) -> Iterator[list[GpuDevice]]:
    """Open GPUs of this host for the duration of the context. They share compilers.

    Args:
        host: forks their processes, and is closed at the end. By default one is started, with ``packs``.
        indices: which GPUs; None for all.
        backend: the name of their vendor's backend, see ``measure.backends``.
        require_idle: whether to refuse GPUs that others use.

    Raises:
        DeviceError: a GPU cannot be used, or there is none.
        PackError: a pack is damaged, or was made for something else.
    """
    deadlines, vendor = deadlines or Deadlines(), backend_named(backend)
    if host is None:
        host = compile_host(source, conditions or Conditions(), compile_workers, deadlines, packs, backend=backend)
    opened: list[GpuDevice] = []
    try:
        identities = dict(enumerate(known_identities(vendor, required=indices is None)))
        chosen = identities.keys() if indices is None else indices
        if not chosen:
            raise DeviceError(f"no {vendor.vendor} GPU was found; to replay recorded grids, use --device replay:DIR")
        with ThreadPoolExecutor(len(chosen) + 1) as threads:  # each takes seconds to start
            one = partial(GpuDevice, backend=backend, source=source, conditions=conditions, deadlines=deadlines)
            one = partial(one, host=host, require_idle=require_idle)
            futures = [threads.submit(one, index, identity=identities.get(index)) for index in chosen]
            known = [identities.get(index) for index in chosen]
            digest = threads.submit(host_digest, vendor, source, known, unchanged_since=host.server.began)
        opened += [future.result() for future in futures if future.exception() is None]
        for future in futures:
            future.result()
        _note_host(opened, digest.result())
        yield opened
    finally:
        for device in opened:
            device.close()
        host.close()


def _note_host(opened: Sequence[GpuDevice], digest: str | None) -> None:
    """Tell the devices in which state of the host they were opened, if that is known."""
    if digest is not None:
        state = HostState(digest, tuple(sorted({device.gpu.name for device in opened})))
        for device in opened:
            device.host = state


@contextmanager
def compilers_for(
    gpu: GpuInfo, source: str, *, cache: Path, workers: int, deadline_s: float, conditions: Conditions
) -> Iterator[Compilers]:
    """Start compilers, for the duration of the context, for a GPU that is known only by its description.

    Args:
        cache: folder for Triton's cache, which keeps the machine code but none of the stages before it.
        workers: compile processes.
        deadline_s: seconds after which a compile is given up, at most.
        conditions: under which the binaries will be launched.

    Raises:
        DeviceError: the kernel source cannot be used.
    """
    vendor = backend_named(gpu.backend)
    environment = {**vendor.environment, **conditions.environment, "TRITON_STORE_BINARY_ONLY": "1"}
    environment["TRITON_CACHE_DIR"] = str(cache.resolve())
    modules = [*IMPORTED_FIRST, COMPILE_MODULE, vendor.children, source]
    host = CompileHost(modules, environment, source, workers=workers, deadline_s=deadline_s)
    try:
        yield host.compilers(gpu)
    finally:
        host.close()
