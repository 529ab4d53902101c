"""What a vendor of GPUs must answer. Imports neither torch nor triton.

A vendor has three parts, because they live in different processes. ``Backend`` is asked by the process that tunes,
which loads neither torch nor triton. ``CompilerSide`` is asked in the processes that compile, ``GpuSide`` in the one
that owns a GPU. Child processes are told the name of the module that holds the two (``Backend.children``).
"""

import json
import subprocess
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, ClassVar, Protocol, cast

from bo_tune.core.conditions import ASSEMBLER, Timing
from bo_tune.core.gpus import TargetGpu
from bo_tune.core.outcome import Resources
from bo_tune.core.problem import GpuInfo
from bo_tune.errors import DeviceError, one_line
from bo_tune.measure.watch.neighbours import GpuWatch
from bo_tune.processes.interpreter import python_command

if TYPE_CHECKING:
    import torch
    from triton.backends.compiler import GPUTarget

    from bo_tune.measure.gpu.timing import Launch, Timed


ANSWER_TIMEOUT_S = 120.0
"""The driver may have to wake every GPU up first."""


@dataclass(frozen=True, slots=True)
class GpuIdentity:
    """Which GPU one is, whatever number it has here. Either is "" where the driver does not tell.

    Attributes:
        uuid: without a prefix; of a part of a GPU the part's.
        bus_id: where it is plugged in.
        info: what is asked of a GPU before anything is measured; None where only a process that uses it can tell.
    """

    uuid: str
    bus_id: str
    info: GpuInfo | None = None


@dataclass(frozen=True, slots=True)
class FittedGpu:
    """A GPU that a host has, whether or not it may be used from here.

    Attributes:
        is_partitioned: whether its instances alone can be used.
    """

    name: str
    is_partitioned: bool


class Backend(ABC):
    """A vendor, as the process that tunes knows it.

    Attributes:
        name: the first word of its devices (``cuda:0``) and targets (``cuda:90``), and ``GpuInfo.backend``. It is what
            Triton calls its own backend for these GPUs.
        vendor: its name in messages, as in "no NVIDIA GPU found".
        device: what its GPUs are called in messages, as in "CUDA device 0".
        assembler: the name of its assembler in the toolchain of a study.
        children: the module that holds a ``CompilerSide`` and a ``GpuSide``, named so. It may have a function
            ``gpu_is_in_use()``, which says whether its process uses the driver (``processes.fork_server``).
        environment: variables that its child processes need.
        target_form: how its targets are written, for messages.
        has_graphs: whether launches can be captured in a graph and replayed, so that kernels can be timed in place.
        visibility: variables that decide which GPUs a process may use.
        driver_help: what to do where there is no driver.
        partition_help: what to do where a GPU's instances alone can be used, and there are none.
        processes_help: the command that lists who uses a GPU.
    """

    name: ClassVar[str]
    vendor: ClassVar[str]
    device: ClassVar[str]
    assembler: ClassVar[str] = ASSEMBLER
    children: ClassVar[str]
    environment: ClassVar[Mapping[str, str]] = MappingProxyType({})
    target_form: ClassVar[str]
    has_graphs: ClassVar[bool] = False
    visibility: ClassVar[tuple[str, ...]] = ()
    driver_help: ClassVar[str] = "install the vendor's driver; in a container, hand the GPUs through to it"
    partition_help: ClassVar[str] = "make an instance, or end the GPU's partitioning"
    processes_help: ClassVar[str] = "the vendor's tools"

    @abstractmethod
    def identities(self) -> Sequence[GpuIdentity]:
        """Return this host's GPUs that can be used, in the order of their numbers.

        This process forks children that use GPUs, so it must not ask the driver itself (``told_by``).

        Raises:
            DeviceError: they cannot be counted.
        """

    def driver_release(self) -> str | None:
        """Return which driver this host has, without starting a GPU. None where that cannot be told.

        Only then may what a GPU said of itself before be taken for what it would say now (``measure.host_state``).
        """
        return None

    def fitted(self) -> Sequence[FittedGpu]:
        """Return the GPUs of this host that its driver knows, whether or not they may be used from here; none where it
        does not tell."""
        return ()

    @abstractmethod
    def watch(self, identity: GpuIdentity) -> GpuWatch:
        """Return what tells who else uses a GPU. Raises WatchError where nothing does."""

    @abstractmethod
    def target_gpu(self, architecture: str, name: str | None) -> TargetGpu | None:
        """Return a GPU to compile for that need not be here. None where there is no such architecture.

        Args:
            architecture: what follows the backend in the name of a target: the 90 of ``cuda:90``.
            name: of the GPU; None for any of the architecture.
        """


