"""A user's kernel or operation as the measuring processes run it."""

from abc import abstractmethod
from collections import OrderedDict
from collections.abc import Callable, Hashable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from functools import cache, partial
from pathlib import Path
from types import ModuleType
from typing import Any, TypeVar

import torch
from triton.runtime.errors import OutOfResources

from bo_tune.core.conditions import Conditions
from bo_tune.core.problem import GpuInfo, SizedProblem
from bo_tune.core.space import Config, ConfigKey, config_key
from bo_tune.errors import InputError, one_line
from bo_tune.kernels.call import KernelCall, PreparedLaunch
from bo_tune.kernels.operation import DEFAULT_CONDITIONS, META, KernelOperation, Operation, Verdict
from bo_tune.kernels.target import target_gpu
from bo_tune.kernels.user import callable as user_callable
from bo_tune.kernels.user.call import call_of, check_kernel_arguments
from bo_tune.kernels.user.check.filling import FillingAllocations
from bo_tune.kernels.user.check.memory import Memory, bytes_of, tensor_of, tensors_in
from bo_tune.kernels.user.check.reference import Returned, RightOutputs, poison, right_outputs
from bo_tune.kernels.user.decorated import unsupported_options
from bo_tune.kernels.user.definition import Definition, Params
from bo_tune.kernels.user.identity.digest import source_of
from bo_tune.kernels.user.identity.home import kernel_in
from bo_tune.kernels.user.kernel import Kernel
from bo_tune.kernels.user.launches import Told, told_launches

Defined = TypeVar("Defined", bound=Definition)

MOST_TOLD = 4096
"""Number of configs whose launches are remembered, from the search for equals until compilation."""


@dataclass(slots=True)
class UserInputs:
    """The arguments of one problem.

    Attributes:
        arguments: arguments by name.
        memory: copies of their memory, to restore what launches change; empty if nothing is launched.
        prepared: launches with nothing left to decide, by config.
        runs: functions that launch an operation, by config.
        returned: outputs that the last launch returned.
        is_poisoned: whether to fill memory that the next launch allocates, too.
    """

    problem: SizedProblem
    arguments: Mapping[str, Any]
    memory: Memory
    prepared: dict[ConfigKey, PreparedLaunch] = field(default_factory=dict, repr=False)
    runs: dict[ConfigKey, Callable[[], Returned]] = field(default_factory=dict, repr=False)
    returned: Returned = field(default_factory=dict, repr=False)
    is_poisoned: bool = False


