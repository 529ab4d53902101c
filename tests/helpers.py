"""What tests of several modules share: small recordings, a device in memory, and the command line."""

import os
import re
import sys
import threading
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field, replace
from functools import cache
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType
from typing import Any

import forked
import numpy as np
import optuna
from optuna.trial import FrozenTrial

from bo_tune.core.gpus import stand_in_for
from bo_tune.core.outcome import Compilation, Invalid, InvalidReason, LaunchPurpose, Measurement, Outcome, Resources
from bo_tune.core.problem import GpuInfo, LoraProblem, Problem
from bo_tune.core.repetitions import TimingProtocol, take_repetitions
from bo_tune.core.space import Config, SearchSpace, config_key
from bo_tune.core.surroundings import Batch, Choice, Layer, Surroundings
from bo_tune.formats.recording import Recording, read_recording, recording_file_name, write_recording
from bo_tune.kernels.spec import AnySpec
from bo_tune.measure.device import Build, Compiled, Device, HaveBinaries, Remeasured, StepTimes
from bo_tune.measure.watch.monitor import GpuMonitor

ROOT = Path(__file__).parent.parent
PATIENCE_S = 300.0
"""How long tests wait for what must come: far longer than it takes on a loaded machine."""
BUNDLED = ROOT / "studies" / "recordings"
H100 = stand_in_for("NVIDIA H100 80GB HBM3")
SHRINK = "h100.lora_shrink.L4.s1.m16.k4096.n16.t4.json.gz"
SHRINK_BIG = "h100.lora_shrink.L8.s1.m4096.k4096.n16.t4.json.gz"
EXPAND = "h100.lora_expand.L4.s2.m64.k32.n14336.t4.json.gz"
EXPAND_DECODE = "h100.lora_expand.L4.s1.m16.k16.n4096.t4.json.gz"
SHRINK_TABLE = "NVIDIA_H100_80GB_HBM3_SHRINK.json"
EXPAND_TABLE = "NVIDIA_H100_80GB_HBM3_EXPAND_TRUE.json"

ONE_PROBLEM = """
[[problem]]
kernel = "lora_shrink"
max_loras = 4
num_slices = 1
m = 16
k = 4096
n = 16
"""
"""A study file's smallest content."""

SMALL_RANGES = {
    "lora_shrink": {
        "block_m": (16, 64, 256),
        "block_n": (32, 256),
        "block_k": (64, 256),
        "num_warps": (4, 8),
        "num_stages": (2, 5),
        "split_k": (8, 64),
        "num_ctas": (1,),
    },
    "lora_expand": {
        "block_m": (16, 64, 256),
        "block_n": (32, 128, 256),
        "block_k": (32, 256),
        "num_warps": (4, 8),
        "num_stages": (2, 5),
        "num_ctas": (1,),
    },
}
"""Corners of the recorded grids: 96 and 72 configs, with every reason for being invalid."""


@cache
def bundled(name: str) -> Recording:
    """Read a bundled recording, once for each process."""
    return read_recording(BUNDLED / name)


def sliced(name: str, *, m: int | None = None, gpu: str | None = None, **ranges: tuple[int, ...]) -> Recording:
    """Return the part of a bundled recording on a small grid, as if of another m or GPU."""
    whole = bundled(name)
    space = SearchSpace.of({**SMALL_RANGES[whole.problem.kernel], **ranges})
    entries = {config_key(config): whole.entries[config_key(config)] for config in space}
    problem = replace(whole.problem, m=m or whole.problem.m)
    info = replace(whole.gpu, name=gpu or whole.gpu.name)
    metadata = {name: value for name, value in whole.metadata.items() if name != "gpu_info"}
    path = Path(recording_file_name(info, problem))
    return replace(whole, path=path, problem=problem, gpu=info, space=space, entries=entries, metadata=metadata)


def write_all(folder: Path, *recordings: Recording) -> Path:
    """Write recordings into a folder and return it."""
    for recording in recordings:
        write_recording(folder / recording.path.name, recording)
    return folder


@dataclass(frozen=True)
class Ran:
    """What a command came to."""

    code: int
    out: str
    err: str

    @property
    def error(self) -> str:
        """The one line on stderr that ends a command given bad input; fails the test for anything else."""
        assert self.code == 2, (self.code, self.out, self.err)
        assert re.fullmatch(r"bo-tune: [^\n]+\n", self.err), self.err
        return self.err.removeprefix("bo-tune: ").strip()


def script(path: Path) -> ModuleType:
    """Load a script that is no module of the package, without running its main."""
    spec = spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


Cli = Callable[..., Ran]
"""Runs the command line in this process: the fixture ``cli``."""


def command(*arguments: object) -> list[str]:
    """Return the command line of the installed console script."""
    return [str(Path(sys.executable).with_name("bo-tune")), *map(str, arguments)]


def run_command(*arguments: object, cwd: Path, run: Callable[..., Any] = forked.run, **more: object) -> Ran:
    """Run the console script in a process of its own; with ``subprocess.run`` where its imports are what is tested."""
    environment = {**os.environ, "COLUMNS": "200"}
    done = run(
        command(*arguments), cwd=cwd, env=environment, capture_output=True, text=True, timeout=PATIENCE_S, **more
    )
    return Ran(done.returncode, done.stdout, done.stderr)


def sqlite_url(path: Path) -> str:
    """Return the storage URL of a SQLite file."""
    return f"sqlite:///{path}"


