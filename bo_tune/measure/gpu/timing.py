"""Times launches through ``torch.cuda``: puts events around each, hides Python behind work, and detects late launches.

A kernel of 6 us is over before Python has queued the next one. So each timed launch is queued behind work of about 90
us (clearing the L2 cache, or a wait). By the time the GPU reaches the start event, the kernel is queued behind it, and
the events time the kernel alone. If Python was held up all the same, the gap would count as the kernel's time. Such a
launch is recognised for certain: once it is queued, its start event has already passed. It is repeated.

Configs timed in turn push each other's code out of the caches. On an H100, kernels of 7 us took up to 0.2 us longer
than when timed alone, and spread a quarter wider from run to run. So when a launch is timed in turn with others, the
same kernel is first launched once, untimed (``benchmarks/results/in-turn.h100.md``).
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

from bo_tune.core.conditions import Timing

L2_CLEAR_BYTES = 256 * 2**20
"""Bytes written before each cold launch: several times any L2, and about 90 us of an H100."""

WAIT_CYCLES = 150_000
"""Cycles waited before each warm launch: 80 us at 1.9 GHz."""

GRAPH_LAUNCHES = 20
"""Launches in one CUDA graph."""

MOST_QUEUED = 10
"""Repetitions that are queued at once before waiting for the GPU. While the GPU runs a repetition and is being sent
more, that repetition takes up to 0.6 us longer (``benchmarks/results/in-turn.h100.md``), so times grow with the number
queued. A trial queues at most this many, and finalists are timed in turn in the same way."""

MOST_PASSES = 4
"""Passes in which late launches are repeated. On a host that is late in all of them, the last ones count."""

LONGER = 4
"""Factor on the work that hides Python, after a pass in which most launches were late. An operation of several launches
takes Python longer than 90 us where compilers keep all cores busy: on an H200 its times were twice what they should be.
With the last pass, 5 ms are hidden."""

Launch = Callable[[], None]


def nothing() -> None:
    """Do nothing. Serves as ``restore`` for kernels that do not change what they read."""


@dataclass(frozen=True, slots=True)
class Timed:
    """The result of timing launches.

    Attributes:
        runtimes_us: for each launch, its repetitions in us.
        launches: launches of the kernels, without the late ones.
        late: launches whose repetitions were taken again because they had been queued too late.
    """

    runtimes_us: list[list[float]]
    launches: int
    late: int


class Timer(ABC):
    """Times launches in turn. The subclasses define a repetition and what comes before it.

    Attributes:
        launches_each: launches of the kernel in one repetition.
        launches_before: launches of each kernel before its first repetition.
        is_led: whether an untimed launch precedes each repetition that is timed in turn with others.
    """

    launches_each = 1
    launches_before = 0
    is_led = True

    def time_in_turn(self, launches: Sequence[Launch], rounds: int, restore: Launch = nothing) -> Timed:
        """Time several launches in turn, round by round, ``rounds`` repetitions each.

        Args:
            restore: queues what restores the kernels' inputs. It comes before each repetition and is not timed. If
                launches form one graph, it comes before the first of them.
        """
        repeated = []
        for launch in launches:
            restore()
            repeated.append(self.repeated(launch))
        runtimes: list[list[float]] = [[] for _ in launches]
        wanted = list(range(len(launches))) * rounds
        is_led = self.is_led and len(launches) > 1
        count, late = self.launches_before * len(launches), 0
        stream = torch.cuda.current_stream()  # asking for it at each event takes Python longer than all the rest
        hidings = 1
        for attempt in range(MOST_PASSES):
            taken = []
            for at in range(0, len(wanted), MOST_QUEUED):
                batch = wanted[at : at + MOST_QUEUED]
                self._hide(hidings)  # one more than there are repetitions: Python is ahead from the first on
                taken += [(index, *self._take(repeated[index], is_led, stream, restore, hidings)) for index in batch]
                torch.cuda.synchronize()
            count += is_led * len(taken)
            again = []
            for index, start, end, was_late in taken:
                if was_late and attempt < MOST_PASSES - 1:
                    again.append(index)
                else:
                    runtimes[index].append(1e3 * start.elapsed_time(end) / self.launches_each)
            late += len(again)
            if not again:
                break
            hidings *= LONGER if 2 * len(again) > len(wanted) else 1
            wanted = again
        count += rounds * len(launches) * self.launches_each
        return Timed(runtimes, count, late * self.launches_each)

    def _take(
        self, launch: Launch, is_led: bool, stream: torch.cuda.Stream, restore: Launch, hidings: int
    ) -> tuple[torch.cuda.Event, torch.cuda.Event, bool]:
        start, end = _event(), _event()
        if is_led:
            restore()
            launch()
        restore()
        self._hide(hidings)
        start.record(stream)
        launch()
        was_late: bool = start.query()  # type: ignore[no-untyped-call]
        end.record(stream)
        return start, end, was_late

    def _hide(self, times: int) -> None:
        for _ in range(times):
            self.hide()

    @abstractmethod
    def hide(self) -> None:
        """Queue work that lasts longer than Python takes to queue a repetition."""

    def repeated(self, launch: Launch) -> Launch:
        """Return the function that runs one repetition."""
        return launch


class ColdTimer(Timer):
    """Single launches, with the L2 cache cleared before each."""

    def __init__(self, device: torch.device) -> None:
        self._clear = torch.empty(L2_CLEAR_BYTES // 4, dtype=torch.int32, device=device)

    def hide(self) -> None:
        self._clear.zero_()


class WarmTimer(Timer):
    """Single launches, with the L2 cache as the previous launch left it."""

    launches_before = 1

    def hide(self) -> None:
        torch.cuda._sleep(WAIT_CYCLES)  # type: ignore[no-untyped-call]

    def repeated(self, launch: Launch) -> Launch:
        launch()
        return launch


class GraphTimer(WarmTimer):
    """Many launches replayed in one CUDA graph, as an engine replays its decode steps."""

    launches_each = GRAPH_LAUNCHES
    is_led = False  # of a repetition's launches, all but the first find their code in the caches

    def repeated(self, launch: Launch) -> Launch:
        launch()
        torch.cuda.synchronize()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            for _ in range(self.launches_each):
                launch()
        return graph.replay


class ReplayTimer(WarmTimer):
    """Replays of CUDA graphs that hold many launches each.

    Args:
        launches: of the kernel in one graph. A repetition is a replay's time divided by this number.
    """

    launches_before = 0
    is_led = False  # of a replay's launches, all but the first find their code in the caches

    def __init__(self, launches: int) -> None:
        self.launches_each = launches

    def repeated(self, launch: Launch) -> Launch:
        return launch


def timer(timing: Timing, device: torch.device) -> Timer:
    """Return the timer for a kind of timing."""
    match timing:
        case Timing.COLD:
            return ColdTimer(device)
        case Timing.WARM:
            return WarmTimer()
        case Timing.GRAPH:
            return GraphTimer()


def _event() -> torch.cuda.Event:
    return torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
