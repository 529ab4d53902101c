"""A Triton kernel with all that is needed to tune it, as its author says it. Imports neither torch nor triton."""

import inspect
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import product
from math import isfinite
from numbers import Integral
from typing import Any

from bo_tune.core.problem import Size, SizedProblem
from bo_tune.core.space import Config
from bo_tune.errors import InputError, one_line
from bo_tune.kernels.spec import LAUNCH_OPTIONS
from bo_tune.kernels.user.tolerance import Tolerance, Tolerances, tolerances_of
from bo_tune.kernels.user.values import Value, Values, values_of

Sizes = Mapping[str, Size]
"""A problem: its sizes by name."""

Params = Mapping[str, Value]
"""A config, with the values that its author gave the parameters."""

JIT_TYPES = ("JITFunction", "InterpretedFunction")


@dataclass(frozen=True, eq=False, kw_only=True)
class Kernel:
    """A Triton kernel to tune. It must be a global of the module or script that defines it: the processes that compile
    and measure import it from there.

    Args:
        function: the kernel, under ``@triton.jit``.
        space: the values to choose among, of parameters of the kernel and of launch options (``num_warps``,
            ``num_stages``, ``num_ctas``, ``maxnreg``). Their product is the search space.
        inputs: ``(sizes, device) -> arguments``: the kernel's other arguments by name. Called with the GPU, and with
            torch's ``meta`` device, whose tensors hold nothing, to compile ahead.
        grid: ``(sizes, config) -> programs``: a number, or a tuple of up to three.
        output: name of the argument that the kernel writes, or several names.
        reference: ``arguments -> tensor``: what the output must be; of several outputs a tensor each, by name or in
            their order; or None where it has written them into its arguments. These are copies, with the outputs as
            the kernel finds them. What it leaves as it was there, the kernel may leave, or fill with anything.
        default: the config to beat: one for all problems, or ``sizes -> config``. By default the middle of the space.
        valid: ``(sizes, config) -> bool``: whether a config may be tried at all.
        features: what else may tell fast configs from slow ones before they are compiled: numbers by name, each
            ``(sizes, config) -> float``.
        tolerance: how far a right result may be from the reference (``Tolerance``, or a number: its ``relative``), for
            all outputs or by their names. By default what the output's type allows.
        in_place: whether the kernel reads its output (adds to it, say), or which of several. It is then what
            ``inputs`` made of it before every launch, and else filled with NaN before a check, so that an element
            that is not written shows.
        name: of the kernel in databases and reports. By default the function's; where several kernels of a module
            would share that, each is called as the global that it is.

    Attributes:
        defined_in: the module whose own code made it.

    Raises:
        InputError: these do not fit together.
    """

    function: Any = field(kw_only=False)
    space: Mapping[str, Sequence[Value]]
    inputs: Callable[[Sizes, Any], Mapping[str, Any]]
    grid: Callable[[Sizes, Params], int | tuple[int, ...]]
    output: str | Sequence[str]
    reference: Callable[[Mapping[str, Any]], Any]
    default: Params | Callable[[Sizes], Params] | None = None
    valid: Callable[[Sizes, Params], bool] | None = None
    features: Mapping[str, Callable[[Sizes, Params], float]] = field(default_factory=dict)
    tolerance: Tolerances = None
    in_place: bool | str | Sequence[str] = False
    name: str = ""
    defined_in: str = field(init=False, repr=False)

    def __post_init__(self) -> None:
        kind = type(self.function).__name__
        if kind not in JIT_TYPES:
            more = "; the decorators around it, @triton.autotune or @triton.heuristics, cannot be tuned"
            raise InputError(f"expected a function under @triton.jit, got {kind}{more * hasattr(self.function, 'fn')}")
        object.__setattr__(self, "name", self.name or self.function.fn.__name__)
        if "|" in self.name or not self.name.strip():
            raise InputError(f"a kernel's name goes before a | in the names of studies: {self.name!r}")
        known = (*self.parameters, *LAUNCH_OPTIONS)
        for name in self.values:
            if name not in known:
                raise InputError(f"{self.name}: space: no parameter {name!r}; expected some of {', '.join(known)}")
        self._check_outputs()
        if isinstance(self.default, Mapping):
            self.encode(self.default, "default")
        object.__setattr__(self, "defined_in", _module_being_run())

    def _check_outputs(self) -> None:
        for name in self.outputs:
            if name not in self.parameters or name in self.values:
                raise InputError(f"{self.name}: output: expected one of the kernel's arguments, got {name!r}")
        if not self.outputs or len(set(self.outputs)) < len(self.outputs):
            raise InputError(f"{self.name}: output: expected names of arguments, each once, got {self.output!r}")
        for name in self.read_outputs:
            if name not in self.outputs:
                raise InputError(f"{self.name}: in_place: {name!r} is no output; there are {', '.join(self.outputs)}")
        try:
            _ = self.tolerances
        except InputError as error:
            raise InputError(f"{self.name}: {error}") from error

    @cached_property
    def parameters(self) -> Mapping[str, Any]:
        """The kernel's parameters in order, with their defaults (``inspect.Parameter.empty`` where there is none)."""
        signature = inspect.signature(self.function.fn)
        return {name: parameter.default for name, parameter in signature.parameters.items()}

    @cached_property
    def outputs(self) -> tuple[str, ...]:
        """The arguments that the kernel writes."""
        return (self.output,) if isinstance(self.output, str) else tuple(self.output)

    @cached_property
    def read_outputs(self) -> tuple[str, ...]:
        """Those of them that it reads as well."""
        if isinstance(self.in_place, bool):
            return self.outputs if self.in_place else ()
        return (self.in_place,) if isinstance(self.in_place, str) else tuple(self.in_place)

    @property
    def written_only(self) -> tuple[str, ...]:
        """Those of them that it does not read."""
        return tuple(name for name in self.outputs if name not in self.read_outputs)

    @cached_property
    def tolerances(self) -> Mapping[str, Tolerance]:
        """How far each output may be from its reference."""
        return tolerances_of(self.tolerance, self.outputs)

    @cached_property
    def values(self) -> Mapping[str, Values]:
        """The parameters of the search space, with what stands for their values."""
        return values_of(self.space)

    def encode(self, params: Params, place: str) -> dict[str, int]:
        """Return a config as it is searched and stored. Raises InputError for one of another kernel."""
        unknown = [name for name in params if name not in self.values]
        if unknown:
            raise InputError(f"{self.name}: {place}: {unknown[0]} is not in the space of {', '.join(self.values)}")
        missing = [name for name in self.values if name not in params]
        if missing:
            raise InputError(f"{self.name}: {place}: no value for {missing[0]}")
        return {name: values.number(params[name]) for name, values in self.values.items()}

    def decode(self, config: Config) -> dict[str, Value]:
        """Return a config with the values that its author gave the parameters."""
        return {name: values.value(config[name]) for name, values in self.values.items()}

    def allows(self, problem: SizedProblem, params: Params) -> bool:
        """Say whether the author allows a config. Raises InputError where that cannot be said."""
        return self.valid is None or bool(self._ask("valid", self.valid, dict(problem.sizes), dict(params)))

    def programs(self, problem: SizedProblem, params: Params) -> tuple[int, int, int]:
        """Return the grid of programs along three axes. Raises InputError for what is no grid."""
        said = self._ask("grid", self.grid, dict(problem.sizes), dict(params))
        axes = said if isinstance(said, tuple) else (said,)
        if not 1 <= len(axes) <= 3 or not all(isinstance(n, Integral) and int(n) > 0 for n in axes):
            raise InputError(f"{self.name}: grid: expected up to three positive numbers, got {said!r} for {problem}")
        first, second, third = map(int, (*axes, 1, 1)[:3])
        return first, second, third

    def feature(self, name: str, problem: SizedProblem, params: Params) -> float:
        """Return one of the author's features of a config. Raises InputError for what is no number."""
        what = f"features[{name!r}]"
        said = self._ask(what, self.features[name], dict(problem.sizes), dict(params))
        if not isinstance(said, (int, float)) or not isfinite(said):
            raise InputError(f"{self.name}: {what}: expected a finite number, got {said!r} for {problem}")
        return float(said)

    def default_params(self, problem: SizedProblem) -> Params:
        """Return the config to beat. Raises InputError where the space has none for the problem."""
        if callable(self.default):
            said: Params = self._ask("default", self.default, dict(problem.sizes))
            return said
        return self.default if self.default is not None else self._middle(problem)

    def _middle(self, problem: SizedProblem) -> Params:
        """The allowed config nearest to the middle of the space, counted in places."""
        each = [values.values for values in self.values.values()]
        by_distance = sorted(
            product(*(range(len(values)) for values in each)),
            key=lambda places: sum(abs(2 * p + 1 - len(v)) / len(v) for p, v in zip(places, each, strict=True)),
        )
        for places in by_distance:
            params = {name: values[place] for name, values, place in zip(self.values, each, places, strict=True)}
            if self.allows(problem, params):
                return params
        raise InputError(f"{self.name}: valid: allows no config of the space for {problem}")

    def _ask(self, what: str, function: Callable[..., Any], *given: Any) -> Any:
        """Call a function of the author's; what it raises is told with its name."""
        try:
            return function(*given)
        except Exception as error:  # whatever the author's code raises
            shown = ", ".join(map(str, given))
            raise InputError(f"{self.name}: {what}({shown}): {type(error).__name__}: {one_line(error)}") from error


def _module_being_run() -> str:
    """Name the module whose own code, outside of any function, is being run just now."""
    frame = sys._getframe(1)
    while frame.f_code.co_name != "<module>" and frame.f_back is not None:
        frame = frame.f_back
    return str(frame.f_globals.get("__name__", ""))
