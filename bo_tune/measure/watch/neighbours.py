"""Decides from a driver's readings whether others use a GPU. Pure, except for the protocol.

A driver reports which processes have a GPU open. We recognise this session's own processes by their numbers. In a
container, the driver may count processes as the host does. Then a process counts as another's if it had the GPU open
before, and so do those in excess of what the session itself can have.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Protocol

from bo_tune.errors import BoTuneError

BUSY_PERCENT = 5
"""If nobody here uses a GPU, it counts as busy from this utilisation on."""

UNSEEN_BYTES = 2**30
"""If this much memory is in use and no process is visible, there must be an invisible one. Less than this is the
driver's own, or a desktop's."""

AT_WORK = "other processes at work on the GPU"
PRESENT = "other processes on the GPU, at work or not"
LOST = "the driver stopped telling who uses the GPU"
"""The things that may disturb a measurement, besides ``slowed_text``."""


class WatchError(BoTuneError):
    """A GPU cannot be watched; the message says why."""


@dataclass(frozen=True, slots=True)
class Reading:
    """A driver's report on a GPU at one moment. Everything except ``slowed`` is None if the driver does not say.

    Attributes:
        processes: numbers of the processes that can compute on it.
        working_percent: for each process that has worked since the last reading, its share of the multiprocessors'
            time.
        utilisation_percent: share of the last fraction of a second in which any kernel ran, no matter whose.
        used_bytes: memory in use, without what the driver keeps for itself.
        slowed: why its clocks are lower than they could be, unless the reason is normal in everyday service.
    """

    processes: frozenset[int] | None = None
    working_percent: Mapping[int, int] | None = None
    utilisation_percent: int | None = None
    used_bytes: int | None = None
    slowed: tuple[str, ...] = ()


class GpuWatch(Protocol):
    """Tells how a GPU is used. Asking takes milliseconds and makes no context."""

    is_slice: bool
    """Whether the GPU is an instance of a partitioned one, which knows nothing about the other instances."""

    def read(self) -> Reading:
        """Take a reading now. Raises WatchError."""

    def close(self) -> None:
        """Release what it holds."""


def slowed_text(reason: str) -> str:
    """Describe lowered clocks as something that disturbs a measurement."""
    return f"clocks lowered: {reason}"


def use_by_others(reading: Reading) -> str | None:
    """Say how others use a GPU that this session does not use yet; None if nothing speaks against measuring on it."""
    others, percent = len(reading.processes or ()), reading.utilisation_percent or 0
    unseen = not others and (reading.used_bytes or 0) >= UNSEEN_BYTES
    if not others and not unseen and percent < BUSY_PERCENT and not reading.slowed:
        return None
    found = [f"{others} other process{'es' if others > 1 else ''}"] * (others > 0)
    if unseen and reading.used_bytes is not None:
        found.append(f"{reading.used_bytes / 2**30:.1f} GiB in use by processes that cannot be seen from here")
    if reading.utilisation_percent is not None:
        found.append(f"{percent} % utilisation")
    found += map(slowed_text, reading.slowed)
    effect = (
        "times will be distorted"
        if percent >= BUSY_PERCENT or reading.slowed
        else "times are distorted while they work"
    )
    return f"{', '.join(found)}: {effect}"


class Neighbours:
    """Tells other processes on a GPU from this session's own.

    Args:
        before: what was read before the session had the GPU open.
    """

    def __init__(self, before: Reading) -> None:
        self._before = before.processes or frozenset()
        self._same_numbers = False
        self._tells_work = False

    def others(self, reading: Reading, ours: Collection[int], most: int) -> int | None:
        """Return how many other processes have the GPU open, or None if the driver shows none that can be told apart.

        Args:
            ours: every process of the session that has had the GPU open, including ended ones, since a driver takes a
                moment to forget them. One of them has it open now.
            most: how many of them can have it open at once.
        """
        seen = reading.processes
        if seen is None:
            return None
        self._same_numbers |= not seen.isdisjoint(ours)
        if self._same_numbers:
            return len(seen.difference(ours))
        if not seen:
            return None
        return len(seen & self._before) + max(0, len(seen - self._before) - most)

    def disturbances(self, reading: Reading, ours: Collection[int], most: int) -> frozenset[str]:
        """Return what disturbs measurements now."""
        found = set(map(slowed_text, reading.slowed))
        if self.others(reading, ours, most):
            found |= self._by_others(reading, ours)
        return frozenset(found)

    def _by_others(self, reading: Reading, ours: Collection[int]) -> set[str]:
        """Return how others disturb measurements. If the driver does not say who works, their presence counts."""
        working = {pid: percent for pid, percent in (reading.working_percent or {}).items() if percent > 0}
        self._tells_work |= bool(working) and self._same_numbers
        if not self._tells_work or reading.working_percent is None:
            return {PRESENT}
        return {AT_WORK} if any(pid not in ours for pid in working) else set()
