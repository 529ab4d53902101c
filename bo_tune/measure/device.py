"""The interface of devices: a GPU or a recording that measures configs."""

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
    """A config whose binary exists but is not loaded yet. A config of several launches may have several binaries.

    Attributes:
        entry: the folder in Triton's cache of the first launch's binary; None if nothing is compiled.
        more: the folders of the other launches' binaries, if they differ from the first.
    """

    compilation: Compilation
    resources: Resources
    entry: str | None = None
    more: tuple[str, ...] = ()


Build = Compiled | Invalid
"""The result of compiling a config."""


@dataclass(frozen=True, slots=True)
class Remeasured:
    """The result of timing configs in turn.

    Attributes:
        runtimes_us: the repetitions of each config, in us; empty for a config whose result was wrong.
        launches: every launch made, by purpose.
        bare_us: when timed in a layer, the repetitions of the layer without adapters, in us.
    """

    runtimes_us: list[tuple[float, ...]]
    launches: Launches
    bare_us: tuple[float, ...] = ()


@dataclass(frozen=True, slots=True)
class StepTimes:
    """Times of the linears of a decoder layer.

    Attributes:
        runtimes_us: for each choice, the repetitions of all linears together, in us.
        python_us: how long the engine's Python takes to launch the adapters' kernels; None if no engine has them.
    """

    runtimes_us: tuple[tuple[float, ...], ...]
    python_us: float | None


@dataclass(frozen=True, slots=True)
class MeasureAnswer:
    """A GPU process's answer for one config: its outcome, and whether the GPU's context is still usable."""

    outcome: Outcome
    healthy: bool = True


HaveBinaries = Callable[[], NDArray[np.bool_]]
"""Returns, for a fixed list of configs, which of them no longer need compiling, ``[number of configs]``."""

Slowness = Callable[[], NDArray[np.float64]]
"""Returns, for a fixed list of configs, how many times the usual each compile is expected to take, at least 1,
``[configs]``."""


class Device(ABC):
    """Compiles and measures configs of the problems of one GPU. Safe to use from several threads."""

    gpu: GpuInfo
    conditions: Conditions = Conditions()
    times_in_place: bool = False
    """Whether the device can time kernels inside the layer where an engine runs them."""
    occupancy = Occupancy(0)  # for devices without compilers and a GPU process: nothing holds them up
    monitor: GpuMonitor | None = None
    """Notices what disturbs measurements. None if nothing is measured, or for the reason given in ``unwatched``."""
    unwatched: str | None = None
    host: HostState | None = None
    """Lets a later run tell, without opening the device, whether its description still holds; None if that cannot be
    told."""

    @property
    def activity(self) -> DeviceActivity:
        """The work that the device has done so far."""
        return DeviceActivity()

    @property
    @abstractmethod
    def provenance(self) -> Mapping[str, str]:
        """Versions of what measured (driver, torch, Triton and the assembler), as far as they are known."""

    @property
    def toolchain(self) -> str:
        """The toolchain as one word, which is part of studies' names."""
        return toolchain_label(self.provenance)

    @abstractmethod
    def kernel_source(self, kernel: str) -> str:
        """Return which code of a kernel is measured."""

    def note(self, problem: Problem) -> str | None:
        """Return a line about what tuning a problem's kernel is good for, or None if there is nothing to say."""
        return None

    def decided_by(self, problem: Problem) -> tuple[str, ...]:
        """Name the kernels that decide for a problem's kernel because its engine launches them instead."""
        return ()

    def default_config(self, spec: AnySpec, problem: Problem) -> dict[str, int]:
        """Return a problem's baseline: the config that runs on this GPU if nothing was tuned."""
        return spec.default_config(problem)

    def search_space(self, spec: AnySpec, problem: Problem) -> SearchSpace:
        """Return the grid to search unless the user changes it."""
        return spec.search_space

    def effective_configs(self, problem: Problem, configs: Sequence[Config]) -> list[Config]:
        """Return the config that really runs for each config. Configs that run as the same one are measured once."""
        return list(configs)

    @abstractmethod
    def binaries(self, problem: Problem, configs: Sequence[Config]) -> HaveBinaries:
        """Return a function that tells, at each call, which of these configs have binaries by then."""

    def slowness(self, problem: Problem, configs: Sequence[Config]) -> Slowness:
        """Return a function that tells, at each call, how slow these configs' compiles are expected to be."""
        usual = np.ones(len(configs))
        return lambda: usual

    @abstractmethod
    def compile(self, problem: Problem, config: Config) -> Future[Build]:
        """Start compiling. The future says whether there is something to measure."""

    def withdraw(self, problem: Problem, config: Config) -> None:
        """Say that nobody wants a config that is being compiled any more, and nobody waits for its future."""
        return

    def expect(self, problem: Problem) -> None:
        """Prepare in the background to measure configs of a problem."""
        return

    @abstractmethod
    def measure(self, problem: Problem, config: Config, compiled: Compiled, *, stop_above_us: float | None) -> Outcome:
        """Check and time a compiled config; ``stop_above_us`` is the incumbent's time."""

    @abstractmethod
    def remeasure(self, problem: Problem, configs: Sequence[Config], rounds: int, *, taken: int = 0) -> Remeasured:
        """Check configs and time them in turn. A config that is wrong or breaks the device gets no times.

        Args:
            rounds: repetitions of each config.
            taken: rounds that earlier calls have already taken of these configs.
        """

    def remeasure_in_place(
        self, problems: Sequence[Problem], choices: Sequence[Sequence[Config]], rounds: int, around: Surroundings
    ) -> Remeasured:
        """Do the same in a layer: a repetition times the whole layer. There are no times if it cannot run.

        Args:
            problems: of those kernels of the layer whose configs are chosen: one kernel of a linear, or all that
                experts run.
            choices: for each choice, a config for every problem.
            around: what an engine runs around them.

        Raises:
            NotImplementedError: ``times_in_place`` is false.
        """
        raise NotImplementedError(f"{type(self).__name__} times kernels alone")

    def time_step(
        self, layers: Sequence[Layer], batch: Batch, choices: Sequence[Sequence[Choice] | None], rounds: int
    ) -> StepTimes:
        """Time all parts of a decoder layer that take adapters, one after the other, with each choice in turn.

        Args:
            choices: for each choice, the configs of every layer's kernels; None to run all layers without adapters.

        Raises:
            DeviceError: the layers cannot run, or the GPU is lost.
            NotImplementedError: ``times_in_place`` is false.
        """
        raise NotImplementedError(f"{type(self).__name__} times kernels alone")

    def close(self) -> None:
        """Release processes and memory."""
        return
