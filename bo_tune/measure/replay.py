"""Replays a recorded exhaustive grid instead of using a GPU."""

import zlib
from collections import Counter
from collections.abc import Mapping, Sequence
from concurrent.futures import Future
from itertools import cycle, islice

import numpy as np

from bo_tune.core.conditions import TOOLCHAIN
from bo_tune.core.outcome import (
    Compilation,
    Invalid,
    InvalidReason,
    Launches,
    LaunchPurpose,
    Measurement,
    Outcome,
    estimate_us,
    on_time,
)
from bo_tune.core.problem import GpuInfo, Problem
from bo_tune.core.repetitions import TimingProtocol, take_repetitions
from bo_tune.core.space import Config, SearchSpace, config_key
from bo_tune.formats.recording import RecordedConfig, Recording
from bo_tune.kernels.spec import AnySpec
from bo_tune.measure.device import Build, Compiled, Device, HaveBinaries, Remeasured

VERSIONS = ("driver", *TOOLCHAIN)
"""Entries of a recording's metadata that say what measured it."""


class ReplayDevice(Device):
    """Measures one recorded problem by drawing from its recorded repetitions.

    A trial replays the raw repetitions of the recording's first passes. A re-measurement replays the same repetitions,
    scaled to the recorded time. For the fastest configs, the recorded time comes from timing them in turn, so a
    replayed re-measurement sees what an interleaved one saw. Two kinds of noise are not replayed: that of the recorded
    time itself (one median of many repetitions, taken as the truth), and the noise that passes have in common.

    The draw depends only on the seed, the problem, the config and the purpose, so a resumed study sees what an
    uninterrupted one would have seen. If the kernel's default config is off the recorded grid, it always takes its
    recorded time.
    """

    def __init__(
        self, recording: Recording, default_config: Config, *, seed: int = 0, protocol: TimingProtocol | None = None
    ) -> None:
        self.recording = recording
        self.gpu: GpuInfo = recording.gpu
        self._default_config = dict(default_config)
        self._default = config_key(default_config)
        self._seed = seed
        self._protocol = protocol or TimingProtocol()

    @property
    def provenance(self) -> Mapping[str, str]:
        return {name: str(self.recording.metadata[name]) for name in VERSIONS if name in self.recording.metadata}

    def kernel_source(self, kernel: str) -> str:
        return self.recording.kernel_source

    def default_config(self, spec: AnySpec, problem: Problem) -> dict[str, int]:
        """Return the default config at the time of the recording."""
        return dict(self._default_config)

    def search_space(self, spec: AnySpec, problem: Problem) -> SearchSpace:
        return self.recording.space

    def binaries(self, problem: Problem, configs: Sequence[Config]) -> HaveBinaries:
        there = np.ones(len(configs), dtype=bool)  # nothing has to be compiled, so all configs cost the same
        return lambda: there

    def _entry(self, config: Config) -> RecordedConfig:
        """Return what is recorded for a config. For a default config off the grid, that is only its time."""
        entry = self.recording.entry(config)
        if entry is not None:
            return entry
        time_us = self.recording.default_time_us
        if time_us is None or config_key(config) != self._default:
            return RecordedConfig(reason=InvalidReason.NOT_RECORDED)
        return RecordedConfig((time_us,), time_us)

    def compile(self, problem: Problem, config: Config) -> Future[Build]:
        """Return the recorded result of the compile at once."""
        entry, future = self._entry(config), Future[Build]()
        compilation, resources = Compilation(entry.compile_s), entry.resources
        if entry.reason is None:
            future.set_result(Compiled(compilation, resources))
        else:
            future.set_result(Invalid(entry.reason, entry.detail, compilation=compilation, resources=resources))
        return future

    def _shuffled(self, problem: Problem, config: Config, purpose: LaunchPurpose) -> list[float]:
        """Return the recorded repetitions in random order."""
        text = f"{problem}|{config_key(config)}|{purpose}"
        rng = np.random.default_rng([self._seed, zlib.crc32(text.encode())])
        shuffled: list[float] = rng.permutation(self._entry(config).runtimes_us).tolist()
        return shuffled

    def measure(self, problem: Problem, config: Config, compiled: Compiled, *, stop_above_us: float | None) -> Outcome:
        """Draw as many repetitions as the protocol would have taken, starting over when there are no more."""
        stream = cycle(self._shuffled(problem, config, LaunchPurpose.TIMING))
        taken = take_repetitions(lambda count: list(islice(stream, count)), self._protocol, stop_above_us)
        launches: Launches = Counter({LaunchPurpose.CHECK: 1, LaunchPurpose.TIMING: len(taken.runtimes_us)})
        return Measurement(
            taken.runtimes_us,
            taken.stopped,
            launches,
            compiled.compilation,
            compiled.resources,
            self._entry(config).relative_error,
        )

    def remeasure(self, problem: Problem, configs: Sequence[Config], rounds: int, *, taken: int = 0) -> Remeasured:
        """Draw each config's repetitions in another order, over and over, scaled to its recorded time.

        Repetitions that were launched late are left out, as a device would take them again.
        """
        runtimes_us = [self._redrawn(problem, config, taken, rounds) for config in configs]
        led = 2 if len(configs) > 1 else 1  # a device launches each once more before timing it
        launches = {LaunchPurpose.FINALISTS: led * sum(map(len, runtimes_us))}
        if taken == 0:
            launches[LaunchPurpose.CHECK] = len(configs)
        return Remeasured(runtimes_us, Counter(launches))

    def _redrawn(self, problem: Problem, config: Config, taken: int, rounds: int) -> tuple[float, ...]:
        clean = on_time(self._shuffled(problem, config, LaunchPurpose.FINALISTS))
        level = self._level(config)
        return tuple(level * time for time in islice(cycle(clean), taken, taken + rounds))

    def _level(self, config: Config) -> float:
        """Return the recorded time over the raw repetitions' estimate: 1 unless the config was re-measured."""
        entry = self._entry(config)
        return 1.0 if entry.time_us is None else entry.time_us / estimate_us(entry.runtimes_us)