class CompilerSide(ABC):
    """A vendor in a process that compiles, with or without a GPU.

    Attributes:
        errors: what its assembler raises for a config that cannot be compiled. Triton's own errors are known anyway.
    """

    errors: ClassVar[tuple[type[Exception], ...]] = ()

    @abstractmethod
    def target(self, gpu: GpuInfo) -> "GPUTarget":
        """Return what Triton compiles for."""

    @abstractmethod
    def resources(self, kernel: Any) -> Resources:
        """Return what a compiled kernel uses, read from its binary."""

    @abstractmethod
    def assembler_version(self, target: "GPUTarget") -> str:
        """Return how the assembler names its release, in its last line."""

    def build_launcher(self, kernel: Any) -> None:
        """Build what the GPU process would build at a kernel's first launch, if anything. May raise any Exception."""
        return


class Timer(Protocol):
    """Times launches in turn."""

    def time_in_turn(self, launches: "Sequence[Launch]", rounds: int, restore: "Launch" = ...) -> "Timed":
        """Time several launches in turn, round by round, ``rounds`` repetitions each.

        Args:
            restore: brings the kernels' inputs back. Comes before each repetition, untimed.
        """


class GpuSide(ABC):
    """A vendor's GPU, in the process that owns it. Made once ``refusal`` has had nothing to say.

    Args:
        index: which GPU.

    Attributes:
        device: where inputs are made.
    """

    device: "torch.device"

    @classmethod
    @abstractmethod
    def refusal(cls, index: int) -> str | None:
        """Say why a GPU cannot be tuned on, or None."""

    @abstractmethod
    def __init__(self, index: int) -> None: ...

    @abstractmethod
    def info(self) -> GpuInfo:
        """Return what the GPU says of itself."""

    @abstractmethod
    def driver_version(self) -> str:
        """Return the driver's version, or ``unknown``."""

    @abstractmethod
    def free_bytes(self) -> float:
        """Return how much of its memory is free."""

    @abstractmethod
    def synchronize(self) -> None:
        """Wait for what was launched. Raises RuntimeError where the GPU can no longer be used by this process."""

    @abstractmethod
    def timer(self, timing: Timing) -> Timer:
        """Return what times launches."""


def compiler_side(children: str) -> CompilerSide:
    """Return a vendor's part of a compiling process, from the module that holds it (``Backend.children``)."""
    return cast(CompilerSide, import_module(children).CompilerSide())


def gpu_side(children: str) -> type[GpuSide]:
    """Return a vendor's part of a GPU process, from the module that holds it (``Backend.children``)."""
    return cast(type[GpuSide], import_module(children).GpuSide)


def told_by(module: str) -> list[GpuIdentity]:
    """Return the GPUs that a module's ``main()`` prints, in JSON: UUID, bus id, and what ``GpuInfo`` holds or null.

    It runs in a process of its own, since asking a driver leaves a process unfit to fork children that use it. Raises
    DeviceError where it cannot tell.
    """
    command = python_command(module)
    try:
        answer = subprocess.run(command, capture_output=True, text=True, timeout=ANSWER_TIMEOUT_S, check=True)
    except (OSError, subprocess.SubprocessError) as error:
        raise DeviceError(f"the GPUs of this host cannot be counted: {one_line(error)}") from error
    return [
        GpuIdentity(uuid, bus_id, None if info is None else GpuInfo.from_json(info))
        for uuid, bus_id, info in json.loads(answer.stdout)
    ]


def known_identities(backend: Backend, *, required: bool) -> Sequence[GpuIdentity]:
    """Return a vendor's GPUs; none where they cannot be told, unless that is required. Raises DeviceError then."""
    try:
        return backend.identities()
    except DeviceError:
        if required:
            raise
        return []
