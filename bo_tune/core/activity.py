"""Where the time of a session goes: counts and seconds of everything, as they stand at a moment. Pure data."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any


@dataclass(frozen=True, slots=True)
class FarmActivity:
    """What compilers have done so far.

    Attributes:
        workers: compile processes.
        compiles: compiles done, failed ones included.
        cached: binaries found in Triton's cache.
        shared: requests answered by a compile that another request had asked for.
        packed: binaries asked for that a pack had: compiles avoided.
        packed_s: seconds of one core that compiling those took where the pack was made.
        timeouts: compiles that passed their deadline.
        crashes: compilers that died.
        withdrawn: compiles that ended before they were done, because nobody wanted them any more.
        timeouts_s: seconds of those that passed their deadline, summed over workers.
        withdrawn_s: seconds that workers had spent on those that were withdrawn.
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
    """What a GPU process has done so far.

    Attributes:
        restarts: how often another had to take its place.
        seconds: seconds it was at work, by what it did: ``start``, ``prepare`` (inputs and reference), ``measure``,
            ``finalists``, ``restart`` (ending one and having another).
        standby_starts: processes that were started ahead of need, in the background.
        standby_s: seconds that starting those took, summed over processes.
        warm_ups: launches with which fresh processes were warmed up.
        held_up_s: seconds in which it had nothing to do, nor had one of its compilers, while a study was deciding or
            recording (``measure.occupancy``).
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
    """What a device has done so far; None for what a replay has none of."""

    farm: FarmActivity | None = None
    gpu: GpuActivity | None = None


def by_gpu(found: Iterable[tuple[str, DeviceActivity]]) -> dict[str, DeviceActivity]:
    """Return what devices have done by the names of their GPUs, numbered where several are equal; no idle ones."""
    named: dict[str, DeviceActivity] = {}
    seen: Counter[str] = Counter()
    for name, activity in found:
        seen[name] += 1
        if activity != DeviceActivity():
            named[name if seen[name] == 1 else f"{name} #{seen[name]}"] = activity
    return named


@dataclass(frozen=True, slots=True)
class SessionActivity:
    """What a session has done so far.

    Attributes:
        wall_s: seconds since it began, until it ended.
        studies: studies to do, those done, and those that have begun.
        trials: trials recorded by this session.
        launches: launches of this session by purpose.
        tuner_s: seconds that studies spent on deciding and recording, summed over studies: what is neither waiting for
            a compile nor for the GPU. Most of it passes while other studies keep both at work.
        store_s: seconds of the database, off every study's path.
        cpu_s: seconds of a core that the tuning process took, with all its threads; of several the one that took most.
            Near ``wall_s``, its one interpreter is what the session waits for.
        devices: of each device by name.
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
        """What deciding on a trial and recording it takes in its study, in ms."""
        return 1e3 * self.tuner_s / self.trials if self.trials else None

    @property
    def held_up_ms_per_trial(self) -> float | None:
        """What the tuner adds to a session, in ms a trial: when GPU and compilers had to wait for it. None without
        GPUs."""
        seconds = [d.gpu.held_up_s for d in self.devices.values() if d.gpu]
        return 1e3 * sum(seconds) / self.trials if seconds and self.trials else None

    @property
    def gpu_share(self) -> float | None:
        """Share of the time that GPUs were at work; None without GPUs."""
        return self._share([d.gpu.busy_s for d in self.devices.values() if d.gpu])

    @property
    def compiler_share(self) -> float | None:
        """Share of the time that compilers were at work; None without compilers."""
        return self._share([d.farm.busy_s / d.farm.workers for d in self.devices.values() if d.farm])

    def _share(self, seconds: list[float]) -> float | None:
        return sum(seconds) / (self.wall_s * len(seconds)) if seconds and self.wall_s > 0 else None

    def to_json(self) -> dict[str, Any]:
        """Return all figures, the derived ones included."""
        shares = {"gpu_share": self.gpu_share, "compiler_share": self.compiler_share}
        per_trial = {
            "tuner_ms_per_trial": self.tuner_ms_per_trial,
            "held_up_ms_per_trial": self.held_up_ms_per_trial,
        }
        return {**asdict(self), **shares, **per_trial}


def with_workers(session: SessionActivity, workers: Sequence[Sequence[SessionActivity]]) -> SessionActivity:
    """Return what a session has done together with workers in processes of their own.

    Args:
        workers: what each has done, session by session; a device counts on from one to the next.
    """
    every = [session, *(one for sessions in workers for one in sessions)]
    last = [sessions[-1] for sessions in workers if sessions]
    launches: Counter[str] = Counter()
    for one in every:
        launches.update(one.launches)
    found = ((name.partition(" #")[0], device) for one in last for name, device in one.devices.items())
    return replace(
        session,
        # The session itself opens what workers have done, to collect it.
        studies_begun=max(session.studies_begun, sum(one.studies_begun for one in every[1:])),
        trials=sum(one.trials for one in every),
        launches=dict(launches),
        tuner_s=sum(one.tuner_s for one in every),
        store_s=sum(one.store_s for one in every),
        cpu_s=max([session.cpu_s, *(sum(one.cpu_s for one in sessions) for sessions in workers)]),
        devices=by_gpu([*session.devices.items(), *found]),
    )
