"""Exhaustively measured search spaces of any kernel, and what launching one of their configs comes to.

Files are of the autotuning community's T4 format, of this project or of others. Times stay in the file's unit: a regret
has none.
"""

import gzip
import json
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import cycle, islice
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bo_tune.core.outcome import estimate_us, on_time
from bo_tune.core.repetitions import TimingProtocol
from bo_tune.errors import UnknownKernelError
from bo_tune.formats.recording import SUFFIXES, Recording, read_recording
from bo_tune.kernels.registry import kernel_spec
from bo_tune.measure.devices import replay_job
from bo_tune.search import Grid
from bo_tune.search.grid import Params, Value
from bo_tune.tuning.candidates import candidates
from bo_tune.tuning.settings import Finalists

DEFAULT = -1
"""Stands for the index of a default config that is not on the grid."""

Features = Callable[[Sequence[Params]], NDArray[np.float64]]


@dataclass(frozen=True)
class MeasuredGrid:
    """A search space of which every config was measured.

    Attributes:
        name: of the file, without its ending.
        kernel: equal for grids of the same kernel, whatever its problem and GPU.
        gpu: where it was measured.
        grid: the product of all values; valid are the configs that a search may try.
        runtimes: of each valid config every repetition, in the file's unit; empty where it cannot run.
        times: of each config the recorded time, ``[C]``; NaN where there is none.
        features: further columns for the surrogate, as the project computes them of its own kernels.
        default: what runs untuned, with its time, where it is known.
    """

    name: str
    kernel: str
    gpu: str
    grid: Grid
    runtimes: dict[int, tuple[float, ...]]
    times: NDArray[np.float64]
    features: Features | None = None
    default: tuple[Params, float] | None = None

    @cached_property
    def best(self) -> float:
        """The smallest recorded time."""
        return float(np.nanmin(self.times))

    @property
    def first(self) -> list[int]:
        """The default config, as all searches begin with it; nothing where none is known."""
        if self.default is None:
            return []
        index = self.grid.index(self.default[0])
        return [DEFAULT if index is None else index]

    def config(self, index: int) -> Params:
        """Return a config by its index."""
        if index == DEFAULT and self.default is not None:
            return self.default[0]
        return self.grid[index]

    def time(self, index: int) -> float:
        """Return the recorded time of a config; NaN where there is none."""
        if index == DEFAULT and self.default is not None:
            return self.default[1]
        return float(self.times[index])

    def launch(self, index: int, seed: int) -> tuple[float, ...]:
        """Return repetitions as a trial takes them; none of a config that cannot run."""
        if index == DEFAULT or (index in self.first and index not in self.runtimes):
            return (self.time(index),)
        return self._shuffled(index, seed, "trial")[: TimingProtocol().repetitions]

    def remeasured(self, index: int, seed: int) -> float:
        """Return the time of a finalist: other draws, at the level of the recorded time."""
        clean = on_time(self._shuffled(index, seed, "finalists") if index in self.runtimes else (self.time(index),))
        level = self.time(index) / estimate_us(self.runtimes.get(index, clean))
        return level * estimate_us(list(islice(cycle(clean), Finalists().rounds)))

    def _shuffled(self, index: int, seed: int, purpose: str) -> tuple[float, ...]:
        rng = np.random.default_rng([seed, index, zlib.crc32(f"{self.name} {purpose}".encode())])
        return tuple(rng.permutation(self.runtimes[index]).tolist())

    def found(self, launched: Sequence[int]) -> float:
        """Return the smallest recorded time of some configs over the grid's best, minus one; infinite without any."""
        return min((time for time in map(self.time, launched) if time == time), default=float("inf")) / self.best - 1.0

    def regret(self, launched: Sequence[int], seed: int) -> float:
        """Return the recorded time of what would be written after some launches, over the grid's best, minus one.

        Infinite where none of them could run.
        """
        seen = {index: estimate_us(times) for index in launched if (times := self.launch(index, seed))}
        finalists = sorted(seen, key=lambda index: seen[index])[: Finalists().count]
        again = {index: self.remeasured(index, seed) for index in {*finalists, *(self.first if seen else ())}}
        if not again:
            return float("inf")
        return self.time(min(again, key=lambda index: again[index])) / self.best - 1.0


