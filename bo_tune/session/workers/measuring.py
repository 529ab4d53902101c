"""Opens the devices that the command line names, and settles how much this host does at once."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, closing, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from bo_tune.core.choices import MEMORY, MoePathChoice
from bo_tune.core.conditions import Conditions
from bo_tune.core.problem import Problem
from bo_tune.core.surroundings import Layer
from bo_tune.errors import InputError, StorageError
from bo_tune.measure.backends.base import known_identities
from bo_tune.measure.backends.registry import GpuName, backend_named, gpu_named, recordings_named
from bo_tune.measure.compile.host import CompileHost
from bo_tune.measure.deadlines import Deadlines
from bo_tune.measure.devices import Job, gpu_devices, job_of, kernel_source
from bo_tune.measure.gpu.device import GpuDevice, compile_host
from bo_tune.measure.host_state import host_digest
from bo_tune.processes.fork_server import ForkServer, Imports
from bo_tune.session.recalled import recalled_jobs
from bo_tune.session.settings import SessionSettings
from bo_tune.store.looking import looking_at
from bo_tune.tuning.settings import search_server

STUDIES_PER_SEARCHER = 2
"""Studies under way for each process that computes proposals. These take a tenth of the compilers' time, but in
bursts."""

ALL = "all"
"""Value of ``--gpus`` that stands for every GPU of the host."""


@dataclass(frozen=True, slots=True)
class Measured:
    """Names what measures, and how: a device, the kernel source, conditions, compile processes and packs.

    Attributes:
        gpus: which GPUs of this host, or ``all``; None for the device's own.
        path: which path an engine takes through the experts' adapters.
        require_idle: whether to refuse GPUs that others use.
        compile_deadline_s: after how long a compile is given up, at most; None for the device's own.
    """

    device: str
    source: str
    conditions: Conditions
    jobs: int | None
    packs: tuple[Path, ...] = ()
    gpus: str | None = None
    path: MoePathChoice = MoePathChoice.AUTO
    require_idle: bool = False
    compile_deadline_s: float | None = None

    @property
    def recordings(self) -> Path | None:
        """The folder of recordings to replay, if the device is one."""
        return recordings_named(self.device)

    @property
    def backend(self) -> str:
        """The name of the GPUs' backend, see ``measure.backends``. Raises InputError."""
        return self._named.backend

    @property
    def _named(self) -> GpuName:
        return gpu_named(self.device, "--device")

    def indices(self) -> list[int] | None:
        """Return which GPUs measure, None for all of this host.

        Raises:
            InputError: the names of the device or the GPUs have no meaning.
        """
        index = self._named.index
        if self.gpus is None:
            return [index or 0]
        if index is not None:
            raise InputError("--gpus cannot be combined with a --device that already names a GPU; leave one out")
        if self.gpus == ALL:
            return None
        words = self.gpus.split(",")
        if not all(word.isdecimal() for word in words) or len(set(words)) < len(words):
            raise InputError(f"--gpus: expected all or numbers of GPUs, comma-separated, got {self.gpus!r}")
        return [int(word) for word in words]


@dataclass(frozen=True, slots=True)
class Forks:
    """Forks the processes of a session, which import for seconds. Both are None for recordings, which need none.

    Attributes:
        host: forks those that compile and measure. Whoever opens GPUs closes it.
        searches: forks those that propose.
    """

    host: CompileHost | None = None
    searches: ForkServer | None = None


@contextmanager
def forking(measured: Measured, imports: Imports | None = None) -> Iterator[Forks]:
    """Start what forks a session's processes, before anything else that the session needs is loaded.

    Args:
        imports: a process that has begun to import what they need (``IMPORTED_FIRST``).

    Raises:
        InputError: the name of the device has no meaning.
        DeviceError: kernels cannot be compiled here.
        PackError: a pack is damaged.
    """
    if measured.recordings is not None:
        yield Forks()
        return
    measured.indices()
    deadlines = Deadlines.compiling_in(measured.compile_deadline_s)
    source, words = kernel_source(measured.source), (measured.conditions, measured.jobs, deadlines, measured.packs)
    with (
        closing(compile_host(source, *words, backend=measured.backend, imports=imports)) as host,
        closing(search_server()) as searches,
    ):
        yield Forks(host, searches)


def opened(measured: Measured, host: CompileHost | None = None) -> AbstractContextManager[list[GpuDevice]]:
    """Open this host's GPUs for the duration of the context. Raises InputError, on entry too.

    Args:
        host: forks their processes, if it has been started.
    """
    return gpu_devices(
        measured.indices(),
        backend=measured.backend,
        source=kernel_source(measured.source),
        conditions=measured.conditions,
        compile_workers=measured.jobs,
        deadlines=Deadlines.compiling_in(measured.compile_deadline_s),
        packs=measured.packs,
        require_idle=measured.require_idle,
        host=host,
    )


@contextmanager
def opened_one(measured: Measured) -> Iterator[GpuDevice]:
    """Open one GPU of this host for the duration of the context. Raises InputError and DeviceError."""
    with opened(measured) as (gpu,):
        yield gpu


def recalled(
    measured: Measured,
    storage: str,
    problems: Sequence[Problem],
    settings: SessionSettings,
    layers: Mapping[Problem, Layer],
) -> list[Job] | None:
    """Return the jobs of problems if their studies are all done in a database, else None: GPUs must then be opened.

    This starts no GPU of this host (``recalled_jobs``). Raises InputError.
    """
    vendor, source = backend_named(measured.backend), kernel_source(measured.source)

    def digest() -> str | None:
        gpus = dict(enumerate(known_identities(vendor, required=False)))
        indices = measured.indices()
        return host_digest(vendor, source, [gpus.get(index) for index in (gpus if indices is None else indices)])

    if storage == MEMORY:
        return None
    try:
        with looking_at(storage) as reader:
            return recalled_jobs(
                reader,
                digest,
                problems,
                settings,
                measured.conditions,
                layers=layers,
                path=measured.path,
                times_in_place=vendor.has_graphs,
            )
    except StorageError:  # whoever opens the database reports it
        return None


def host_gpus(measured: Measured) -> list[int]:
    """Return which of this host's GPUs measure. Raises InputError."""
    indices = measured.indices()
    return list(range(len(backend_named(measured.backend).identities()))) if indices is None else indices


def jobs_on(problems: Sequence[Problem], devices: Sequence[GpuDevice], layers: Mapping[Problem, Layer]) -> list[Job]:
    """Return the jobs of problems: one for each type of GPU, which any GPU of that type may do.

    Args:
        layers: the layers in which finalists race, by problem.
    """
    by_type: dict[str, list[GpuDevice]] = {}
    for device in devices:
        by_type.setdefault(device.gpu.name, []).append(device)
    return [job_of(p, equal[0], equal[1:], layers.get(p)) for equal in by_type.values() for p in problems]


def at_once(settings: SessionSettings, devices: Sequence[GpuDevice], studies: int) -> SessionSettings:
    """Return the settings with what this host can do at once."""
    compilers = max(device.compile_workers for device in devices)
    settings = settings.on(compilers, studies, len(devices))
    return replace(settings, searchers=1 + settings.in_flight // STUDIES_PER_SEARCHER)
