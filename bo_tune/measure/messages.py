"""What the parent and its compile and GPU processes say to each other. Imports neither torch nor triton."""

from collections.abc import Mapping
from dataclasses import dataclass

from bo_tune.core.outcome import Outcome
from bo_tune.core.problem import GpuInfo, Problem
from bo_tune.core.repetitions import TimingProtocol
from bo_tune.core.space import Config
from bo_tune.core.surroundings import Batch, Linear, Surroundings
from bo_tune.formats.pack.contents import KernelText, Toolchain


@dataclass(frozen=True, slots=True)
class CompileRequest:
    """A config of a problem to compile; answered by a ``Build``."""

    problem: Problem
    config: dict[str, int]


@dataclass(frozen=True, slots=True)
class IdentityRequest:
    """Ask a compiler what its binaries depend on; answered by ``IdentityAnswer``.

    Attributes:
        examples: of each kernel that is asked about, a problem and a config.
    """

    examples: Mapping[str, tuple[Problem, dict[str, int]]]


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

    problem: Problem


@dataclass(frozen=True, slots=True)
class MeasureRequest:
    """Check and time one config."""

    problem: Problem
    config: dict[str, int]
    protocol: TimingProtocol
    stop_above_us: float | None


@dataclass(frozen=True, slots=True)
class RemeasureRequest:
    """Check several configs and time them in turn; answered by ``Remeasured``.

    Attributes:
        around: what an engine runs around them; None to time them alone.
    """

    problem: Problem
    configs: tuple[dict[str, int], ...]
    rounds: int
    around: Surroundings | None = None


@dataclass(frozen=True, slots=True)
class StepRequest:
    """Time the linears of a decoder layer, one after the other; answered by ``StepTimes``.

    Attributes:
        choices: each a pair of configs, of shrink and expand, for every linear; None for the linears without adapters.
    """

    linears: tuple[Linear, ...]
    batch: Batch
    choices: tuple[tuple[tuple[Config, Config], ...] | None, ...]
    rounds: int


@dataclass(frozen=True, slots=True)
class MeasureAnswer:
    """An outcome, and whether the GPU's context is still usable."""

    outcome: Outcome
    healthy: bool = True


@dataclass(frozen=True, slots=True)
class SourceRequest:
    """Ask which code of a kernel is compiled; answered by a text, or ``Refused``."""

    kernel: str


@dataclass(frozen=True, slots=True)
class NoteRequest:
    """Ask what there is to say of tuning a problem's kernel; answered by a line, None, or ``Refused``."""

    problem: Problem
    gpu: GpuInfo


@dataclass(frozen=True, slots=True)
class DecidedByRequest:
    """Ask which kernels decide for a problem's (``Operation.decided_by``); answered by their names, or ``Refused``."""

    problem: Problem
    gpu: GpuInfo


@dataclass(frozen=True, slots=True)
class FactsRequest:
    """Ask what a kernel makes of configs on a GPU; answered by ``FactsAnswer``, or ``Refused``.

    Thousands of configs go there and back for each problem, so what they have in common is said once.

    Attributes:
        names: of the parameters.
        rows: of each config, its values in that order.
    """

    problem: Problem
    names: tuple[str, ...]
    rows: tuple[tuple[int, ...], ...]
    gpu: GpuInfo

    @property
    def configs(self) -> list[Config]:
        """The configs themselves."""
        return [dict(zip(self.names, row, strict=True)) for row in self.rows]


NAME_BYTES = 16
"""Length of the name of a binary (``facts.binary_name``)."""


@dataclass(frozen=True, slots=True)
class FactsAnswer:
    """What a kernel makes of configs.

    Attributes:
        names: parameters of what really runs of each, which may be more than were asked about.
        runs: its values in that order, as 64-bit integers, one config after the other; empty where all run as they are.
        binaries: the names of the binaries of all, one after the other.
    """

    names: tuple[str, ...]
    runs: bytes
    binaries: bytes


@dataclass(frozen=True, slots=True)
class Refused:
    """The kernel source cannot serve; one line that says why."""

    message: str
