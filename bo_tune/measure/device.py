"""What measures: a GPU or a recording, behind one small interface."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from bo_tune.core.activity import DeviceActivity
from bo_tune.core.conditions import Conditions, toolchain_label
from bo_tune.core.outcome import Compilation, Invalid, Launches, Outcome, Resources
from bo_tune.core.problem import GpuInfo, Problem
from bo_tune.core.space import Config, SearchSpace
from bo_tune.core.surroundings import Batch, Choice, Layer, Surroundings
from bo_tune.kernels.spec import AnySpec
from bo_tune.measure.host_state import HostState
from bo_tune.measure.occupancy import Occupancy
from bo_tune.measure.watch.monitor import GpuMonitor


@dataclass(frozen=True, slots=True)
class Compiled:
    """A config whose binary exists, not yet loaded; or its binaries, where it is of several launches.

    Attributes:
        entry: its folder in Triton's cache, of the first launch; None where nothing compiles.
        more: folders of the others, where they are not the same.
    """

    compilation: Compilation
    resources: Resources
    entry: str | None = None
    more: tuple[str, ...] = ()


Build = Compiled | Invalid
"""What came of compiling a config."""


@dataclass(frozen=True, slots=True)
class Remeasured:
    """What timing configs in turn came to.

    Attributes:
        runtimes_us: each config's repetitions in us; none for one whose result turned out wrong.
        launches: every launch it took, by purpose.
        bare_us: in a layer, the repetitions of the layer without adapters, in us.
    """

    runtimes_us: list[tuple[float, ...]]
    launches: Launches
    bare_us: tuple[float, ...] = ()


@dataclass(frozen=True, slots=True)
class StepTimes:
    """What the linears of a decoder layer take.

    Attributes:
        runtimes_us: for each choice the repetitions in us, of all linears together.
        python_us: how long the engine's Python takes to launch the adapters' kernels; None where no engine has them.
    """

    runtimes_us: tuple[tuple[float, ...], ...]
    python_us: float | None


@dataclass(frozen=True, slots=True)
class MeasureAnswer:
    """What a GPU process says of one config: its outcome, and whether the GPU's context is still usable."""

    outcome: Outcome
    healthy: bool = True


HaveBinaries = Callable[[], NDArray[np.bool_]]
"""Says of some configs which of them need no compiling any more, ``[number of configs]``."""

Slowness = Callable[[], NDArray[np.float64]]
"""Says of some configs how many times the usual a compile of each is expected to take, at least 1, ``[configs]``."""


class Device(ABC):
    """Compiles and measures configs of the problems of one GPU. Safe to use from several threads."""

    gpu: GpuInfo
    conditions: Conditions = Conditions()
    times_in_place: bool = False
    """Whether kernels can be timed where an engine runs them."""
    occupancy = Occupancy(0)  # of devices that have neither compilers nor a GPU process, which nothing holds up
    monitor: GpuMonitor | None = None
    """Notices what disturbs measurements; None where nothing is measured, or ``unwatched`` says why."""
    unwatched: str | None = None
    host: HostState | None = None
    """What says later, without opening it, that it would still say the same of itself; None where nothing does."""

    @property
    def activity(self) -> DeviceActivity:
        """What it has done so far."""
        return DeviceActivity()

    @property
    @abstractmethod
    def provenance(self) -> Mapping[str, str]:
        """What measured: versions of driver, torch, triton and the assembler, as far as they are known."""

    @property
    def toolchain(self) -> str:
        """The toolchain in a word, as studies are named by it."""
        return toolchain_label(self.provenance)

    @abstractmethod
    def kernel_source(self, kernel: str) -> str:
        """Which code of a kernel is measured."""

    def note(self, problem: Problem) -> str | None:
        """Return a line on what tuning a problem's kernel is good for, if there is anything to say."""
        return None

    def decided_by(self, problem: Problem) -> tuple[str, ...]:
        """Name the kernels that decide for a problem's, because its engine launches them in its place."""
        return ()

    def default_config(self, spec: AnySpec, problem: Problem) -> dict[str, int]:
        """Return the baseline of a problem: the config that runs on this GPU where nothing was tuned."""
        return spec.default_config(problem)

    def search_space(self, spec: AnySpec, problem: Problem) -> SearchSpace:
        """Return the grid when the user changes nothing."""
        return spec.search_space

    def effective_configs(self, problem: Problem, configs: Sequence[Config]) -> list[Config]:
        """Return for each config the one that really runs. Equal ones are measured once."""
        return list(configs)

    @abstractmethod
    def binaries(self, problem: Problem, configs: Sequence[Config]) -> HaveBinaries:
        """Return what says, whenever it is called, which of these configs' binaries exist by then."""

    def slowness(self, problem: Problem, configs: Sequence[Config]) -> Slowness:
        """Return what says, whenever it is called, how slow these configs' compiles are expected to be."""
        usual = np.ones(len(configs))
        return lambda: usual

    @abstractmethod
    def compile(self, problem: Problem, config: Config) -> Future[Build]:
        """Start compiling; the result says whether there is something to measure."""

    def withdraw(self, problem: Problem, config: Config) -> None:
        """Say that a config which is being compiled is not wanted any more, and its future not waited for."""
        return

    def expect(self, problem: Problem) -> None:
        """Prepare for measuring configs of a problem, without waiting for it."""
        return

    @abstractmethod
    def measure(self, problem: Problem, config: Config, compiled: Compiled, *, stop_above_us: float | None) -> Outcome:
        """Check and time a compiled config; ``stop_above_us`` is the incumbent's time."""

    @abstractmethod
    def remeasure(self, problem: Problem, configs: Sequence[Config], rounds: int, *, taken: int = 0) -> Remeasured:
        """Time configs in turn, each checked before. A wrong one, or one that breaks the device, has no times.

        Args:
            rounds: repetitions of each config.
            taken: rounds already taken of these configs, by earlier calls.
        """

    def remeasure_in_place(
        self, problems: Sequence[Problem], choices: Sequence[Sequence[Config]], rounds: int, around: Surroundings
    ) -> Remeasured:
        """Do the same in a layer: a repetition is the time of the whole layer. No times where it cannot run.

        Args:
            problems: of the layer's kernels that are chosen for: one of a linear's, or all that experts run.
            choices: each a config for every problem.
            around: what an engine runs around them.

        Raises:
            NotImplementedError: ``times_in_place`` is false.
        """
        raise NotImplementedError(f"{type(self).__name__} times kernels alone")

    def time_step(
        self, layers: Sequence[Layer], batch: Batch, choices: Sequence[Sequence[Choice] | None], rounds: int
    ) -> StepTimes:
        """Time what of a decoder layer takes adapters, one after the other, with each choice of configs in turn.

        Args:
            choices: each the configs of every layer's kernels; None for none with adapters.

        Raises:
            DeviceError: they cannot run, or the GPU is lost.
            NotImplementedError: ``times_in_place`` is false.
        """
        raise NotImplementedError(f"{type(self).__name__} times kernels alone")

    def close(self) -> None:
        """Give back processes and memory."""
        return
