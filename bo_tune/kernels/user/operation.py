"""A user's kernel as the measuring processes run it."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

import torch

from bo_tune.core.conditions import Conditions
from bo_tune.core.problem import GpuInfo, SizedProblem
from bo_tune.core.space import Config, ConfigKey
from bo_tune.errors import InputError, one_line
from bo_tune.kernels.call import KernelCall, PreparedLaunch
from bo_tune.kernels.operation import DEFAULT_CONDITIONS, META, Operation, Verdict
from bo_tune.kernels.user.call import call_of, check_arguments
from bo_tune.kernels.user.digest import source_of
from bo_tune.kernels.user.home import kernel_in
from bo_tune.kernels.user.kernel import Kernel
from bo_tune.kernels.user.memory import Memory, bytes_of
from bo_tune.kernels.user.reference import RightOutputs, poison, right_outputs


@dataclass(slots=True)
class UserInputs:
    """The arguments of one problem.

    Attributes:
        arguments: by name.
        memory: theirs, to bring back what launches change; none of it where nothing is launched.
        prepared: launches with nothing left to decide, by config.
    """

    problem: SizedProblem
    arguments: Mapping[str, Any]
    memory: Memory
    prepared: dict[ConfigKey, PreparedLaunch] = field(default_factory=dict, repr=False)


class UserOperation(Operation[SizedProblem, UserInputs]):
    """One kernel of a user.

    Args:
        home: the file that defines it.
    """

    def __init__(self, kernel: Kernel, home: Path) -> None:
        self.kernel, self._home = kernel, home

    @property
    def source(self) -> str:
        return source_of(self.kernel, self._home)

    def make_inputs(
        self, problem: SizedProblem, *, seed: int, device: torch.device, conditions: Conditions = DEFAULT_CONDITIONS
    ) -> UserInputs:
        torch.manual_seed(seed)
        arguments = dict(self.kernel.inputs(dict(problem.sizes), device))
        check_arguments(self.kernel, arguments)
        for name, value in arguments.items():
            if isinstance(value, torch.Tensor) and value.device.type != device.type:
                raise InputError(f"{self.kernel.name}: inputs: {name!r} is on {value.device}, not on {device} as asked")
        memory = Memory([]) if device == META else Memory.of(arguments, self.kernel.written_only)
        return UserInputs(problem, arguments, memory)

    def made_of_nothing(self, problem: SizedProblem) -> UserInputs:
        try:
            return self.make_inputs(problem, seed=0, device=META)
        except InputError:
            raise
        except Exception as error:  # whatever the author's code raises
            why = f"{type(error).__name__}: {one_line(error)}"
            raise InputError(
                f"{self.kernel.name}: inputs: cannot be made on the device 'meta', which compiling ahead needs: {why}"
            ) from error

    def inputs_bytes(self, inputs: UserInputs) -> int:
        return bytes_of(inputs.arguments) + inputs.memory.nbytes

    def reset(self, inputs: UserInputs) -> None:
        """Bring back everything that the launches so far have changed, found out now."""
        inputs.memory.note_changes()
        inputs.memory.restore()

    def restore(self, inputs: UserInputs) -> None:
        inputs.memory.restore()

    def poison(self, inputs: UserInputs) -> None:
        """See the base class. Integers have no NaN: their largest value stands for it."""
        inputs.memory.restore()
        poison(self.kernel, inputs.arguments)

    def call(self, inputs: UserInputs, config: Config, gpu: GpuInfo | None = None) -> KernelCall:
        return call_of(self.kernel, inputs.problem, inputs.arguments, config)

    def right(self, inputs: UserInputs) -> RightOutputs:
        return right_outputs(self.kernel, inputs.arguments)

    def judge(self, inputs: UserInputs, right: RightOutputs) -> Verdict:
        return right.judge(inputs.arguments)

    def effective_config(self, problem: SizedProblem, config: Config, gpu: GpuInfo) -> dict[str, int]:
        return dict(config)


def operations_in(module: ModuleType) -> Callable[[str], Operation[Any, Any]]:
    """Return what finds the operation of a kernel that is a global of a module, by the kernel's name."""

    @cache
    def operation(name: str) -> Operation[Any, Any]:
        return UserOperation(kernel_in(module, name), Path(str(module.__file__)))

    return operation
