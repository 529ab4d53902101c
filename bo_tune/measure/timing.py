"""Timing launches on a CUDA device: events round each launch, a cold L2, and a queue that hides Python."""

from collections.abc import Callable, Sequence

import torch

L2_CLEAR_BYTES = 256 * 2**20
"""Written before each timed launch: several times any L2, and long enough (about 90 us on an H100) for Python
to queue the next launch meanwhile, so that events time the kernel and not its launch."""


class ColdTimer:
    """Times single launches with the L2 cache cleared before each."""

    def __init__(self, device: torch.device) -> None:
        self._clear = torch.empty(L2_CLEAR_BYTES // 4, dtype=torch.int32, device=device)

    def time_in_turn(self, launches: Sequence[Callable[[], None]], rounds: int) -> list[list[float]]:
        """Time several launches in turn, round by round.

        Returns:
            For each launch its ``rounds`` times, in us.
        """
        events = [[(_event(), _event()) for _ in range(rounds)] for _ in launches]
        # One clear more than there are launches: from the first launch on the GPU is behind Python.
        self._clear.zero_()
        for turn in range(rounds):
            for launch, pairs in zip(launches, events, strict=True):
                start, end = pairs[turn]
                self._clear.zero_()
                start.record()
                launch()
                end.record()
        torch.cuda.synchronize()
        return [[1e3 * start.elapsed_time(end) for start, end in pairs] for pairs in events]


def _event() -> torch.cuda.Event:
    return torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
