"""The contents of Triton's decorators above a kernel, and the launch options that Triton takes."""

import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, is_dataclass
from functools import cache
from typing import Any

import triton
from triton.backends import backends
from triton.runtime.autotuner import Autotuner, Heuristics

from bo_tune.errors import InputError
from bo_tune.kernels.operation import META
from bo_tune.kernels.spec import LAUNCH_OPTIONS

JIT_TYPES = ("JITFunction", "InterpretedFunction")


@dataclass(frozen=True, slots=True)
class Decorated:
    """A jit function with the contents of the decorators above it.

    Attributes:
        function: the function under ``@triton.jit``.
        heuristics: functions that compute parameters from the arguments, including those of a config, by parameter.
        blind_heuristics: the heuristics above ``@triton.autotune``, which see no config.
        configs: configs of ``@triton.autotune``; None without it.
        key: names of the arguments in its key, whose values tell problems apart.
        zero: arguments that it clears.
        restore: arguments that it restores.
        prune: returns the configs that its pruning leaves for some arguments; None without pruning.
    """

    function: Any
    heuristics: Mapping[str, Callable[[Mapping[str, Any]], Any]]
    blind_heuristics: frozenset[str] = frozenset()
    configs: Sequence[Any] | None = None
    key: tuple[str, ...] = ()
    zero: tuple[str, ...] = ()
    restore: tuple[str, ...] = ()
    prune: Callable[[dict[str, Any]], Sequence[Any]] | None = None

    @property
    def name(self) -> str:
        """Name of the function."""
        return str(self.function.fn.__name__)

    @property
    def launch_options(self) -> frozenset[str]:
        """Launch options that Triton takes besides the kernel's parameters, on any GPU."""
        return launch_options(None)

    @property
    def hooks(self) -> tuple[Callable[..., Any], ...]:
        """Functions that some configs run before a launch."""
        return tuple(dict.fromkeys(config.pre_hook for config in self.configs or () if config.pre_hook is not None))

    def hook_of(self, params: Mapping[str, Any]) -> Callable[[dict[str, Any]], Any] | None:
        """Return the function that a config runs before a launch, if any."""
        for config in self.configs or ():
            said = config.all_kwargs()
            if config.pre_hook is not None and all(said.get(name) == value for name, value in params.items()):
                hook: Callable[[dict[str, Any]], Any] = config.pre_hook
                return hook
        return None

    def heuristic_values(self, arguments: Mapping[str, Any], params: Mapping[str, Any]) -> dict[str, Any]:
        """Return the parameters that are computed from others. Raises whatever the author's functions raise."""
        found: dict[str, Any] = {}
        for name, function in self.heuristics.items():
            found[name] = function({**arguments, **({} if name in self.blind_heuristics else params), **found})
        return found

    @staticmethod
    def meta_inputs(inputs: Callable[..., Mapping[str, Any]], sizes: Mapping[str, Any]) -> Mapping[str, Any]:
        """Return arguments of some sizes on the meta device. Raises whatever the author's function raises."""
        return inputs(sizes, META)


@dataclass(frozen=True, slots=True)
class Pruning:
    """The contents of ``prune_configs_by``.

    Attributes:
        early: ``(configs, arguments by position, **arguments by name) -> configs``.
        model: ``(**arguments and config) -> time``.
        top_k: number, or share, of the configs with the least times to keep.
    """

    early: Callable[..., Sequence[Any]] | None = None
    model: Callable[..., float] | None = None
    top_k: float | int = 1.0

    def left(self, configs: Sequence[Any], positional: Mapping[str, Any], named: Mapping[str, Any]) -> Sequence[Any]:
        """Return the configs that are left for some arguments. Raises ValueError if none is left."""
        left = list(configs) if self.early is None else self.early(configs, positional, **named)
        if not left:
            raise ValueError("no config is left")
        most = self.top_k
        most = max(1, int(len(left) * most)) if isinstance(most, float) else most
        model = self.model
        if model is None or len(left) <= most:
            return left
        return sorted(left, key=lambda config: model(**{**positional, **named, **config.all_kwargs()}))[:most]


def undecorated(function: Any) -> Decorated:
    """Return a jit function with the contents of the decorators above it.

    Raises:
        InputError: it is not a jit function, or one of its decorators asks for what cannot be tuned.
    """
    tuner: Autotuner | None = None
    above: dict[str, Any] = {}
    below: dict[str, Any] = {}
    while isinstance(function, (Autotuner, Heuristics)):
        if isinstance(function, Heuristics):
            (below if tuner is not None else above).update(function.values)
        elif tuner is not None:
            raise InputError("expected one @triton.autotune above a kernel, got two")
        else:
            tuner = function
        function = function.fn
    if type(function).__name__ not in JIT_TYPES:
        raise InputError(f"expected a function under @triton.jit, got {type(function).__name__}{_instead(function)}")
    # Heuristics that stand higher are computed first.
    heuristics = {**above, **below}
    if tuner is None:
        return Decorated(function, heuristics)
    if tuner.user_defined_pre_hook or tuner.user_defined_post_hook:
        who, instead = "triton", "zero= and in_place= here"
        if hasattr(tuner, "pruning"):
            who, instead = "bo_tune", "reset_to_zero= and restore_value="
        raise InputError(
            f"{function.fn.__name__}: @{who}.autotune has a pre_hook or post_hook of its own, which cannot be "
            f"tuned; remove it, and use {instead} instead"
        )
    return Decorated(
        function,
        heuristics,
        blind_heuristics=frozenset(above),
        configs=tuple(tuner.configs),
        key=tuple(tuner.keys),
        zero=tuple(tuner.reset_to_zero),
        restore=tuple(tuner.restore_value),
        prune=_pruning(tuner),
    )


def _instead(function: Any) -> str:
    """Say what to do with a function of another kind."""
    if "Gluon" in type(function).__name__:
        return "; launch it from the run= of a bo_tune.Operation"
    return "; of the decorators above a kernel, only Triton's are supported" if hasattr(function, "fn") else ""


def _pruning(tuner: Autotuner) -> Callable[[dict[str, Any]], Sequence[Any]] | None:
    """Return the pruning of an autotuner as a function of the arguments; None if it has none."""
    # The pruning that bo_tune.autotune shows to others is made for PyTorch's compiler.
    usual = Pruning(tuner.early_config_prune, tuner.perf_model, tuner.configs_top_k)
    pruning: Pruning = getattr(tuner, "pruning", usual)
    if pruning.early is None and pruning.model is None:
        return None
    return lambda arguments: pruning.left(list(tuner.configs), arguments, arguments)


@cache
def launch_options(backend: str | None) -> frozenset[str]:
    """Return the names of the launch options that Triton takes.

    Args:
        backend: the backend, as in Triton's targets; None for all.
    """
    found = set(LAUNCH_OPTIONS)
    for known in backends.values():
        compilers = vars(sys.modules[known.compiler.__module__])
        for options in compilers.values():
            if is_dataclass(options) and backend in (None, getattr(options, "backend_name", backend)):
                found |= set(_option_names(options))
    return frozenset(found)


def _option_names(options: Any) -> Iterator[str]:
    """Yield the names of the fields of a class of launch options; none for another class."""
    names = [field.name for field in fields(options)]
    return iter(names if "num_warps" in names else ())


def unsupported_options(options: Sequence[str]) -> list[str]:
    """Return those launch options that Triton does not take for the GPU that it compiles for."""
    known = launch_options(triton.runtime.driver.active.get_current_target().backend)
    return [name for name in options if name not in known]