class UserOperation(Operation[SizedProblem, UserInputs]):
    """A kernel or operation that a user defined.

    Args:
        home: the file that defines it.
    """

    def __init__(self, kernel: Definition, home: Path) -> None:
        self.definition, self._home = kernel, home

    @property
    def source(self) -> str:
        return source_of(self.definition, self._home)

    def make_inputs(
        self, problem: SizedProblem, *, seed: int, device: torch.device, conditions: Conditions = DEFAULT_CONDITIONS
    ) -> UserInputs:
        torch.manual_seed(seed)
        made = self.definition.arguments(dict(problem.sizes), device)
        what = f"{self.definition.name}: {self.definition.makes}"
        if not isinstance(made, Mapping):
            raise InputError(f"{what}: expected arguments by name, got {type(made).__name__}")
        arguments = dict(made)
        self._check_arguments(arguments)
        for name, value in arguments.items():
            for tensor in tensors_in([value]):
                if tensor.device.type != device.type:
                    raise InputError(f"{what}: {name!r} is on {tensor.device}, but {device} was requested")
        memory = (
            Memory([])
            if device == META
            else Memory.of(arguments, self.definition.written_only, self.definition.restored)
        )
        return UserInputs(problem, arguments, memory)

    @abstractmethod
    def _check_arguments(self, arguments: Mapping[str, Any]) -> None:
        """Raise InputError if arguments do not fit the definition."""

    def meta_inputs(self, problem: SizedProblem) -> UserInputs:
        try:
            return self.make_inputs(problem, seed=0, device=META)
        except InputError:
            raise
        except Exception as error:  # whatever the author's code raises
            why = f"{type(error).__name__}: {one_line(error)}"
            what = f"{self.definition.name}: {self.definition.makes}"
            raise InputError(
                f"{what}: cannot be called with the device 'meta', which compiling ahead needs: {why}"
            ) from error

    def inputs_bytes(self, inputs: UserInputs) -> int:
        return bytes_of({**inputs.arguments, **inputs.returned}) + inputs.memory.nbytes

    def reset(self, inputs: UserInputs) -> None:
        """Find out what the launches so far have changed, and restore it."""
        inputs.memory.note_changes()
        inputs.memory.restore()

    def restore(self, inputs: UserInputs) -> None:
        inputs.memory.restore()

    def poison(self, inputs: UserInputs) -> None:
        """Fill the outputs. Integers have no NaN, so their largest value stands for it."""
        inputs.memory.restore()
        inputs.returned = {}
        poison(self.definition, inputs.arguments)
        inputs.is_poisoned = True

    def right(self, inputs: UserInputs) -> RightOutputs:
        return right_outputs(self.definition, inputs.arguments, partial(self._run_default, inputs.problem))

    @abstractmethod
    def _run_default(self, problem: SizedProblem, arguments: dict[str, Any]) -> Returned:
        """Launch the default config with some arguments, and return the outputs that it returns."""

    def _default(self, problem: SizedProblem) -> Params:
        return self.definition.default_params(problem)

    def judge(self, inputs: UserInputs, right: RightOutputs) -> Verdict:
        return right.judge({**inputs.arguments, **inputs.returned})

    def effective_config(self, problem: SizedProblem, config: Config, gpu: GpuInfo) -> dict[str, int]:
        return dict(config)


class UserKernel(UserOperation, KernelOperation[SizedProblem, UserInputs]):
    """One kernel of a user."""

    def __init__(self, kernel: Kernel, home: Path) -> None:
        super().__init__(kernel, home)
        self.kernel = kernel

    def _check_arguments(self, arguments: Mapping[str, Any]) -> None:
        check_kernel_arguments(self.kernel, arguments)

    def call(self, inputs: UserInputs, config: Config, gpu: GpuInfo | None = None) -> KernelCall:
        return call_of(self.kernel, inputs.problem, inputs.arguments, config)

    def compile_key(self, problem: SizedProblem, config: Config, gpu: GpuInfo) -> Hashable:
        """Return the key. Raises InputError if a launch option belongs to other GPUs."""
        foreign = unsupported_options([name for name in self.kernel.values if name not in self.kernel.parameters])
        if foreign:
            raise InputError(f"{self.kernel.name}: space: Triton accepts no option {foreign[0]!r} for {gpu.target}")
        return super().compile_key(problem, config, gpu)

    def _run_default(self, problem: SizedProblem, arguments: dict[str, Any]) -> Returned:
        config = self.kernel.encode(self._default(problem), "default")
        call_of(self.kernel, problem, arguments, config).launch()
        return {}