def read_grids(folder: Path) -> list[MeasuredGrid]:
    """Read all T4 files of a folder, in the order of their names.

    Raises:
        OSError: it cannot be read.
        BoTuneError: one of the files cannot be.
    """
    return [read_grid(path) for path in sorted(folder.iterdir()) if path.name.endswith(SUFFIXES)]


def read_grid(path: Path) -> MeasuredGrid:
    """Read one T4 file: of a kernel that this project knows, or of any other. Raises as ``read_grids``."""
    with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as file:
        document = json.load(file)
    if "kernel" not in document.get("metadata", {}):
        return foreign_grid(path.name, document)
    try:
        return own_grid(read_recording(path))
    except UnknownKernelError:
        return foreign_grid(path.name, document)


def own_grid(recording: Recording) -> MeasuredGrid:
    """Return the grid of a recording, of which searches try the same configs as a session would."""
    job = replay_job(recording)
    spec, problem, gpu = kernel_spec(recording.problem.kernel), recording.problem, recording.gpu
    default = recording.default_config
    tried = candidates(spec, problem, recording.space, job.device, exhaustive=False)
    grid = Grid(recording.space.ranges, tried.mask)
    times = np.full(len(grid), np.nan)
    runtimes = {}
    for index, config in enumerate(recording.space):
        entry = recording.entry(config)
        if entry is not None:
            times[index] = np.nan if entry.time_us is None else entry.time_us
            runtimes[index] = entry.runtimes_us if entry.time_us is not None else ()
    default_us = recording.time_us(default)

    def features(configs: Sequence[Params]) -> NDArray[np.float64]:
        return spec.features(configs, problem, gpu)  # type: ignore[arg-type]

    known = None if default_us is None else (default, default_us)
    return MeasuredGrid(_stem(recording.path.name), problem.kernel, gpu.name, grid, runtimes, times, features, known)


def foreign_grid(name: str, document: dict[str, Any]) -> MeasuredGrid:
    """Return the grid of another project's file, named ``kernel.gpu.t4.json``; what it does not list is not allowed."""
    results = document["results"]
    configs: list[dict[str, Value]] = [entry["configuration"] for entry in results]
    dimensions = {key: _in_order({config[key] for config in configs}) for key in configs[0]}
    positions = {key: {value: at for at, value in enumerate(values)} for key, values in dimensions.items()}
    shape = [len(values) for values in dimensions.values()]
    listed, times = np.zeros(int(np.prod(shape)), dtype=bool), np.full(int(np.prod(shape)), np.nan)
    runtimes: dict[int, tuple[float, ...]] = {}
    for config, entry in zip(configs, results, strict=True):
        index = int(np.ravel_multi_index([positions[key][config[key]] for key in dimensions], shape))
        listed[index], runtimes[index] = True, ()
        if entry["invalidity"] == "correct":
            runtimes[index] = tuple(map(float, entry["times"]["runtimes"]))
            times[index] = float(next(m["value"] for m in entry["measurements"] if m["name"] == "time"))
    kernel, _, gpu = _stem(name).partition(".")
    return MeasuredGrid(_stem(name), kernel, gpu, Grid(dimensions, listed), runtimes, times)


def _in_order(values: set[Value]) -> tuple[Value, ...]:
    """Values in ascending order; as texts where they cannot be compared."""
    try:
        return tuple(sorted(values))  # type: ignore[type-var]
    except TypeError:
        return tuple(sorted(values, key=str))


def _stem(name: str) -> str:
    return next(name.removesuffix(ending) for ending in SUFFIXES if name.endswith(ending))
