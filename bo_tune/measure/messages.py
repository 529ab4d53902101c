"""What the parent and its compile and GPU processes say to each other. Imports neither torch nor triton."""

from collections.abc import Mapping
from dataclasses import dataclass

from bo_tune.measure.protocol import TimingProtocol
from bo_tune.outcome import Outcome
from bo_tune.problem import GpuInfo, Problem


@dataclass(frozen=True, slots=True)
class CompileRequest:
    """A config of a problem to compile; answered by a ``Build``."""

    problem: Problem
    config: dict[str, int]


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
    """Check several configs and time them in turn; answered by the repetitions of each, none where it is wrong."""

    problem: Problem
    configs: tuple[dict[str, int], ...]
    rounds: int


@dataclass(frozen=True, slots=True)
class MeasureAnswer:
    """An outcome, and whether the CUDA context is still usable."""

    outcome: Outcome
    healthy: bool = True
