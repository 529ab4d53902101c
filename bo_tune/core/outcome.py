"""The outcome of trying one config: a measurement, or the reason why there is none. Pure data.

A config that cannot run has no time, and never gets a bad one instead. Samplers are told that it is *invalid*, and why.
The two never mix.
"""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import astuple, dataclass, field
from enum import StrEnum
from statistics import median


class InvalidReason(StrEnum):
    """Why a config has no measurement. The values are shown to people and stored."""

    CONSTRAINT = "static constraint"
    COMPILE_TIMEOUT = "compile timeout"
    COMPILE_ERROR = "compile error"
    OUT_OF_SHARED_MEMORY = "out of shared memory"
    WRONG_RESULT = "wrong result"
    LAUNCH_ERROR = "launch error"
    HANG = "launch timeout"
    GPU_PROCESS_DIED = "gpu process died"
    NOT_RECORDED = "not recorded"


SHORTEST_US, LONGEST_US = 1e-3, 1e9
"""Bounds of a kernel's time: a thousandth of the resolution of a GPU, and far more than any deadline allows."""

MOST_SECONDS = 1e9
"""Upper bound of any duration."""

SLOW = "slow"
"""Reason of a pruned trial that ran, but clearly slower than the incumbent."""


class LaunchPurpose(StrEnum):
    """The purpose of a launch. Every launch is counted under one of these."""

    CHECK = "check"
    TIMING = "timing"
    LATE = "late"
    """A repetition whose launch was queued too late to measure the kernel's time. It was repeated."""
    FINALISTS = "finalists"


Launches = Counter[LaunchPurpose]


@dataclass(frozen=True, slots=True)
class Resources:
    """Resources that the compiled binary of a config uses, as far as they are known."""

    shared_memory_bytes: int | None = None
    registers_per_thread: int | None = None
    spilled_registers: int | None = None

    @classmethod
    def most(cls, binaries: "Iterable[Resources]") -> "Resources":
        """Return the largest value of each resource among some binaries, as far as it is known."""
        each = [astuple(binary) for binary in binaries]
        known = ([count for count in counts if count is not None] for counts in zip(*each, strict=True))
        return cls(*(max(counts, default=None) for counts in known))


@dataclass(frozen=True, slots=True)
class Compilation:
    """Cost of the binary: seconds of one core, and whether it existed already."""

    compile_s: float = 0.0
    cached: bool = False


LATE_FACTOR = 1.25
"""A repetition counts as launched late if it is this much above the lower quartile of its config."""


def on_time(runtimes_us: Sequence[float]) -> list[float]:
    """Return the repetitions that were not launched late, in us, in their order.

    Noise is one-sided: a late launch adds its gap to a repetition, and nothing makes a kernel faster than it is. So
    only repetitions within 1.25 × their lower quartile count. Even if half of them are late, the quartile does not
    move.

    Raises:
        ValueError: there are no repetitions.
    """
    limit = latest_us(runtimes_us)
    return [runtime for runtime in runtimes_us if runtime <= limit]


def latest_us(runtimes_us: Sequence[float]) -> float:
    """Return the longest time of a repetition launched ``on_time``, in us. Raises ValueError without repetitions."""
    return LATE_FACTOR * quantile(sorted(runtimes_us), 0.25)


def estimate_us(runtimes_us: Sequence[float]) -> float:
    """Estimate the time of a kernel from raw repetitions, in us: the median of those launched ``on_time``.

    Raises:
        ValueError: there are no repetitions.
    """
    return float(median(on_time(runtimes_us)))


def quantile(ascending: Sequence[float], share: float) -> float:
    """Interpolate linearly between sorted values. Uses plain Python because every trial calls it, with a dozen values.

    Raises:
        ValueError: there are no values.
    """
    if not ascending:
        raise ValueError("there are no repetitions to estimate a time from")
    below, part = divmod(share * (len(ascending) - 1), 1.0)
    low, high = ascending[int(below)], ascending[min(int(below) + 1, len(ascending) - 1)]
    return low + part * (high - low)


@dataclass(frozen=True, slots=True)
class Measurement:
    """Raw repetition times of one config, with the resources of its binary.

    Attributes:
        runtimes_us: every timed repetition, in us, in the order taken.
        stopped: whether the repetitions ended early because the config was clearly slow.
        relative_error: Frobenius norm of the difference from the reference, divided by the reference's norm.
    """

    runtimes_us: tuple[float, ...]
    stopped: bool = False
    launches: Launches = field(default_factory=Counter)
    compilation: Compilation = Compilation()
    resources: Resources = Resources()
    relative_error: float | None = None

    @property
    def time_us(self) -> float:
        """The estimated time of the kernel, in us."""
        return estimate_us(self.runtimes_us)


@dataclass(frozen=True, slots=True)
class Invalid:
    """A config without a measurement: the reason, and a line of detail for people."""

    reason: InvalidReason
    detail: str = ""
    launches: Launches = field(default_factory=Counter)
    compilation: Compilation = Compilation()
    resources: Resources = Resources()


Outcome = Measurement | Invalid
