"""The side of a kernel that needs torch and triton: inputs, launch, compilation, reference.

The measuring processes know kernels through this interface alone. So the same code measures a kernel of this project,
one of an installed vLLM, and one of a user.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Any, Generic, Protocol, TypeVar

import torch

from bo_tune.core.conditions import Conditions
from bo_tune.core.problem import Asked, GpuInfo
from bo_tune.core.space import Config, ConfigKey, config_key
from bo_tune.kernels.call import KernelCall, PreparedLaunch

DEFAULT_CONDITIONS = Conditions()
META = torch.device("meta")


class Launched(Protocol):
    """Inputs of one problem."""

    @property
    def problem(self) -> Any:
        """The problem."""

    @property
    def prepared(self) -> dict[ConfigKey, PreparedLaunch]:
        """Launches with nothing left to decide, by config."""


Inputs = TypeVar("Inputs", bound=Launched)


class Right(Protocol):
    """The right results, to compare with."""

    @property
    def nbytes(self) -> int:
        """Device memory in use, in bytes."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """Whether a result is right.

    Attributes:
        error: distance from the right result (Frobenius norm, relative); the largest of several outputs. None if it is
            not a number, or the right result is all zero.
        wrong: a line that says what is wrong; empty if nothing is.
    """

    error: float | None
    wrong: str = ""


class Operation(ABC, Generic[Asked, Inputs]):
    """One kernel to launch, or several that are tuned as one. All state of a problem lives in its inputs."""

    @property
    @abstractmethod
    def source(self) -> str:
        """Identify the code, for example ``bo_tune 3f2a9c1e``. Results of different sources never mix."""

    def note(self, problem: Asked, gpu: GpuInfo) -> str | None:
        """Say in one line how the engine uses this kernel's configs, if that is not evident; None if it is."""
        return None

    def decided_by(self, problem: Asked, gpu: GpuInfo) -> tuple[str, ...]:
        """Name the kernels whose studies decide for this one (``KernelSpec.decides``).

        The engine launches them in place of this kernel and the others of its joint group. Empty if the engine launches
        this kernel itself, or if the values to agree on have no effect.
        """
        return ()

    @abstractmethod
    def make_inputs(
        self, problem: Asked, *, seed: int, device: torch.device, conditions: Conditions = DEFAULT_CONDITIONS
    ) -> Inputs:
        """Draw inputs of the problem's size, with tokens spread over adapters and experts as the conditions say."""

    @abstractmethod
    def meta_inputs(self, problem: Asked) -> Inputs:
        """Make inputs on the meta device. Their tensors hold nothing and need no GPU."""

    @cached_property
    def stand_ins(self) -> Callable[[Asked], Inputs]:
        """Return ``meta_inputs``, cached for the latest problems."""
        return lru_cache(maxsize=64)(self.meta_inputs)

    @abstractmethod
    def inputs_bytes(self, inputs: Inputs) -> int:
        """Return the device memory of the inputs, in bytes."""

    @abstractmethod
    def reset(self, inputs: Inputs) -> None:
        """Bring the output into the state that a launch expects. This is not timed."""

    @abstractmethod
    def poison(self, inputs: Inputs) -> None:
        """Do as ``reset``, but put NaN wherever a correct launch must write, so that a skipped element shows."""

    @abstractmethod
    def launch(self, inputs: Inputs, config: Config) -> None:
        """Launch once on the current stream. Put nothing else on the GPU's timeline."""

    def engine_launch(self, inputs: Inputs) -> Callable[[], None] | None:
        """Return a function that launches as the engine does, with all its Python and a config of the engine's choice.

        None if no engine launches this kernel.
        """
        return None

    @abstractmethod
    def compile(self, problem: Asked, config: Config) -> Sequence[Any]:
        """Compile for the active Triton target, without launching and without a GPU.

        The binaries are those that ``launch`` finds in Triton's cache for inputs of the problem. A launch compiles
        whatever cannot be known ahead of it.

        Returns:
            Triton's compiled kernels.
        """

    def restore(self, inputs: Inputs) -> None:
        """Restore inputs that launches have changed. Runs before each timed launch, and is not timed itself."""

    @abstractmethod
    def right(self, inputs: Inputs) -> Right:
        """Return the right results for these inputs. Nothing has been launched with them so far."""

    @abstractmethod
    def judge(self, inputs: Inputs, right: Any) -> Verdict:
        """Compare the results of the last launch with the right ones."""

    @abstractmethod
    def effective_config(self, problem: Asked, config: Config, gpu: GpuInfo) -> dict[str, int]:
        """Return the config that really runs for this one. Configs with equal effective configs are one config."""

    @abstractmethod
    def compile_key(self, problem: Asked, config: Config, gpu: GpuInfo) -> Hashable:
        """Return a key that is equal for launches that share their binaries, and the same in every process."""


class KernelOperation(Operation[Asked, Inputs]):
    """One launch of one kernel."""

    @abstractmethod
    def call(self, inputs: Inputs, config: Config, gpu: GpuInfo | None = None) -> KernelCall:
        """Return the launch for a config.

        Args:
            gpu: the GPU, if it is not the one that Triton compiles for in this process.
        """

    def launch(self, inputs: Inputs, config: Config) -> None:
        key = config_key(config)
        prepared = inputs.prepared.get(key)
        if prepared is not None:
            prepared()
            return
        prepared = self.call(inputs, config).launch()
        if prepared is not None:
            inputs.prepared[key] = prepared

    def compile(self, problem: Asked, config: Config) -> Sequence[Any]:
        return [self.warmup(problem, config)]

    def warmup(self, problem: Asked, config: Config) -> Any:
        """Compile the one kernel of ``compile``, and return it."""
        return self.call(self.stand_ins(problem), config).warmup()

    def compile_key(self, problem: Asked, config: Config, gpu: GpuInfo) -> Hashable:
        return gpu.capability, self.call(self.stand_ins(problem), config, gpu).specialisation()


OperationOf = Callable[[str], Operation[Any, Any]]
"""Returns the operation of a kernel, given its name."""
