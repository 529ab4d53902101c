"""A recorded exhaustive grid in place of a GPU."""

import zlib
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future
from itertools import cycle, islice
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from bo_tune.kernels.spec import KernelSpec
from bo_tune.measure.device import Build, Compiled, Device
from bo_tune.measure.protocol import TimingProtocol, take_repetitions
from bo_tune.outcome import (
    Compilation,
    Invalid,
    InvalidReason,
    Launches,
    LaunchPurpose,
    Measurement,
    Outcome,
    Resources,
)
from bo_tune.problem import GpuInfo, Problem
from bo_tune.recording import Recording
from bo_tune.space import Config, SearchSpace, config_key

VERSIONS = ("driver", "torch", "triton")
"""Entries of a recording's metadata that say what measured it."""


class _Recorded(NamedTuple):
    """What a recording holds of a config on or off its grid."""

    compiled: Build
    runtimes_us: tuple[float, ...]
    relative_error: float | None


class ReplayDevice(Device):
    """Measures one recorded problem: repetitions are drawn from the recorded ones.

    The draw depends on the seed, the problem, the config and the purpose alone, so that a resumed
    study sees what an uninterrupted one would have seen. The kernel's default config, where it lies
    off the recorded grid, always takes its recorded time.
    """

    def __init__(
        self, recording: Recording, default_config: Config, *, seed: int = 0, protocol: TimingProtocol | None = None
    ) -> None:
        self.recording = recording
        self.gpu: GpuInfo = recording.gpu
        self._default = config_key(default_config)
        self._seed = seed
        self._protocol = protocol or TimingProtocol()

    @property
    def provenance(self) -> Mapping[str, str]:
        """Versions as recorded."""
        return {name: str(self.recording.metadata[name]) for name in VERSIONS if name in self.recording.metadata}

    def kernel_source(self, kernel: str) -> str:
        """The recorded kernel source."""
        return self.recording.kernel_source

    def search_space(self, spec: KernelSpec, problem: Problem) -> SearchSpace:
        """The recorded grid."""
        return self.recording.space

    def effective_configs(self, problem: Problem, configs: Sequence[Config]) -> list[dict[str, int]]:
        """Every recorded config ran as it was asked for."""
        return [dict(config) for config in configs]

    def has_binary(self, problem: Problem, configs: Sequence[Config]) -> NDArray[np.bool_]:
        """Nothing has to be compiled: all configs cost the same."""
        return np.ones(len(configs), dtype=bool)

    def _recorded(self, config: Config) -> _Recorded:
        entry = self.recording.entry(config)
        if entry is None:
            if config_key(config) == self._default and self.recording.default_time_us is not None:
                return _Recorded(Compiled(Compilation(), Resources()), (self.recording.default_time_us,), None)
            return _Recorded(Invalid(InvalidReason.NOT_RECORDED), (), None)
        compilation = Compilation(entry.compile_s)
        if entry.reason is not None:
            invalid = Invalid(entry.reason, entry.detail, compilation=compilation, resources=entry.resources)
            return _Recorded(invalid, (), None)
        return _Recorded(Compiled(compilation, entry.resources), entry.runtimes_us, entry.relative_error)

    def compile(self, problem: Problem, config: Config) -> Future[Build]:
        """What the recorded compile came to, at once."""
        future: Future[Build] = Future()
        future.set_result(self._recorded(config).compiled)
        return future

    def _stream(self, problem: Problem, config: Config, purpose: LaunchPurpose) -> Iterator[float]:
        """The recorded repetitions in a random order, over and over: as much as was recorded, and not more."""
        text = f"{problem}|{config_key(config)}|{purpose}"
        rng = np.random.default_rng([self._seed, zlib.crc32(text.encode())])
        return cycle(rng.permutation(self._recorded(config).runtimes_us).tolist())

    def measure(self, problem: Problem, config: Config, compiled: Compiled, *, stop_above_us: float | None) -> Outcome:
        """Draw repetitions without replacement, as many as the protocol would have taken."""
        recorded = self._recorded(config)
        stream = self._stream(problem, config, LaunchPurpose.TIMING)
        taken = take_repetitions(lambda count: list(islice(stream, count)), self._protocol, stop_above_us)
        launches: Launches = Counter({LaunchPurpose.CHECK: 1, LaunchPurpose.TIMING: len(taken.runtimes_us)})
        return Measurement(
            taken.runtimes_us,
            taken.stopped,
            launches,
            compiled.compilation,
            compiled.resources,
            recorded.relative_error,
        )

    def remeasure(self, problem: Problem, configs: Sequence[Config], rounds: int) -> list[tuple[float, ...]]:
        """Draw each config's repetitions in another order."""
        return [tuple(islice(self._stream(problem, c, LaunchPurpose.FINALISTS), rounds)) for c in configs]