class UserCallable(UserOperation):
    """One operation of a user."""

    def __init__(self, operation: "user_callable.Operation", home: Path) -> None:
        super().__init__(operation, home)
        self.operation = operation
        self._told: OrderedDict[tuple[SizedProblem, ConfigKey, GpuInfo], Told] = OrderedDict()

    def _check_arguments(self, arguments: Mapping[str, Any]) -> None:
        self.operation.check_arguments(arguments)

    def launch(self, inputs: UserInputs, config: Config) -> None:
        """Launch once. OutOfResources passes through; any other error of the author's code becomes a RuntimeError."""
        key = config_key(config)
        filled = FillingAllocations() if inputs.is_poisoned else nullcontext()
        inputs.is_poisoned = False
        try:
            if key not in inputs.runs:
                params = self.operation.decode(config)
                inputs.runs[key] = self._running(inputs.problem, inputs.arguments, params, target_gpu())
            with filled:
                inputs.returned = inputs.runs[key]()
        except (OutOfResources, RuntimeError):
            raise
        except Exception as error:  # errors of the author's code or Triton's compiler must not end the process
            raise RuntimeError(f"{type(error).__name__}: {one_line(error)}") from error

    def _running(
        self, problem: SizedProblem, arguments: Mapping[str, Any], params: Params, gpu: GpuInfo
    ) -> Callable[[], Returned]:
        """Return a function that launches a config. What all launches share is decided once. Raises InputError."""
        zeroed = [tensor_of(arguments.get(name)) for name in self.operation.zeroed(problem, params)]
        if any(tensor is None for tensor in zeroed):
            raise InputError(f"{self.operation.name}: zero: expected names of tensors that make returns")

        def run() -> Returned:
            for tensor in zeroed:
                assert tensor is not None
                tensor.zero_()
            return self._returned(self.operation.run(dict(arguments), dict(params), gpu), arguments)

        return run

    def _returned(self, said: Any, arguments: Mapping[str, Any]) -> Returned:
        """Return the outputs that are not among the arguments, by name."""
        wanted = [name for name in self.operation.output_names if name not in arguments]
        if isinstance(said, Mapping):
            found = {name: said[name] for name in wanted if name in said}
        elif isinstance(said, (tuple, list)):
            found = dict(zip(wanted, said, strict=False)) if len(said) == len(wanted) else {}
        else:
            found = dict.fromkeys(wanted[:1], said) if len(wanted) == 1 else {}
        return {name: value for name, value in found.items() if isinstance(value, torch.Tensor)}

    def told(self, problem: SizedProblem, config: Config, gpu: GpuInfo) -> Told:
        """Return the launches of a config, as far as they can be found. Raises InputError."""
        key = problem, config_key(config), gpu
        if key not in self._told:
            arguments, params = self.stand_ins(problem).arguments, self.operation.decode(config)
            run = self._running(problem, arguments, params, gpu)
            self._told[key] = told_launches(run, self.operation.name)
            while len(self._told) > MOST_TOLD:
                self._told.popitem(last=False)
        return self._told[key]

    def programs(self, problem: SizedProblem, config: Config, gpu: GpuInfo) -> tuple[int, ...]:
        """Return the programs of each launch of a config; none where they cannot be found, whatever is wrong."""
        try:
            return self.told(problem, config, gpu).programs
        except InputError:  # whoever compiles the config says it
            return ()

    def compile(self, problem: SizedProblem, config: Config) -> Sequence[Any]:
        return [call.warmup() for call in self.told(problem, config, target_gpu()).calls]

    def compile_key(self, problem: SizedProblem, config: Config, gpu: GpuInfo) -> Hashable:
        told = self.told(problem, config, gpu)
        unknown = (problem.label, config_key(config)) if told.untold else ()
        return gpu.capability, told.specialisation(), unknown

    def note(self, problem: SizedProblem, gpu: GpuInfo) -> str | None:
        config = self.operation.encode(self._default(problem), "default")
        told = self.told(problem, config, gpu)
        if not told.untold:
            return None
        return f"some launches of run cannot be compiled ahead, so they compile while the GPU waits: {told.untold}"

    def _run_default(self, problem: SizedProblem, arguments: dict[str, Any]) -> Returned:
        return self._running(problem, arguments, self._default(problem), target_gpu())()


def operations_in(module: ModuleType) -> Callable[[str], Operation[Any, Any]]:
    """Return a function from a kernel's name to its operation, for kernels that are globals of a module."""

    @cache
    def operation(name: str) -> Operation[Any, Any]:
        return operation_of(kernel_in(module, name), Path(str(module.__file__)))

    return operation


def operation_of(definition: Definition, home: Path) -> UserOperation:
    """Return the operation of a kernel or operation that a user defined."""
    if hasattr(definition, "operation_at"):
        own: UserOperation = definition.operation_at(home)
        return own
    if isinstance(definition, Kernel):
        return UserKernel(definition, home)
    assert isinstance(definition, user_callable.Operation)
    return UserCallable(definition, home)
