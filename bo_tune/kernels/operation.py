"""How a kernel is run: inputs, launch, compile, reference. The side of a kernel that needs torch and triton.

The measuring processes know kernels through this interface alone, so a kernel of this project, one of an
installed vLLM and one of a user are measured by the same code.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from typing import Any, Generic, Protocol, TypeVar

import torch

from bo_tune.core.conditions import Conditions
from bo_tune.core.problem import Asked, GpuInfo, LoraProblem
from bo_tune.core.space import Config

Inputs = TypeVar("Inputs")

DEFAULT_CONDITIONS = Conditions()


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
    """One kernel as it is launched. Stateless: everything of one problem lives in its inputs."""

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
        """Launch once on the current stream, with nothing but the kernel on the GPU's timeline."""

    def engine_launch(self, inputs: Inputs) -> Callable[[], None] | None:
        """Return how its engine launches it, with all its Python and a config of the engine's choice; None where no
        engine does."""
        return None

    @abstractmethod
    def warmup(self, problem: Asked, config: Config) -> Any:
        """Compile for the active Triton target without launching and without tensors.

        The binary is the one ``launch`` finds in Triton's cache for inputs of the problem.

        Returns:
            Triton's compiled kernel.
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
        """Equal for launches that share one binary: kernel, specialisation and effective config."""


class OfAProblem(Protocol):
    """Inputs that know what they are for."""

    @property
    def problem(self) -> LoraProblem:
        """Their problem."""


ProblemInputs = TypeVar("ProblemInputs", bound=OfAProblem)


class OneOutput(Operation[LoraProblem, ProblemInputs]):
    """A kernel with one output, whose results are compared with a reference by their norm."""

    @abstractmethod
    def output(self, inputs: ProblemInputs) -> torch.Tensor:
        """The output tensor, as launched last."""

    @abstractmethod
    def reference(self, inputs: ProblemInputs) -> torch.Tensor:
        """The right output, computed naively in float32."""

    @abstractmethod
    def tolerance(self, problem: LoraProblem) -> float:
        """Largest relative error (Frobenius norm) of a right result."""

    def right(self, inputs: ProblemInputs) -> torch.Tensor:
        return self.reference(inputs).to(self.output(inputs).dtype)

    def judge(self, inputs: ProblemInputs, right: torch.Tensor) -> Verdict:
        error = relative_error(self.output(inputs), right)
        is_right = error <= self.tolerance(inputs.problem)
        return Verdict(error, "" if is_right else f"relative error {error:.3g}")


def relative_error(output: torch.Tensor, reference: torch.Tensor) -> float:
    """Frobenius norm of the difference over the reference's; NaN where the output holds one."""
    reference = reference.float()
    return float(torch.linalg.vector_norm(output.float() - reference) / torch.linalg.vector_norm(reference))
