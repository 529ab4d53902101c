"""What the parent and its compile and GPU processes say to each other. Imports neither torch nor triton."""

from collections.abc import Mapping
from dataclasses import dataclass

from bo_tune.measure.protocol import TimingProtocol
from bo_tune.outcome import Outcome
from bo_tune.pack.contents import KernelText, Toolchain
from bo_tune.problem import AnyProblem, GpuInfo
from bo_tune.space import Config, ConfigKey


@dataclass(frozen=True, slots=True)
class CompileRequest:
    """A config of a problem to compile; answered by a ``Build``."""

    problem: AnyProblem
    config: dict[str, int]


@dataclass(frozen=True, slots=True)
class IdentityRequest:
    """Ask a compiler what its binaries depend on; answered by ``IdentityAnswer``.

    Attributes:
        examples: of each kernel that is asked about, a problem and a config.
    """

    examples: Mapping[str, tuple[AnyProblem, dict[str, int]]]


@dataclass(frozen=True, slots=True)
class IdentityAnswer:
    """What a compiler's binaries depend on, besides problem and config."""

    toolchain: Toolchain
    kernels: Mapping[str, KernelText]


@dataclass(frozen=True, slots=True)
class HelloRequest:
    """Ask the GPU process what it runs on; answered by ``Hello``."""


@dataclass(frozen=True, slots=True)
class Hello:
    """What the GPU and its software say of themselves, before anything else is asked."""

    gpu: GpuInfo
    versions: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class PrepareRequest:
    """Have the inputs and the reference of a problem ready."""

    problem: AnyProblem


@dataclass(frozen=True, slots=True)
class MeasureRequest:
    """Check and time one config."""

    problem: AnyProblem
    config: dict[str, int]
    protocol: TimingProtocol
    stop_above_us: float | None


@dataclass(frozen=True, slots=True)
class RemeasureRequest:
    """Check several configs and time them in turn; answered by ``Remeasured``."""

    problem: AnyProblem
    configs: tuple[dict[str, int], ...]
    rounds: int


@dataclass(frozen=True, slots=True)
class MeasureAnswer:
    """An outcome, and whether the CUDA context is still usable."""

    outcome: Outcome
    healthy: bool = True


@dataclass(frozen=True, slots=True)
class SourceRequest:
    """Ask which code of a kernel is compiled; answered by a text, or ``Refused``."""

    kernel: str


@dataclass(frozen=True, slots=True)
class NoteRequest:
    """Ask what there is to say of tuning a problem's kernel; answered by a line, None, or ``Refused``."""

    problem: AnyProblem
    gpu: GpuInfo


@dataclass(frozen=True, slots=True)
class DecidedByRequest:
    """Ask which kernels decide for a problem's (``Operation.decided_by``); answered by their names, or ``Refused``."""

    problem: AnyProblem
    gpu: GpuInfo


@dataclass(frozen=True, slots=True)
class FactsRequest:
    """Ask what a kernel makes of configs on a GPU; answered by ``FactsAnswer``, or ``Refused``."""

    problem: AnyProblem
    configs: tuple[Config, ...]
    gpu: GpuInfo


@dataclass(frozen=True, slots=True)
class FactsAnswer:
    """Of each config, the one that really runs, None where it is itself; and the name of its binary
    (``facts.binary_name``)."""

    effective: tuple[ConfigKey | None, ...]
    binaries: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Refused:
    """The kernel source cannot serve; one line that says why."""

    message: str
