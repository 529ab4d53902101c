"""Search spaces: finite, ordered grids of configs. Pure data."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import product
from math import prod
from operator import itemgetter
from types import MappingProxyType

from bo_tune.errors import InputError

Config = Mapping[str, int]
"""One point of a search space: parameter name to value."""

ConfigKey = tuple[tuple[str, int], ...]
"""A hashable config, sorted by parameter name."""


MOST_CONFIGS = 200_000
"""Of a search space: each takes about a kB while it is searched."""

ConfigRow = tuple[int, ...]
"""The values of a config, in the order of its parameters' names."""


def config_key(config: Config) -> ConfigKey:
    """Return the config as a hashable value that does not depend on the order of its names."""
    return tuple(sorted(config.items()))


def rows_of(configs: Sequence[Config]) -> list[ConfigRow]:
    """Return configs that have the same parameters, as all of a kernel do, by their values alone."""
    names = sorted(configs[0]) if configs else []
    if len(names) < 2:
        return [tuple(config[name] for name in names) for config in configs]
    return list(map(itemgetter(*names), configs))


@dataclass(frozen=True, slots=True)
class Parameter:
    """One dimension: its name and its values, ascending and without repeats."""

    name: str
    values: tuple[int, ...]

    def __post_init__(self) -> None:
        if not self.values:
            raise ValueError(f"{self.name}: no values")
        if list(self.values) != sorted(set(self.values)):
            raise ValueError(f"{self.name}: values must ascend without repeats: {self.values}")


@dataclass(frozen=True)
class SearchSpace:
    """The product of its parameters, enumerated with the last parameter running fastest."""

    parameters: tuple[Parameter, ...]

    @classmethod
    def of(cls, ranges: Mapping[str, tuple[int, ...]]) -> "SearchSpace":
        """Build a space from names and values."""
        return cls(tuple(Parameter(name, tuple(values)) for name, values in ranges.items()))

    @cached_property
    def names(self) -> tuple[str, ...]:
        """Names of the parameters in order."""
        return tuple(p.name for p in self.parameters)

    @cached_property
    def ranges(self) -> Mapping[str, tuple[int, ...]]:
        """Names to values, in order."""
        return MappingProxyType({p.name: p.values for p in self.parameters})

    @cached_property
    def _points(self) -> tuple[tuple[int, ...], ...]:
        """Values of every config, in order. Raises InputError where there are too many."""
        self.check_size()
        return tuple(product(*(p.values for p in self.parameters)))

    @cached_property
    def keys(self) -> tuple[ConfigKey, ...]:
        """Keys of every config, in order: made once for all studies of a space, of which a session has dozens."""
        order = sorted(range(len(self.names)), key=lambda place: self.names[place])
        names = [self.names[place] for place in order]
        return tuple(tuple(zip(names, [point[place] for place in order], strict=True)) for point in self._points)

    def check_size(self) -> None:
        """Raise InputError where there are more configs than a search has memory for."""
        if (size := prod(len(p.values) for p in self.parameters)) > MOST_CONFIGS:
            raise InputError(
                f"a search space of {size:,} configs, all combinations of values; expected at most {MOST_CONFIGS:,}"
            )

    def __len__(self) -> int:
        return len(self._points)

    @cached_property
    def _configs(self) -> tuple[dict[str, int], ...]:
        return tuple(dict(zip(self.names, point, strict=True)) for point in self._points)

    def __iter__(self) -> Iterator[dict[str, int]]:
        return map(dict, self._configs)  # copying one takes a fifth of making it

    def __getitem__(self, index: int) -> dict[str, int]:
        if not 0 <= index < len(self):
            raise IndexError(index)
        return dict(zip(self.names, self._points[index], strict=True))

    def __contains__(self, config: object) -> bool:
        return (
            isinstance(config, Mapping)
            and set(config) == set(self.names)
            and all(config[p.name] in p.values for p in self.parameters)
        )

    def index(self, config: Config) -> int:
        """Return the position of a config. Raises KeyError for one outside the space."""
        if config not in self:
            raise KeyError(dict(config))
        position = 0
        for parameter in self.parameters:
            position = position * len(parameter.values) + parameter.values.index(config[parameter.name])
        return position

    def override(self, ranges: Mapping[str, tuple[int, ...]]) -> "SearchSpace":
        """Return the space with some ranges replaced. Raises KeyError for an unknown parameter."""
        if not ranges:
            return self
        unknown = set(ranges) - set(self.names)
        if unknown:
            raise KeyError(sorted(unknown)[0])
        return SearchSpace.of({**self.ranges, **ranges})
