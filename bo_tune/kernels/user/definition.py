"""What is said of a kernel or of an operation to tune it: what there is to choose, and on what problems.

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
"""A config, with the values that its author gave the parameters."""

Space = Mapping[str, Sequence[Value]] | Sequence[Any]
"""Values by parameter, of which all combinations are configs; or the configs themselves (``Params``, or Triton's)."""


def names_in(said: str | Iterable[str] | None) -> tuple[str, ...]:
    """Return names that may be given as one, as several, or not at all."""
    return () if said is None else (said,) if isinstance(said, str) else tuple(said)


@dataclass(frozen=True, eq=False, kw_only=True)
class Definition(ABC):
    """What kernels (``Kernel``) and operations (``Operation``) share.

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
    """Which of the author's functions makes arguments."""

    is_its_function: ClassVar[bool] = False
    """Whether it is the global that is launched, whose name is then its own, whatever others are over the function."""

    def _check(self) -> None:
        """Raise InputError where what was said does not fit together."""
        if "|" in self.name or not self.name.strip():
            raise InputError(f"a kernel's name goes before a | in the names of studies: {self.name!r}")
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
        """What is written."""

    @property
    @abstractmethod
    def read_outputs(self) -> tuple[str, ...]:
        """Those of the outputs that are read as well."""

    @property
    def restored(self) -> tuple[str, ...]:
        """Arguments that launches are known to change."""
        return self.read_outputs

    @property
    def written_only(self) -> tuple[str, ...]:
        """Those of the outputs that are not read, or cleared before they are."""
        return tuple(name for name in self.output_names if name not in self.read_outputs)

    @property
    @abstractmethod
    def own_functions(self) -> tuple[Any, ...]:
        """What makes its arguments and what is launched: of a module of the author's, whichever the others are of."""

    @property
    def functions(self) -> tuple[Any, ...]:
        """The functions that make the results: a change of one makes other studies."""
        return (*self.own_functions, self.reference, self.zero if callable(self.zero) else None)

    @property
    def more_that_counts(self) -> tuple[str, ...]:
        """What else makes the results, as text; only what was said, so that older studies stay what they are."""
        zero = () if callable(self.zero) else names_in(self.zero)
        strict = tuple(name for name, tolerance in self.tolerances.items() if not tolerance.equal_nan)
        return tuple(f"{what} {said}" for what, said in (("zero", zero), ("no nan", strict)) if said)

    @property
    def given_name(self) -> str:
        """The name that it has where its author gave it none, so that others may share it."""
        return ""

    @property
    def is_gridded(self) -> bool:
        """Whether the grid of programs is known before a launch."""
        return False

    @abstractmethod
    def arguments(self, sizes: dict[str, Size], device: Any) -> Mapping[str, Any]:
        """Return the arguments of a problem by name. Raises whatever the author's function does."""

    @cached_property
    def tolerances(self) -> Mapping[str, Tolerance]:
        """How far each output may be from its reference."""
        return tolerances_of(self.tolerance, self.output_names)

    @property
    def said_space(self) -> Space | None:
        """The search space as the author gave it."""
        return self.space

    @cached_property
    def listed(self) -> tuple[Params, ...]:
        """The configs of a space that is a list of them; none of one that is a product."""
        said = self.said_space
        return () if said is None or isinstance(said, Mapping) else listed_params(said)

    @cached_property
    def values(self) -> Mapping[str, Values]:
        """The parameters of the search space, with what stands for their values."""
        if self.listed:
            return values_of({name: tuple(dict.fromkeys(p[name] for p in self.listed)) for name in self.listed[0]})
        return values_of(self.said_space if isinstance(self.said_space, Mapping) else {})

    @cached_property
    def _is_listed(self) -> frozenset[tuple[Value, ...]]:
        return frozenset(map(self._place, self.listed))

    def _place(self, params: Params) -> tuple[Value, ...]:
        return tuple(params[name] for name in self.values)

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

    def check_sizes(self, names: Iterable[str]) -> None:
        """Raise InputError where problems have sizes of other names than was said."""
        given = set(names)
        if self.sizes and given != set(self.sizes):
            expected, got = ", ".join(self.sizes), ", ".join(sorted(given)) or "none"
            raise InputError(f"{self.name}: problems have the sizes {expected}; got {got}")

    def allows(self, problem: SizedProblem, params: Params) -> bool:
        """Say whether the author allows a config. Raises InputError where that cannot be said."""
        if self.listed and self._place(params) not in self._is_listed and dict(params) != self._said_default(problem):
            return False
        return self.valid is None or bool(self.ask("valid", self.valid, dict(problem.sizes), dict(params)))

    def programs(self, problem: SizedProblem, params: Params) -> tuple[int, int, int]:
        """Return the grid of programs along three axes, where it ``is_gridded``. Raises InputError."""
        raise NotImplementedError

    def feature(self, name: str, problem: SizedProblem, params: Params) -> float:
        """Return one of the author's features of a config. Raises InputError for what is no number."""
        what = f"features[{name!r}]"
        said = self.ask(what, self.features[name], dict(problem.sizes), dict(params))
        if not isinstance(said, (int, float)) or not isfinite(said):
            raise InputError(f"{self.name}: {what}: expected a finite number, got {said!r} for {problem}")
        return float(said)

    def zeroed(self, problem: SizedProblem, params: Params) -> tuple[str, ...]:
        """Return the names of the arguments that a config needs cleared before each launch. Raises InputError."""
        if callable(self.zero):
            return names_in(self.ask("zero", self.zero, dict(problem.sizes), dict(params)))
        return names_in(self.zero)

    def default_params(self, problem: SizedProblem) -> Params:
        """Return the config to beat. Raises InputError where the space has none for the problem."""
        said = self._said_default(problem)
        if said is not None:
            return said
        for params in self.listed or self._by_distance_from_the_middle():
            if self.allows(problem, params):
                return params
        raise InputError(f"{self.name}: valid: allows no config of the space for {problem}")

    def _said_default(self, problem: SizedProblem) -> Params | None:
        if callable(self.default):
            said: Params = self.ask("default", self.default, dict(problem.sizes))
            return said
        return self.default

    def _by_distance_from_the_middle(self) -> Iterator[Params]:
        """Give all configs, those nearest to the middle of the space first, counted in places."""
        each = [values.values for values in self.values.values()]
        by_distance = sorted(
            product(*(range(len(values)) for values in each)),
            key=lambda places: sum(abs(2 * p + 1 - len(v)) / len(v) for p, v in zip(places, each, strict=True)),
        )
        for places in by_distance:
            yield {name: values[place] for name, values, place in zip(self.values, each, places, strict=True)}

    def ask(self, what: str, function: Callable[..., Any], *given: Any) -> Any:
        """Call a function of the author's; what it raises is told with its name. Raises InputError."""
        try:
            return function(*given)
        except Exception as error:  # whatever the author's code raises
            shown = ", ".join(map(str, given))
            raise InputError(f"{self.name}: {what}({shown}): {type(error).__name__}: {one_line(error)}") from error


def listed_params(configs: Iterable[Any]) -> tuple[Params, ...]:
    """Return configs that are listed, each with a value for every parameter, without those that are there twice.

    Of Triton's configs, options that none of them sets are left out: they have them all.

    Raises:
        InputError: one lacks a parameter that others have.
    """
    every = list(configs)
    said = [dict(one) if isinstance(one, Mapping) else _params_of(one) for one in every]
    spoken_of = {name for one in every if isinstance(one, Mapping) for name in one}
    names = dict.fromkeys(name for params in said for name in params)
    for params in said:
        if lacking := [name for name in names if name not in params and name not in _OPTIONAL]:
            raise InputError(f"space: a config has no value for {lacking[0]}, which others have: {params}")
    full = [{name: params.get(name, _OPTIONAL.get(name)) for name in names} for params in said]
    unset = {name for name, usual in _OPTIONAL.items() if all(params.get(name) == usual for params in full)}
    found: list[Params] = []
    for params in full:
        kept = {name: value for name, value in params.items() if name not in unset - spoken_of}
        if kept not in found:
            found.append(kept)
    return tuple(found)


_OPTIONAL: Mapping[str, Value] = {"num_ctas": 1, "maxnreg": None}
"""Launch options that Triton's configs all have, with what they are where nothing is said."""


def _params_of(config: Any) -> dict[str, Value]:
    """Return the parameters and launch options of a ``triton.Config``. Raises InputError for what is none."""
    if not hasattr(config, "all_kwargs"):
        raise InputError(f"space: expected values by parameter, or a list of configs, got {config!r} in it")
    params: dict[str, Value] = config.all_kwargs()
    if params.pop("ir_override", None) is not None:
        raise InputError("space: a config with ir_override cannot be tuned: leave it out of the list")
    return params


def _module_being_run() -> str:
    """Name the module whose own code, outside of any function, is being run just now."""
    frame = sys._getframe(1)
    while frame.f_code.co_name != "<module>" and frame.f_back is not None:
        frame = frame.f_back
    return str(frame.f_globals.get("__name__", ""))
