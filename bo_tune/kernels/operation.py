"""How a kernel is run: inputs, launch, compile, reference. The side of a kernel that needs torch and triton.

The measuring processes know kernels through this interface alone, so a kernel of this project, one of an
installed vLLM and one of a user are measured by the same code.
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
    """What results are compared with."""

    @property
    def nbytes(self) -> int:
        """Device memory held."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """Whether a result is right.

    Attributes:
        error: how far it is from the right one (Frobenius norms); of several outputs the largest; None where that is
            no number, or the right one is all zero.
        wrong: a line that says what is wrong; nothing where nothing is.
    """

    error: float | None
    wrong: str = ""


class Operation(ABC, Generic[Asked, Inputs]):
    """One kernel as it is launched, or several that are one thing to tune. What belongs to one problem lives in its
    inputs."""

    @property
    @abstractmethod
    def source(self) -> str:
        """Which code this is, for example ``bo_tune 3f2a9c1e``: results of different sources never mix."""

    def note(self, problem: Asked, gpu: GpuInfo) -> str | None:
        """Say in a line what its engine makes of this kernel's configs, where it may be something else; or None."""
        return None

    def decided_by(self, problem: Asked, gpu: GpuInfo) -> tuple[str, ...]:
        """Name the kernels that its engine launches in place of this one and those it must agree with, and that decide
        on what they agree on (``KernelSpec.decides``); none where it launches this one, or what there is to decide has
        no effect."""
        return ()

    @abstractmethod
    def make_inputs(
        self, problem: Asked, *, seed: int, device: torch.device, conditions: Conditions = DEFAULT_CONDITIONS
    ) -> Inputs:
        """Draw inputs of the problem's size, its tokens spread over adapters and experts as said."""

    @abstractmethod
    def made_of_nothing(self, problem: Asked) -> Inputs:
        """Make inputs on the meta device, whose tensors hold nothing and need no GPU."""

    @cached_property
    def stand_ins(self) -> Callable[[Asked], Inputs]:
        """Gives inputs that are ``made_of_nothing``, those of the latest problems again."""
        return lru_cache(maxsize=64)(self.made_of_nothing)

    @abstractmethod
    def inputs_bytes(self, inputs: Inputs) -> int:
        """Device memory the inputs hold, in bytes."""

    @abstractmethod
    def reset(self, inputs: Inputs) -> None:
        """Bring the output into the state a launch expects. Not part of the timed region."""

    @abstractmethod
    def poison(self, inputs: Inputs) -> None:
        """Like ``reset``, with NaN wherever a correct launch must write, so that a skipped element shows."""

    @abstractmethod
    def launch(self, inputs: Inputs, config: Config) -> None:
        """Launch once on the current stream, with nothing but what belongs to it on the GPU's timeline."""

    def engine_launch(self, inputs: Inputs) -> Callable[[], None] | None:
        """Return how its engine launches it, with all its Python and a config of the engine's choice; None where no
        engine does."""
        return None

    @abstractmethod
    def compile(self, problem: Asked, config: Config) -> Sequence[Any]:
        """Compile for the active Triton target without launching and without a GPU.

        The binaries are those ``launch`` finds in Triton's cache for inputs of the problem. What cannot be told ahead
        of a launch is compiled by it.

        Returns:
            Triton's compiled kernels.
        """

    def restore(self, inputs: Inputs) -> None:
        """Bring back what launches have changed of what they read. Comes before each that is timed, untimed."""

    @abstractmethod
    def right(self, inputs: Inputs) -> Right:
        """What is right for these inputs, which nothing has been launched with so far."""

    @abstractmethod
    def judge(self, inputs: Inputs, right: Any) -> Verdict:
        """Compare what was launched last with what is right."""

    @abstractmethod
    def effective_config(self, problem: Asked, config: Config, gpu: GpuInfo) -> dict[str, int]:
        """The config that runs when this one is asked for. Configs with equal effective configs are one config."""

    @abstractmethod
    def compile_key(self, problem: Asked, config: Config, gpu: GpuInfo) -> Hashable:
        """Equal for launches that share their binaries, and the same in every process."""


class KernelOperation(Operation[Asked, Inputs]):
    """One launch of one kernel."""

    @abstractmethod
    def call(self, inputs: Inputs, config: Config, gpu: GpuInfo | None = None) -> KernelCall:
        """Return what is launched for a config.

        Args:
            gpu: where it is not the one that Triton compiles for in this process.
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
        """Return the one kernel that ``compile`` does."""
        return self.call(self.stand_ins(problem), config).warmup()

    def compile_key(self, problem: Asked, config: Config, gpu: GpuInfo) -> Hashable:
        return gpu.capability, self.call(self.stand_ins(problem), config, gpu).specialisation()


OperationOf = Callable[[str], Operation[Any, Any]]
"""Returns how a kernel of a name is launched."""
