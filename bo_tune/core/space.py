"""Search spaces: finite, ordered grids of configs. Pure data."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import product
from math import prod
from operator import itemgetter

from bo_tune.errors import InputError

Config = Mapping[str, int]
"""One point of a search space: parameter names to values."""

ConfigKey = tuple[tuple[str, int], ...]
"""A hashable config, sorted by parameter name."""


MOST_CONFIGS = 200_000
"""Most configs of a search space. Each takes about 1 kB during a search."""

ConfigRow = tuple[int, ...]
"""The values of a config, in the order of its parameters' names."""


def config_key(config: Config) -> ConfigKey:
    """Return the config as a hashable value that does not depend on the order of its names."""
    return tuple(sorted(config.items()))


def rows_of(configs: Sequence[Config]) -> list[ConfigRow]:
    """Return the values of configs that have the same parameters, as all configs of a kernel do."""
    names = sorted(configs[0]) if configs else []
    if len(names) < 2:
        return [tuple(config[name] for name in names) for config in configs]
    return list(map(itemgetter(*names), configs))


@dataclass(frozen=True)
class SearchSpace:
    """The product of its parameters' values, enumerated with the last parameter running fastest.

    Attributes:
        parameters: names with their values, ascending and without repeats.
    """

    parameters: tuple[tuple[str, tuple[int, ...]], ...]

    @classmethod
    def of(cls, ranges: Mapping[str, tuple[int, ...]]) -> "SearchSpace":
        """Build a space from names and values. Raises ValueError if values are missing or not ascending."""
        for name, values in ranges.items():
            if not values:
                raise ValueError(f"{name}: expected at least one value, got none")
            if list(values) != sorted(set(values)):
                raise ValueError(f"{name}: expected ascending values without repeats, got {values}")
        return cls(tuple((name, tuple(values)) for name, values in ranges.items()))

    @cached_property
    def ranges(self) -> Mapping[str, tuple[int, ...]]:
        """Names to values, in order."""
        return dict(self.parameters)

    @cached_property
    def names(self) -> tuple[str, ...]:
        """Names of the parameters in order."""
        return tuple(self.ranges)

    @cached_property
    def _configs(self) -> tuple[dict[str, int], ...]:
        """Every config, in order. Raises InputError if there are too many."""
        self.check_size()
        return tuple(dict(zip(self.ranges, point, strict=True)) for point in product(*self.ranges.values()))

    @cached_property
    def keys(self) -> tuple[ConfigKey, ...]:
        """Keys of every config, in order. They are made once for all studies of a space; a session has dozens."""
        return tuple(map(config_key, self._configs))

    def check_size(self) -> None:
        """Raise InputError if there are more configs than a search has memory for."""
        if (size := prod(map(len, self.ranges.values()))) > MOST_CONFIGS:
            raise InputError(
                f"expected a search space of at most {MOST_CONFIGS:,} configs, got {size:,} (all combinations of "
                "values); remove some values"
            )

    def __len__(self) -> int:
        return len(self._configs)

    def __iter__(self) -> Iterator[dict[str, int]]:
        return map(dict, self._configs)  # copying one takes a fifth of making it

    def __getitem__(self, index: int) -> dict[str, int]:
        if not 0 <= index < len(self):
            raise IndexError(index)
        return dict(self._configs[index])

    def override(self, ranges: Mapping[str, tuple[int, ...]]) -> "SearchSpace":
        """Return the space with some ranges replaced. Raises KeyError for an unknown parameter."""
        if not ranges:
            return self
        unknown = set(ranges) - set(self.ranges)
        if unknown:
            raise KeyError(sorted(unknown)[0])
        return SearchSpace.of({**self.ranges, **ranges})
