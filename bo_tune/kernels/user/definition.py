"""The parts of a definition that kernels and operations share: the search space, and the sizes of problems.

Imports neither torch nor triton.
"""

import sys
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import product
from math import isfinite
from typing import Any, ClassVar

from bo_tune.core.problem import Size, SizedProblem
from bo_tune.core.space import Config
from bo_tune.errors import InputError, one_line
from bo_tune.kernels.user.check.tolerance import Tolerance, Tolerances, tolerances_of
from bo_tune.kernels.user.values import Value, Values, values_of

Sizes = Mapping[str, Size]
"""A problem: its sizes by name."""

Params = Mapping[str, Value]
"""A config, with the author's own values of the parameters."""

Space = Mapping[str, Sequence[Value]] | Sequence[Any]
"""Values by parameter, all combinations of which are configs; or the configs themselves (``Params``, or Triton's)."""


def names_in(said: str | Iterable[str] | None) -> tuple[str, ...]:
    """Return a tuple of names, given one name, several, or None."""
    return () if said is None else (said,) if isinstance(said, str) else tuple(said)


@dataclass(frozen=True, eq=False, kw_only=True)
class Definition(ABC):
    """The base of kernels (``Kernel``) and operations (``Operation``).

    Attributes:
        defined_in: the module whose own code made it.
    """

    name: str = ""
    space: Space | None = None
    sizes: Sequence[str] = ()
    valid: Callable[[Sizes, Params], bool] | None = None
    default: Params | Callable[[Sizes], Params] | None = None
    features: Mapping[str, Callable[[Sizes, Params], float]] = field(default_factory=dict)
    zero: str | Sequence[str] | Callable[[Sizes, Params], str | Sequence[str]] = ()
    reference: Callable[[Mapping[str, Any]], Any] | None = None
    tolerance: Tolerances = None
    defined_in: str = field(init=False, repr=False)

    makes: ClassVar[str] = "make"
    """The name of the author's function that makes arguments."""

    is_its_function: ClassVar[bool] = False
    """Whether it is the global that is launched. Then its name belongs to it, even if other kernels share the
    function."""

    def _check(self) -> None:
        """Raise InputError if the parts of the definition do not fit together."""
        if "|" in self.name or not self.name.strip():
            raise InputError(f"a kernel's name cannot contain |, because it is part of study names, got {self.name!r}")
        if not self.output_names or len(set(self.output_names)) < len(self.output_names):
            raise InputError(f"{self.name}: output: expected names of arguments, each once, got {self.output_names!r}")
        try:
            _ = self.tolerances, self.values
        except InputError as error:
            raise InputError(f"{self.name}: {error}") from error
        if isinstance(self.default, Mapping):
            self.encode(self.default, "default")
        object.__setattr__(self, "defined_in", _module_being_run())

    @property
    @abstractmethod
    def output_names(self) -> tuple[str, ...]:
        """Names of the outputs."""

    @property
    @abstractmethod
    def read_outputs(self) -> tuple[str, ...]:
        """Outputs that are read as well."""

    @property
    def restored(self) -> tuple[str, ...]:
        """Arguments that launches are known to change."""
        return self.read_outputs

    @property
    def written_only(self) -> tuple[str, ...]:
        """Outputs that are not read, or cleared before they are."""
        return tuple(name for name in self.output_names if name not in self.read_outputs)

    @property
    @abstractmethod
    def own_functions(self) -> tuple[Any, ...]:
        """The functions that make its arguments and launch it. Unlike others, they come from the author's module."""

    @property
    def functions(self) -> tuple[Any, ...]:
        """The functions that affect the results. If one of them changes, new studies begin."""
        return (*self.own_functions, self.reference, self.zero if callable(self.zero) else None)

    @property
    def more_that_counts(self) -> tuple[str, ...]:
        """Other facts that affect the results, as text. Defaults are left out, so older studies keep their names."""
        zero = () if callable(self.zero) else names_in(self.zero)
        strict = tuple(name for name, tolerance in self.tolerances.items() if not tolerance.equal_nan)
        return tuple(f"{what} {said}" for what, said in (("zero", zero), ("no nan", strict)) if said)

    @property
    def given_name(self) -> str:
        """Its name if the author gave it none. Others may have the same name."""
        return ""

    @property
    def is_gridded(self) -> bool:
        """Whether the grid of programs is known before a launch."""
        return False

    @abstractmethod
    def arguments(self, sizes: dict[str, Size], device: Any) -> Mapping[str, Any]:
        """Return the arguments of a problem by name. Raises whatever the author's function raises."""

    @cached_property
    def tolerances(self) -> Mapping[str, Tolerance]:
        """The tolerance of each output."""
        return tolerances_of(self.tolerance, self.output_names)

    @property
    def said_space(self) -> Space | None:
        """The search space as the author gave it."""
        return self.space

    @cached_property
    def listed(self) -> tuple[Params, ...]:
        """The configs of a space that is a list; empty for a space that is a product."""
        said = self.said_space
        return () if said is None or isinstance(said, Mapping) else listed_params(said)

    @cached_property
    def values(self) -> Mapping[str, Values]:
        """The parameters of the search space, with the numbers that stand for their values."""
        if self.listed:
            return values_of({name: tuple(dict.fromkeys(p[name] for p in self.listed)) for name in self.listed[0]})
        return values_of(self.said_space if isinstance(self.said_space, Mapping) else {})

    @cached_property
    def _is_listed(self) -> frozenset[tuple[Value, ...]]:
        return frozenset(map(self._place, self.listed))

    def _place(self, params: Params) -> tuple[Value, ...]:
        return tuple(params[name] for name in self.values)

    def encode(self, params: Params, place: str) -> dict[str, int]:
        """Return a config as it is searched and stored. Raises InputError for a config of another kernel."""
        unknown = [name for name in params if name not in self.values]
        if unknown:
            raise InputError(
                f"{self.name}: {place}: {unknown[0]} is not in the space, which has {', '.join(self.values)}"
            )
        missing = [name for name in self.values if name not in params]
        if missing:
            raise InputError(f"{self.name}: {place}: there is no value for {missing[0]}")
        return {name: values.number(params[name]) for name, values in self.values.items()}

    def decode(self, config: Config) -> dict[str, Value]:
        """Return a config with the author's own values of the parameters."""
        return {name: values.value(config[name]) for name, values in self.values.items()}

    def check_sizes(self, names: Iterable[str]) -> None:
        """Raise InputError if the names of a problem's sizes differ from the definition."""
        given = set(names)
        if self.sizes and given != set(self.sizes):
            expected, got = ", ".join(self.sizes), ", ".join(sorted(given)) or "none"
            raise InputError(f"{self.name}: expected problems with the sizes {expected}, got {got}")

    def allows(self, problem: SizedProblem, params: Params) -> bool:
        """Say whether the author allows a config. Raises InputError if the author's function fails."""
        if self.listed and self._place(params) not in self._is_listed and dict(params) != self._said_default(problem):
            return False
        return self.valid is None or bool(self.ask("valid", self.valid, dict(problem.sizes), dict(params)))

    def programs(self, problem: SizedProblem, params: Params) -> tuple[int, int, int]:
        """Return the grid of programs along three axes, if it ``is_gridded``. Raises InputError."""
        raise NotImplementedError

    def feature(self, name: str, problem: SizedProblem, params: Params) -> float:
        """Return one of the author's features of a config. Raises InputError if it is not a finite number."""
        what = f"features[{name!r}]"
        said = self.ask(what, self.features[name], dict(problem.sizes), dict(params))
        if not isinstance(said, (int, float)) or not isfinite(said):
            raise InputError(f"{self.name}: {what}: expected a finite number, got {said!r} for {problem}")
        return float(said)

    def zeroed(self, problem: SizedProblem, params: Params) -> tuple[str, ...]:
        """Return the names of the arguments that must be cleared before each launch of a config. Raises InputError."""
        if callable(self.zero):
            return names_in(self.ask("zero", self.zero, dict(problem.sizes), dict(params)))
        return names_in(self.zero)

    def default_params(self, problem: SizedProblem) -> Params:
        """Return the config to beat. Raises InputError if no config is valid for the problem."""
        said = self._said_default(problem)
        if said is not None:
            return said
        for params in self.listed or self._by_distance_from_the_middle():
            if self.allows(problem, params):
                return params
        raise InputError(f"{self.name}: valid: no config of the space is valid for {problem}")

    def _said_default(self, problem: SizedProblem) -> Params | None:
        if callable(self.default):
            said: Params = self.ask("default", self.default, dict(problem.sizes))
            return said
        return self.default

    def _by_distance_from_the_middle(self) -> Iterator[Params]:
        """Yield all configs, beginning with those nearest to the middle of the space, counted in places."""
        each = [values.values for values in self.values.values()]
        by_distance = sorted(
            product(*(range(len(values)) for values in each)),
            key=lambda places: sum(abs(2 * p + 1 - len(v)) / len(v) for p, v in zip(places, each, strict=True)),
        )
        for places in by_distance:
            yield {name: values[place] for name, values, place in zip(self.values, each, places, strict=True)}

    def ask(self, what: str, function: Callable[..., Any], *given: Any) -> Any:
        """Call a function of the author's. Raises InputError, with the function's name, if it fails."""
        try:
            return function(*given)
        except Exception as error:  # whatever the author's code raises
            shown = ", ".join(map(str, given))
            raise InputError(f"{self.name}: {what}({shown}): {type(error).__name__}: {one_line(error)}") from error


