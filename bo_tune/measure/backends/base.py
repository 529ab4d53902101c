"""The interface that a vendor of GPUs must implement. Imports neither torch nor triton.

A vendor has three parts, because they live in different processes. ``Backend`` is used in the process that tunes, which
loads neither torch nor triton. ``CompilerSide`` is used in the processes that compile, and ``GpuSide`` in the process
that owns a GPU. Child processes receive the name of the module that holds the latter two (``Backend.children``).
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
"""Long, because the driver may have to wake every GPU up first."""


@dataclass(frozen=True, slots=True)
class GpuIdentity:
    """Identifies a GPU whatever its number on this host. UUID or bus id is "" if the driver does not say.

    Attributes:
        uuid: without a prefix. For a part of a GPU, it is the part's.
        bus_id: where the GPU is plugged in.
        info: the GPU's description, needed before anything is measured; None if only a process that uses the GPU can
            tell.
    """

    uuid: str
    bus_id: str
    info: GpuInfo | None = None


@dataclass(frozen=True, slots=True)
class FittedGpu:
    """A GPU of the host, whether or not it may be used from here.

    Attributes:
        is_partitioned: whether only its instances can be used.
    """

    name: str
    is_partitioned: bool


class Backend(ABC):
    """A vendor, as the process that tunes knows it.

    Attributes:
        name: the first word of its devices (``cuda:0``) and targets (``cuda:90``), and ``GpuInfo.backend``. It is
            Triton's name for the backend of these GPUs.
        vendor: its name in messages, as in "no NVIDIA GPU found".
        device: what its GPUs are called in messages, as in "CUDA device 0".
        assembler: the name of its assembler in a study's toolchain.
        children: the module that holds a ``CompilerSide`` and a ``GpuSide`` under these names. It may have a function
            ``gpu_is_in_use()``, which says whether its process uses the driver (``processes.fork_server``).
        environment: variables that its child processes need.
        target_form: how its targets are written, for messages.
        has_graphs: whether launches can be captured in a graph and replayed, which timing kernels in place requires.
        visibility: variables that decide which GPUs a process may use.
        driver_help: what to do if there is no driver.
        partition_help: what to do if only a GPU's instances can be used, and there are none.
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
    driver_help: ClassVar[str] = "install the vendor's driver; in a container, pass the GPUs through"
    partition_help: ClassVar[str] = "create a GPU instance, or turn the GPU's partitioning off"
    processes_help: ClassVar[str] = "the vendor's tools"

    @abstractmethod
    def identities(self) -> Sequence[GpuIdentity]:
        """Return the usable GPUs of this host, in the order of their numbers.

        This process forks children that use GPUs, so it must not ask the driver itself (``gpus_printed_by``).

        Raises:
            DeviceError: the GPUs cannot be counted.
        """

    def driver_release(self) -> str | None:
        """Return the release of this host's driver without starting a GPU, or None if that is not possible.

        A GPU's earlier description of itself is reused only if this release is known (``measure.host_state``).
        """
        return None

    def fitted(self) -> Sequence[FittedGpu]:
        """Return all GPUs that the host's driver knows, usable from here or not; none if it does not say."""
        return ()

    @abstractmethod
    def watch(self, identity: GpuIdentity) -> GpuWatch:
        """Return a watch that tells who else uses a GPU. Raises WatchError if nothing can tell."""

    @abstractmethod
    def target_gpu(self, architecture: str, name: str | None) -> TargetGpu | None:
        """Return a GPU to compile for, which need not be here, or None if there is no such architecture.

        Args:
            architecture: what follows the backend in a target's name: the 90 of ``cuda:90``.
            name: of the GPU; None for any GPU of the architecture.
        """


class CompilerSide(ABC):
    """A vendor in a process that compiles, with or without a GPU.

    Attributes:
        errors: what its assembler raises for a config that cannot be compiled, besides Triton's own errors.
    """

    errors: ClassVar[tuple[type[Exception], ...]] = ()

    @abstractmethod
    def target(self, gpu: GpuInfo) -> "GPUTarget":
        """Return the target that Triton compiles for."""

    @abstractmethod
    def resources(self, kernel: Any) -> Resources:
        """Return what a compiled kernel uses, read from its binary."""

    @abstractmethod
    def assembler_version(self, target: "GPUTarget") -> str:
        """Return the assembler's version text, which names its release in the last line."""

    def build_launcher(self, kernel: Any) -> None:
        """Build in advance what the GPU process would build at a kernel's first launch. May raise any Exception."""
        return


class Timer(Protocol):
    """Times launches in turn."""

    def time_in_turn(self, launches: "Sequence[Launch]", rounds: int, restore: "Launch" = ...) -> "Timed":
        """Time several launches in turn, round by round, ``rounds`` repetitions each.

        Args:
            restore: restores the kernels' inputs. It runs before each repetition, untimed.
        """


class GpuSide(ABC):
    """A vendor's GPU, in the process that owns it. Created only if ``refusal`` returned None.

    Args:
        index: which GPU.

    Attributes:
        device: the torch device on which inputs are made.
    """

    device: "torch.device"

    @classmethod
    @abstractmethod
    def refusal(cls, index: int) -> str | None:
        """Say why a GPU cannot be used for tuning, or return None."""

    @abstractmethod
    def __init__(self, index: int) -> None: ...

    @abstractmethod
    def info(self) -> GpuInfo:
        """Return the GPU's description of itself."""

    @abstractmethod
    def driver_version(self) -> str:
        """Return the driver's version, or ``unknown``."""

    @abstractmethod
    def free_bytes(self) -> float:
        """Return how much of its memory is free, in bytes."""

    @abstractmethod
    def synchronize(self) -> None:
        """Wait for all launches. Raises RuntimeError if this process can no longer use the GPU."""

    @abstractmethod
    def timer(self, timing: Timing) -> Timer:
        """Return the timer for a kind of timing."""


def compiler_side(children: str) -> CompilerSide:
    """Return a vendor's part of a compiling process, from the module that holds it (``Backend.children``)."""
    return cast(CompilerSide, import_module(children).CompilerSide())


def gpu_side(children: str) -> type[GpuSide]:
    """Return a vendor's part of a GPU process, from the module that holds it (``Backend.children``)."""
    return cast(type[GpuSide], import_module(children).GpuSide)


def gpus_printed_by(module: str) -> list[GpuIdentity]:
    """Return the GPUs that a module's ``main()`` prints as JSON: UUID, bus id, and the fields of ``GpuInfo`` or null.

    The module runs in a process of its own, because a process that has asked the driver must not fork children that use
    it. Raises DeviceError if the module fails.
    """
    command = python_command(module)
    try:
        answer = subprocess.run(command, capture_output=True, text=True, timeout=ANSWER_TIMEOUT_S, check=True)
    except (OSError, subprocess.SubprocessError) as error:
        raise DeviceError(f"the driver cannot count the GPUs of this host: {one_line(error)}") from error
    return [
        GpuIdentity(uuid, bus_id, None if info is None else GpuInfo.from_json(info))
        for uuid, bus_id, info in json.loads(answer.stdout)
    ]


def known_identities(backend: Backend, *, required: bool) -> Sequence[GpuIdentity]:
    """Return a vendor's GPUs. If they cannot be counted, return none, or raise DeviceError if ``required``."""
    try:
        return backend.identities()
    except DeviceError:
        if required:
            raise
        return []
