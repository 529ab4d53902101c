"""Counts and seconds that show where a session spends its time, at one moment. Pure data."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any


@dataclass(frozen=True, slots=True)
class FarmActivity:
    """The work of compilers so far.

    Attributes:
        workers: compile processes.
        compiles: compiles done, including failed ones.
        cached: binaries found in Triton's cache.
        shared: requests answered by a compile that another request had asked for.
        packed: requested binaries that a pack had, which saved a compile each.
        packed_s: seconds of one core that compiling these took where the pack was made.
        timeouts: compiles that passed their deadline.
        crashes: compilers that died.
        withdrawn: compiles that were ended early because nobody wanted them any more.
        timeouts_s: seconds of compiles that passed their deadline, summed over workers.
        withdrawn_s: seconds that workers had spent on withdrawn compiles.
        busy_s: seconds that workers were compiling, summed over workers.
        waiting: compiles that no worker has begun.
    """

    workers: int
    compiles: int = 0
    cached: int = 0
    shared: int = 0
    packed: int = 0
    packed_s: float = 0.0
    timeouts: int = 0
    crashes: int = 0
    withdrawn: int = 0
    timeouts_s: float = 0.0
    withdrawn_s: float = 0.0
    busy_s: float = 0.0
    waiting: int = 0


@dataclass(frozen=True, slots=True)
class GpuActivity:
    """The work of a GPU process so far.

    Attributes:
        restarts: number of times that another process had to take its place.
        seconds: seconds at work, by activity: ``start``, ``prepare`` (inputs and reference), ``measure``,
            ``finalists``, ``restart`` (ending a process and getting another).
        standby_starts: processes that were started ahead of need, in the background.
        standby_s: seconds to start these, summed over processes.
        warm_ups: launches that warmed up fresh processes.
        held_up_s: seconds in which the process and at least one of its compilers were idle while a study was deciding
            or recording (``measure.occupancy``).
    """

    restarts: int = 0
    seconds: Mapping[str, float] = field(default_factory=dict)
    standby_starts: int = 0
    standby_s: float = 0.0
    warm_ups: int = 0
    held_up_s: float = 0.0

    @property
    def measuring_s(self) -> float:
        """Seconds of checking and timing configs."""
        return self.seconds.get("measure", 0.0) + self.seconds.get("finalists", 0.0)

    @property
    def busy_s(self) -> float:
        """Seconds of work since the process was up."""
        return self.measuring_s + self.seconds.get("prepare", 0.0)


@dataclass(frozen=True, slots=True)
class DeviceActivity:
    """The work of a device so far. A part that a replay does not have is None."""

    farm: FarmActivity | None = None
    gpu: GpuActivity | None = None


def by_gpu(found: Iterable[tuple[str, DeviceActivity]]) -> dict[str, DeviceActivity]:
    """Return the work of devices by the names of their GPUs, numbered if equal. Idle devices are left out."""
    named: dict[str, DeviceActivity] = {}
    seen: Counter[str] = Counter()
    for name, activity in found:
        seen[name] += 1
        if activity != DeviceActivity():
            named[name if seen[name] == 1 else f"{name} #{seen[name]}"] = activity
    return named


@dataclass(frozen=True, slots=True)
class SessionActivity:
    """The work of a session so far.

    Attributes:
        wall_s: seconds since it began, until it ended.
        studies: number of studies.
        studies_done: studies that are done.
        studies_begun: studies that have begun.
        trials: trials recorded by this session.
        launches: launches of this session by purpose.
        tuner_s: seconds that studies spent deciding and recording, summed over studies. Waiting for compilers and the
            GPU does not count. Most of this time passes while other studies keep both at work.
        store_s: seconds of the database, off every study's path.
        cpu_s: seconds of a core that the tuning process took, with all its threads; of several processes, the maximum.
            If it is near ``wall_s``, the session waits for this process's interpreter.
        devices: work of each device, by name.
    """

    wall_s: float
    studies: int
    studies_done: int
    studies_begun: int
    trials: int
    launches: Mapping[str, int]
    tuner_s: float
    store_s: float
    cpu_s: float
    devices: Mapping[str, DeviceActivity]

    @property
    def tuner_ms_per_trial(self) -> float | None:
        """Time that deciding on a trial and recording it takes in its study, in ms."""
        return 1e3 * self.tuner_s / self.trials if self.trials else None

    @property
    def held_up_ms_per_trial(self) -> float | None:
        """Time that GPU and compilers wait for the tuner, in ms per trial of the session. None without GPUs."""
        seconds = [d.gpu.held_up_s for d in self.devices.values() if d.gpu]
        return 1e3 * sum(seconds) / self.trials if seconds and self.trials else None

    @property
    def gpu_share(self) -> float | None:
        """Share of the time in which GPUs were at work; None without GPUs."""
        return self._share([d.gpu.busy_s for d in self.devices.values() if d.gpu])

    @property
    def compiler_share(self) -> float | None:
        """Share of the time in which compilers were at work; None without compilers."""
        return self._share([d.farm.busy_s / d.farm.workers for d in self.devices.values() if d.farm])

    def _share(self, seconds: list[float]) -> float | None:
        return sum(seconds) / (self.wall_s * len(seconds)) if seconds and self.wall_s > 0 else None

    def to_json(self) -> dict[str, Any]:
        """Return all figures, including derived ones."""
        shares = {"gpu_share": self.gpu_share, "compiler_share": self.compiler_share}
        per_trial = {
            "tuner_ms_per_trial": self.tuner_ms_per_trial,
            "held_up_ms_per_trial": self.held_up_ms_per_trial,
        }
        return {**asdict(self), **shares, **per_trial}


def with_workers(session: SessionActivity, workers: Sequence[Sequence[SessionActivity]]) -> SessionActivity:
    """Return the work of a session together with that of workers in other processes.

    Args:
        workers: the work of each worker by session. Figures of a device carry over from one session to the next.
    """
    every = [session, *(one for sessions in workers for one in sessions)]
    last = [sessions[-1] for sessions in workers if sessions]
    launches: Counter[str] = Counter()
    for one in every:
        launches.update(one.launches)
    found = ((name.partition(" #")[0], device) for one in last for name, device in one.devices.items())
    return replace(
        session,
        # The session itself opens the studies of its workers, to collect their results.
        studies_begun=max(session.studies_begun, sum(one.studies_begun for one in every[1:])),
        trials=sum(one.trials for one in every),
        launches=dict(launches),
        tuner_s=sum(one.tuner_s for one in every),
        store_s=sum(one.store_s for one in every),
        cpu_s=max([session.cpu_s, *(sum(one.cpu_s for one in sessions) for sessions in workers)]),
        devices=by_gpu([*session.devices.items(), *found]),
    )