def stored_trials(path: Path) -> dict[str, list[FrozenTrial]]:
    """Read every trial of a database by study, through Optuna alone."""
    storage = optuna.storages.RDBStorage(sqlite_url(path))
    try:
        return {
            name: optuna.load_study(study_name=name, storage=storage).get_trials()
            for name in optuna.get_all_study_names(storage)
        }
    finally:
        storage.remove_session()
        storage.engine.dispose()


def contents(folder: Path) -> dict[str, bytes]:
    """Return every file below a folder, to see that nothing was touched."""
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


Times = Callable[[Config], float | Invalid]


BARE_US = 20.0
"""Time of a layer without adapters, on a ``FakeDevice``."""


@dataclass
class FakeDevice(Device):
    """A device in memory: a function gives each config its time in us, or why it has none.

    Attributes:
        space: the search space of every kernel.
        times: time of a config, or how compiling or measuring it fails.
        retimed: times when re-measured, where they differ.
        effective: what a config really runs as.
        on_measure: is called before each measurement.
        there: keys of the configs whose binary exists from the start.
        in_place: times of configs where an engine runs them, above those of the layer without adapters.
    """

    times: Times
    space: SearchSpace
    retimed: Mapping[tuple[tuple[str, int], ...], float] = field(default_factory=dict)
    effective: Callable[[Config], dict[str, int]] = dict
    on_measure: Callable[[Config], None] = lambda config: None
    protocol: TimingProtocol = field(default_factory=TimingProtocol)
    gpu: GpuInfo = H100
    there: frozenset[tuple[tuple[str, int], ...]] = frozenset()
    monitor: GpuMonitor | None = None
    times_in_place: bool = False
    in_place: Callable[[Config], float] = lambda config: 1.0

    def __post_init__(self) -> None:
        self.lock = threading.Lock()
        self.compiled: list[dict[str, int]] = []
        self.measured: list[dict[str, int]] = []
        self.incumbents: list[float | None] = []
        self.remeasured: list[list[dict[str, int]]] = []
        self.placed: list[tuple[Surroundings, list[dict[str, int]]]] = []

    @property
    def provenance(self) -> Mapping[str, str]:
        return {"driver": "1.2", "torch": "3.4", "triton": "5.6"}

    def kernel_source(self, kernel: str) -> str:
        return f"fake {kernel}"

    def search_space(self, spec: AnySpec, problem: LoraProblem) -> SearchSpace:
        return self.space

    def effective_configs(self, problem: LoraProblem, configs: Sequence[Config]) -> list[Config]:
        return [self.effective(config) for config in configs]

    def compile(self, problem: LoraProblem, config: Config) -> Future[Build]:
        with self.lock:
            self.compiled.append(dict(config))
        future: Future[Build] = Future()
        time_us = self.times(config)
        broken = isinstance(time_us, Invalid) and time_us.reason in COMPILE_TIME
        future.set_result(time_us if broken else Compiled(Compilation(0.25), Resources(shared_memory_bytes=1024)))
        return future

    def measure(
        self, problem: LoraProblem, config: Config, compiled: Compiled, *, stop_above_us: float | None
    ) -> Outcome:
        self.on_measure(config)
        with self.lock:
            self.measured.append(dict(config))
            self.incumbents.append(stop_above_us)
        time_us = self.times(config)
        if isinstance(time_us, Invalid):
            return replace(time_us, launches=Counter({LaunchPurpose.CHECK: 1}))
        taken = take_repetitions(lambda count: [time_us] * count, self.protocol, stop_above_us)
        launches = Counter({LaunchPurpose.CHECK: 1, LaunchPurpose.TIMING: len(taken.runtimes_us)})
        return Measurement(taken.runtimes_us, taken.stopped, launches, compiled.compilation, compiled.resources, 1e-6)

    def binaries(self, problem: LoraProblem, configs: Sequence[Config]) -> HaveBinaries:
        there = np.array([config_key(config) in self.there for config in configs], dtype=bool)
        return lambda: there

    def remeasure(self, problem: LoraProblem, configs: Sequence[Config], rounds: int, *, taken: int = 0) -> Remeasured:
        launches = Counter({LaunchPurpose.FINALISTS: rounds * len(configs)})
        self.remeasured.append([dict(config) for config in configs])
        times = [(self.retimed.get(config_key(c), self.times(c)),) * rounds for c in configs]
        return Remeasured(times, launches)  # type: ignore[arg-type]

    def remeasure_in_place(
        self, problems: Sequence[Problem], choices: Sequence[Sequence[Config]], rounds: int, around: Surroundings
    ) -> Remeasured:
        self.placed.append((around, [dict(config) for configs in choices for config in configs]))
        launches = Counter({LaunchPurpose.FINALISTS: rounds * len(choices) * len(problems)})
        layers = [(BARE_US + sum(map(self.in_place, configs)),) * rounds for configs in choices]
        return Remeasured(layers, launches, (BARE_US,) * rounds)

    def time_step(
        self, layers: Sequence[Layer], batch: Batch, choices: Sequence[Sequence[Choice] | None], rounds: int
    ) -> StepTimes:
        def layer_us(choice: Sequence[Choice] | None) -> float:
            configs = [config for each in choice or () for config in each.values()]
            return BARE_US * len(layers) + sum(map(self.in_place, configs))

        return StepTimes(tuple((layer_us(choice),) * rounds for choice in choices), None)


COMPILE_TIME = (InvalidReason.COMPILE_TIMEOUT, InvalidReason.COMPILE_ERROR, InvalidReason.CONSTRAINT)