def listed_params(configs: Iterable[Any]) -> tuple[Params, ...]:
    """Return the configs of a list, each with a value for every parameter, and without duplicates.

    Options that none of Triton's configs sets are left out. All of these configs have them.

    Raises:
        InputError: one lacks a parameter that others have.
    """
    every = list(configs)
    said = [dict(one) if isinstance(one, Mapping) else _params_of(one) for one in every]
    spoken_of = {name for one in every if isinstance(one, Mapping) for name in one}
    names = dict.fromkeys(name for params in said for name in params)
    for params in said:
        if lacking := [name for name in names if name not in params and name not in _OPTIONAL]:
            raise InputError(f"space: this config has no value for {lacking[0]}, which other configs have: {params}")
    full = [{name: params.get(name, _OPTIONAL.get(name)) for name in names} for params in said]
    unset = {name for name, usual in _OPTIONAL.items() if all(params.get(name) == usual for params in full)}
    found: list[Params] = []
    for params in full:
        kept = {name: value for name, value in params.items() if name not in unset - spoken_of}
        if kept not in found:
            found.append(kept)
    return tuple(found)


_OPTIONAL: Mapping[str, Value] = {"num_ctas": 1, "maxnreg": None}
"""Launch options that all of Triton's configs have, with their defaults."""


def _params_of(config: Any) -> dict[str, Value]:
    """Return the parameters and launch options of a ``triton.Config``. Raises InputError for anything else."""
    if not hasattr(config, "all_kwargs"):
        raise InputError(f"space: expected values by parameter, or a list of configs, got a list with {config!r}")
    params: dict[str, Value] = config.all_kwargs()
    if params.pop("ir_override", None) is not None:
        raise InputError("space: a config with ir_override cannot be tuned; leave it out of the list")
    return params


def _module_being_run() -> str:
    """Return the name of the module whose own code, outside of any function, is running just now."""
    frame = sys._getframe(1)
    while frame.f_code.co_name != "<module>" and frame.f_back is not None:
        frame = frame.f_back
    return str(frame.f_globals.get("__name__", ""))
