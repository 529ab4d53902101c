"""A recorded exhaustive grid in place of a GPU."""

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
    """Measures one recorded problem: repetitions are drawn from the recorded ones.

    A trial replays the raw repetitions of the recording's first passes. A re-measurement replays the same repetitions
    at the level of the recorded time, which for the fastest configs is what *they* came to when the recording
    re-measured them in turn: it sees what an interleaved re-measurement saw. What is not replayed is the noise of that
    recorded time itself (one median of many repetitions, taken for the truth), nor the passes' noise in common.

    The draw depends on the seed, the problem, the config and the purpose alone, so that a resumed
    study sees what an uninterrupted one would have seen. The kernel's default config, where it lies
    off the recorded grid, always takes its recorded time.
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
        """Return what was the default where the recording was made."""
        return dict(self._default_config)

    def search_space(self, spec: AnySpec, problem: Problem) -> SearchSpace:
        return self.recording.space

    def binaries(self, problem: Problem, configs: Sequence[Config]) -> HaveBinaries:
        there = np.ones(len(configs), dtype=bool)  # nothing has to be compiled: all configs cost the same
        return lambda: there

    def _entry(self, config: Config) -> RecordedConfig:
        """Return what is recorded of a config: of the default, off the grid, only its time."""
        entry = self.recording.entry(config)
        if entry is not None:
            return entry
        time_us = self.recording.default_time_us
        if time_us is None or config_key(config) != self._default:
            return RecordedConfig(reason=InvalidReason.NOT_RECORDED)
        return RecordedConfig((time_us,), time_us)

    def compile(self, problem: Problem, config: Config) -> Future[Build]:
        """Return what the recorded compile came to, at once."""
        entry, future = self._entry(config), Future[Build]()
        compilation, resources = Compilation(entry.compile_s), entry.resources
        if entry.reason is None:
            future.set_result(Compiled(compilation, resources))
        else:
            future.set_result(Invalid(entry.reason, entry.detail, compilation=compilation, resources=resources))
        return future

    def _shuffled(self, problem: Problem, config: Config, purpose: LaunchPurpose) -> list[float]:
        """The recorded repetitions in a random order."""
        text = f"{problem}|{config_key(config)}|{purpose}"
        rng = np.random.default_rng([self._seed, zlib.crc32(text.encode())])
        shuffled: list[float] = rng.permutation(self._entry(config).runtimes_us).tolist()
        return shuffled

    def measure(self, problem: Problem, config: Config, compiled: Compiled, *, stop_above_us: float | None) -> Outcome:
        """Draw repetitions, as many as the protocol would have taken; again from the first when there are no more."""
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
        """Draw each config's repetitions in another order, over and over, at the level of its recorded time.

        Those that were launched late are left out: a device takes them again.
        """
        runtimes_us = [self._redrawn(problem, config, taken, rounds) for config in configs]
        led = 2 if len(configs) > 1 else 1  # a device launches each once more before it is timed
        launches = {LaunchPurpose.FINALISTS: led * sum(map(len, runtimes_us))}
        if taken == 0:
            launches[LaunchPurpose.CHECK] = len(configs)
        return Remeasured(runtimes_us, Counter(launches))

    def _redrawn(self, problem: Problem, config: Config, taken: int, rounds: int) -> tuple[float, ...]:
        clean = on_time(self._shuffled(problem, config, LaunchPurpose.FINALISTS))
        level = self._level(config)
        return tuple(level * time for time in islice(cycle(clean), taken, taken + rounds))

    def _level(self, config: Config) -> float:
        """The recorded time over what the raw repetitions come to: not 1 where the recording re-measured the config."""
        entry = self._entry(config)
        return 1.0 if entry.time_us is None else entry.time_us / estimate_us(entry.runtimes_us)
