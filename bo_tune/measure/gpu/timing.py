"""Times launches through ``torch.cuda``: events round each, behind work that hides Python, and late launches found out.

A kernel of 6 us is over before Python has queued the next one. So each timed launch is queued behind work of about
90 us (the clearing of the L2 cache, or a wait): by the time the GPU reaches the start event, the kernel stands behind
it, and the events time the kernel alone. Where Python was held up all the same, the gap would count as time of the
kernel. Such a launch is recognised for certain: once it is queued, its start event has passed already. It is taken
again.

Configs timed in turn push each other's code out of the caches: on an H100 kernels of 7 us took up to 0.2 us more than
timed alone, and spread a quarter wider from run to run. So before each launch that is timed in turn with others' the
same kernel is launched once, untimed (``benchmarks/results/in-turn.h100.md``).
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

from bo_tune.core.conditions import Timing

L2_CLEAR_BYTES = 256 * 2**20
"""Written before each cold launch: several times any L2, and about 90 us of an H100."""

WAIT_CYCLES = 150_000
"""Waited before each warm launch: 80 us at 1.9 GHz."""

GRAPH_LAUNCHES = 20
"""Launches in one CUDA graph."""

MOST_QUEUED = 10
"""Repetitions that are queued at once, before the GPU is waited for. While it runs one and is being sent more, the one
takes up to 0.6 us longer (``benchmarks/results/in-turn.h100.md``): so a config takes more the more are queued. A trial
queues as many at most, and what is timed in turn is timed alike."""

MOST_PASSES = 4
"""How often late launches are taken again; on a host that is always late the last ones count."""

Launch = Callable[[], None]


def nothing() -> None:
    """Do nothing: what comes before a launch of a kernel that changes nothing that it reads."""


@dataclass(frozen=True, slots=True)
class Timed:
    """What timing launches came to.

    Attributes:
        runtimes_us: of each launch, its repetitions in us.
        launches: launches of the kernels, but for the late ones.
        late: launches whose repetitions were taken again, because they had been queued too late.
    """

    runtimes_us: list[list[float]]
    launches: int
    late: int


class Timer(ABC):
    """Times launches in turn. The subclasses know what stands before a repetition and what it is.

    Attributes:
        launches_each: launches of the kernel in one repetition.
        launches_before: launches of each kernel before its first repetition.
        is_led: whether a repetition in turn with others' is led by an untimed launch.
    """

    launches_each = 1
    launches_before = 0
    is_led = True

    def time_in_turn(self, launches: Sequence[Launch], rounds: int, restore: Launch = nothing) -> Timed:
        """Time several launches in turn, round by round, ``rounds`` repetitions each.

        Args:
            restore: queues what brings the kernels' inputs back, before each repetition and outside of it; before the
                first of the launches that are one graph.
        """
        repeated = []
        for launch in launches:
            restore()
            repeated.append(self.repeated(launch))
        runtimes: list[list[float]] = [[] for _ in launches]
        wanted = list(range(len(launches))) * rounds
        is_led = self.is_led and len(launches) > 1
        count, late = self.launches_before * len(launches), 0
        stream = torch.cuda.current_stream()  # asking anew for each event takes Python longer than all the rest
        for attempt in range(MOST_PASSES):
            taken = []
            for at in range(0, len(wanted), MOST_QUEUED):
                batch = wanted[at : at + MOST_QUEUED]
                self.hide()  # one more than there are repetitions: from the first on the GPU is behind Python
                taken += [(index, *self._take(repeated[index], is_led, stream, restore)) for index in batch]
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
            wanted = again
        count += rounds * len(launches) * self.launches_each
        return Timed(runtimes, count, late * self.launches_each)

    def _take(
        self, launch: Launch, is_led: bool, stream: torch.cuda.Stream, restore: Launch
    ) -> tuple[torch.cuda.Event, torch.cuda.Event, bool]:
        start, end = _event(), _event()
        if is_led:
            restore()
            launch()
        restore()
        self.hide()
        start.record(stream)
        launch()
        was_late: bool = start.query()  # type: ignore[no-untyped-call]
        end.record(stream)
        return start, end, was_late

    @abstractmethod
    def hide(self) -> None:
        """Queue work that lasts longer than Python takes to queue a repetition."""

    def repeated(self, launch: Launch) -> Launch:
        """Return what one repetition runs."""
        return launch


class ColdTimer(Timer):
    """Single launches with the L2 cache cleared before each."""

    def __init__(self, device: torch.device) -> None:
        self._clear = torch.empty(L2_CLEAR_BYTES // 4, dtype=torch.int32, device=device)

    def hide(self) -> None:
        self._clear.zero_()


class WarmTimer(Timer):
    """Single launches with whatever the launch before left in the L2 cache."""

    launches_before = 1

    def hide(self) -> None:
        torch.cuda._sleep(WAIT_CYCLES)  # type: ignore[no-untyped-call]

    def repeated(self, launch: Launch) -> Launch:
        launch()
        return launch


class GraphTimer(WarmTimer):
    """Many launches replayed in one CUDA graph, as an engine replays its decode steps."""

    launches_each = GRAPH_LAUNCHES
    is_led = False  # of a repetition's launches all but the first find their code

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
        launches: of the kernel in one graph; a repetition is a replay's time over this.
    """

    launches_before = 0
    is_led = False  # of a replay's launches all but the first find their code

    def __init__(self, launches: int) -> None:
        self.launches_each = launches

    def repeated(self, launch: Launch) -> Launch:
        return launch


def timer(timing: Timing, device: torch.device) -> Timer:
    """Return the timer of a kind of timing."""
    match timing:
        case Timing.COLD:
            return ColdTimer(device)
        case Timing.WARM:
            return WarmTimer()
        case Timing.GRAPH:
            return GraphTimer()


def _event() -> torch.cuda.Event:
    return torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
