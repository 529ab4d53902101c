"""The timing of one config, with the same rules on a GPU and on a recording. Pure."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from bo_tune.core.outcome import estimate_us

Draw = Callable[[int], Sequence[float]]
"""Takes a number of repetitions and returns their times in us."""


@dataclass(frozen=True, slots=True)
class TimingProtocol:
    """How many repetitions a config gets, and when it is given up.

    Attributes:
        first: repetitions after which a config is judged against the incumbent.
        repetitions: repetitions of a config that is not given up.
        slow_factor: a config is clearly slow if its fastest repetition is above the incumbent by this factor. Noise
            only ever adds time, so the fastest repetition cannot lie.
        confirm_factor: a config that seems faster than the incumbent by more than this factor is suspicious. It is
            timed as often again, and all repetitions count.
        check: whether the result is compared with the reference.
    """

    first: int = 3
    repetitions: int = 10
    slow_factor: float = 1.5
    confirm_factor: float = 1.25
    check: bool = True


@dataclass(frozen=True, slots=True)
class Repetitions:
    """Raw times in us, and whether they ended early."""

    runtimes_us: tuple[float, ...]
    stopped: bool


def take_repetitions(draw: Draw, protocol: TimingProtocol, stop_above_us: float | None) -> Repetitions:
    """Time one config: a few repetitions, then the rest unless it is clearly slower than the incumbent.

    If it seems much faster, all repetitions are taken twice.

    Args:
        stop_above_us: the incumbent's time in us; None to take every repetition.
    """
    runtimes = tuple(draw(min(protocol.first, protocol.repetitions)))
    if stop_above_us is not None and min(runtimes) > protocol.slow_factor * stop_above_us:
        return Repetitions(runtimes, stopped=True)
    rest = protocol.repetitions - len(runtimes)
    if rest > 0:
        runtimes += tuple(draw(rest))
    if stop_above_us is not None and protocol.confirm_factor * estimate_us(runtimes) < stop_above_us:
        runtimes += tuple(draw(len(runtimes)))
    return Repetitions(runtimes, stopped=False)
