"""A user's kernel as the measuring processes run it."""

from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from types import ModuleType
from typing import Any

import torch

from bo_tune.conditions import Conditions
from bo_tune.errors import InputError, one_line
from bo_tune.kernels.lora.operation import PreparedLaunch
from bo_tune.kernels.operation import DEFAULT_CONDITIONS, Operation
from bo_tune.kernels.user.call import Call, check_arguments
from bo_tune.kernels.user.digest import source_of
from bo_tune.kernels.user.kernel import Kernel
from bo_tune.problem import GpuInfo, SizedProblem
from bo_tune.space import Config, ConfigKey, config_key

META = torch.device("meta")


@dataclass(slots=True)
class UserInputs:
    """The arguments of one problem.

    Attributes:
        arguments: by name.
        initial: of a kernel that reads its output, what stood there at first.
        prepared: launches with nothing left to decide, by config.
    """

    problem: SizedProblem
    arguments: Mapping[str, Any]
    initial: torch.Tensor | None
    prepared: dict[ConfigKey, PreparedLaunch] = field(default_factory=dict, repr=False)


class UserOperation(Operation[UserInputs]):
    """One kernel of a user.

    Args:
        home: the file that defines it.
    """

    def __init__(self, kernel: Kernel, home: Path) -> None:
        self.kernel, self._home = kernel, home
        self._stand_ins = lru_cache(maxsize=64)(self._made_of_nothing)

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
        initial = arguments[self.kernel.output].clone() if self.kernel.in_place else None
        return UserInputs(problem, arguments, initial)

    def _made_of_nothing(self, problem: SizedProblem) -> UserInputs:
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
        tensors = [value for value in inputs.arguments.values() if isinstance(value, torch.Tensor)]
        return sum(t.nbytes for t in tensors) + (0 if inputs.initial is None else inputs.initial.nbytes)

    def reset(self, inputs: UserInputs) -> None:
        if inputs.initial is not None:
            self.output(inputs).copy_(inputs.initial)

    def poison(self, inputs: UserInputs) -> None:
        """See the base class. Integers have no NaN: their largest value stands for it."""
        if inputs.initial is not None:
            self.reset(inputs)
            return
        output = self.output(inputs)
        number = output.is_floating_point() or output.is_complex()
        output.fill_(float("nan") if number else True if output.dtype == torch.bool else torch.iinfo(output.dtype).max)

    def launch(self, inputs: UserInputs, config: Config) -> None:
        key = config_key(config)
        prepared = inputs.prepared.get(key)
        if prepared is not None:
            prepared.run(*prepared.arguments)
            return
        prepared = Call.of(self.kernel, inputs.problem, inputs.arguments, config).launch()
        if prepared is not None:
            inputs.prepared[key] = prepared

    def _call(self, problem: SizedProblem, config: Config) -> Call:
        return Call.of(self.kernel, problem, self._stand_ins(problem).arguments, config)

    def warmup(self, problem: SizedProblem, config: Config) -> Any:
        return self._call(problem, config).warmup()

    def output(self, inputs: UserInputs) -> torch.Tensor:
        output: torch.Tensor = inputs.arguments[self.kernel.output]
        return output

    def reference(self, inputs: UserInputs) -> torch.Tensor:
        self.reset(inputs)
        reference = self.kernel.reference(inputs.arguments)
        shape = tuple(self.output(inputs).shape)
        if not isinstance(reference, torch.Tensor) or tuple(reference.shape) != shape:
            got = tuple(reference.shape) if isinstance(reference, torch.Tensor) else type(reference).__name__
            raise InputError(f"{self.kernel.name}: reference: expected a tensor of shape {shape}, got {got}")
        return reference

    def tolerance(self, problem: SizedProblem) -> float:
        return self.kernel.tolerance

    def effective_config(self, problem: SizedProblem, config: Config, gpu: GpuInfo) -> dict[str, int]:
        return dict(config)

    def compile_key(self, problem: SizedProblem, config: Config, gpu: GpuInfo) -> Hashable:
        return gpu.capability, self._call(problem, config).specialisation()


def operations_in(module: ModuleType) -> Callable[[str], Operation[Any]]:
    """Return what finds the operation of a kernel that is a global of a module, by the kernel's name."""
    kernels = {value.name: value for value in vars(module).values() if isinstance(value, Kernel)}
    known = {name: UserOperation(kernel, Path(str(module.__file__))) for name, kernel in kernels.items()}

    def operation(name: str) -> Operation[Any]:
        if name not in known:
            raise InputError(f"{module.__file__}: no kernel {name!r}; there are {', '.join(known) or 'none'}")
        return known[name]

    return operation
