"""What came of trying one config: a measurement, or the reason there is none. Pure data.

A config that cannot run has no time. It is never given a bad one instead: samplers are told *invalid*
and why, and the two never mix.
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
"""Times of a kernel: a thousandth of what a GPU can tell, and far more than any deadline lets it run."""

MOST_SECONDS = 1e9
"""That anything takes."""

SLOW = "slow"
"""Reason of a pruned trial that ran, but clearly slower than the incumbent."""


class LaunchPurpose(StrEnum):
    """What a launch was for. Every launch is counted under one of these."""

    CHECK = "check"
    TIMING = "timing"
    LATE = "late"
    """A repetition whose launch was queued too late to tell the kernel's time; it was taken again."""
    FINALISTS = "finalists"


Launches = Counter[LaunchPurpose]


@dataclass(frozen=True, slots=True)
class Resources:
    """What the compiled binary of a config uses, as far as it is known."""

    shared_memory_bytes: int | None = None
    registers_per_thread: int | None = None
    spilled_registers: int | None = None

    @classmethod
    def most(cls, binaries: "Iterable[Resources]") -> "Resources":
        """Return of each resource the most that one of some binaries uses, as far as it is known."""
        each = [astuple(binary) for binary in binaries]
        known = ([count for count in counts if count is not None] for counts in zip(*each, strict=True))
        return cls(*(max(counts, default=None) for counts in known))


@dataclass(frozen=True, slots=True)
class Compilation:
    """Cost of having the binary: seconds of one core, and whether it was there already."""

    compile_s: float = 0.0
    cached: bool = False


LATE_FACTOR = 1.25
"""A repetition this much above the lower quartile of its config was launched late."""


def on_time(runtimes_us: Sequence[float]) -> list[float]:
    """Return the repetitions that were not launched late, in us, in their order.

    Noise is one-sided: a late launch adds its gap to a repetition, nothing makes a kernel faster than it is. So what
    counts are the repetitions within 1.25 × their lower quartile, which half of them being late cannot move.

    Raises:
        ValueError: without repetitions.
    """
    limit = latest_us(runtimes_us)
    return [runtime for runtime in runtimes_us if runtime <= limit]


def latest_us(runtimes_us: Sequence[float]) -> float:
    """Return the longest that a repetition launched ``on_time`` takes, in us. Raises ValueError without repetitions."""
    return LATE_FACTOR * quantile(sorted(runtimes_us), 0.25)


def estimate_us(runtimes_us: Sequence[float]) -> float:
    """Estimate the time of a kernel from raw repetitions, in us: the median of those launched ``on_time``.

    Raises:
        ValueError: without repetitions.
    """
    return float(median(on_time(runtimes_us)))


def quantile(ascending: Sequence[float], share: float) -> float:
    """Interpolate linearly between sorted values. In plain Python: it is asked for at every trial, of a dozen values.

    Raises:
        ValueError: without values.
    """
    if not ascending:
        raise ValueError("no repetitions to estimate from")
    below, part = divmod(share * (len(ascending) - 1), 1.0)
    low, high = ascending[int(below)], ascending[min(int(below) + 1, len(ascending) - 1)]
    return low + part * (high - low)


@dataclass(frozen=True, slots=True)
class Measurement:
    """Raw repetition times of one config, with the resources of its binary.

    Attributes:
        runtimes_us: every timed repetition, in us, in the order taken.
        stopped: whether the repetitions ended early because the config was clearly slow.
        relative_error: Frobenius norm of the difference from the reference over its norm.
    """

    runtimes_us: tuple[float, ...]
    stopped: bool = False
    launches: Launches = field(default_factory=Counter)
    compilation: Compilation = Compilation()
    resources: Resources = Resources()
    relative_error: float | None = None

    @property
    def time_us(self) -> float:
        """The estimate of the kernel's time, in us."""
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
