"""Finite, ordered grids as samplers see them: configs enumerated, encoded as numbers, and as Optuna distributions.

Notation: C configs of the grid, D columns of the encoding.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import cached_property
from itertools import pairwise, product
from math import isclose, prod

import numpy as np
from numpy.typing import NDArray
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution

Value = bool | int | float | str | None
"""A value of a parameter, as Optuna can store it."""

Params = Mapping[str, Value]
"""A config: parameter name to value."""

Array = NDArray[np.float64]

MANY_VALUES = 8
"""From so many on, integers of one dimension are also described by what divides them."""

MAX_CONFIGS = 2**20
"""Grids are enumerated; one larger than this is refused."""


def is_numeric(values: Iterable[Value]) -> bool:
    """Whether all values are numbers (bool is a category, not a number)."""
    return all(isinstance(value, (int, float)) and not isinstance(value, bool) for value in values)


def is_geometric(values: Sequence[float]) -> bool:
    """Whether ascending values have a constant ratio, which three or more positive ones are needed to tell."""
    if len(values) < 2 or values[0] <= 0:
        return False
    ratio = values[1] / values[0]
    return all(isclose(b / a, ratio, rel_tol=1e-9) for a, b in pairwise(values))


def _is_log(values: Sequence[float]) -> bool:
    """Whether a dimension is better seen in logarithms: it ascends geometrically, by two or more."""
    return is_geometric(values) and values[1] / values[0] >= 2 and len(values) > 1


def _step(values: Sequence[int]) -> int:
    """The constant difference of ascending integers, or 1."""
    steps = {b - a for a, b in pairwise(values)}
    return steps.pop() if len(steps) == 1 else 1


def distribution(values: Sequence[Value], also: Sequence[Value] = ()) -> BaseDistribution:
    """Describe one dimension to Optuna.

    Ascending numbers become a range, which can grow in a later study of the same name (log for geometric values,
    with a step for regular integers); anything else becomes a categorical, which cannot.

    Args:
        values: the values on the grid, in order.
        also: further values that trials may hold, such as those of a default config off the grid.
    """
    extra = [value for value in also if value not in values]
    if not is_numeric([*values, *extra]) or list(values) != sorted(set(values)):  # type: ignore[type-var]
        return CategoricalDistribution([*values, *extra])
    numbers = [value for value in values if isinstance(value, (int, float))]
    everything = sorted([*numbers, *(value for value in extra if isinstance(value, (int, float)))])
    low, high, log = everything[0], everything[-1], _is_log(numbers) and everything[0] > 0
    if all(isinstance(value, int) for value in everything):
        integers = [int(value) for value in everything]
        return IntDistribution(integers[0], integers[-1], log=log, step=1 if log else _step(integers))
    return FloatDistribution(float(low), float(high), log=log)


def distributions(grid: Mapping[str, Sequence[Value]], also: Sequence[Params] = ()) -> dict[str, BaseDistribution]:
    """Describe a grid to Optuna, one distribution per dimension.

    Args:
        grid: parameter name to values.
        also: configs off the grid that the distributions must admit too (the default config, say).
    """
    return {
        name: distribution(values, [config[name] for config in also if name in config]) for name, values in grid.items()
    }


class Grid:
    """The product of its dimensions, enumerated with the last one running fastest.

    Args:
        dimensions: parameter name to values, without repeats.
        valid: predicate, or ``[C]``; configs it refuses are never proposed.

    Raises:
        ValueError: for an empty dimension, repeated values or more than ``MAX_CONFIGS`` configs.
    """

    def __init__(
        self,
        dimensions: Mapping[str, Sequence[Value]],
        valid: Callable[[dict[str, Value]], bool] | NDArray[np.bool_] | None = None,
    ) -> None:
        self.dimensions = {name: tuple(values) for name, values in dimensions.items()}
        for name, values in self.dimensions.items():
            if not values:
                raise ValueError(f"{name}: expected at least one value, got none")
            if len(set(values)) != len(values):
                raise ValueError(f"{name}: expected values without repeats, got {values}")
        if len(self) > MAX_CONFIGS:
            raise ValueError(f"a grid of {len(self)} configs is too large to enumerate (at most {MAX_CONFIGS})")
        self._valid = valid
        self._positions = [{value: i for i, value in enumerate(values)} for values in self.dimensions.values()]

    def __len__(self) -> int:
        return prod(len(values) for values in self.dimensions.values())

    def __iter__(self) -> Iterator[dict[str, Value]]:
        return (dict(zip(self.dimensions, values, strict=True)) for values in product(*self.dimensions.values()))

    def __getitem__(self, index: int) -> dict[str, Value]:
        left, found = int(index), []
        for values in reversed(self.dimensions.values()):
            left, digit = divmod(left, len(values))
            found.append(values[digit])
        if left:
            raise ValueError(f"a grid of {len(self)} configs has none of index {index}")
        return dict(zip(self.dimensions, reversed(found), strict=True))

    @cached_property
    def names(self) -> tuple[str, ...]:
        """Names of the dimensions in order."""
        return tuple(self.dimensions)

    @cached_property
    def shape(self) -> tuple[int, ...]:
        """Number of values of every dimension."""
        return tuple(len(values) for values in self.dimensions.values())

    @cached_property
    def configs(self) -> tuple[dict[str, Value], ...]:
        """All configs in order; position is the config's index."""
        return tuple(self)

    @cached_property
    def valid(self) -> NDArray[np.bool_]:
        """``[C]``, whether the predicate accepts each config."""
        if self._valid is None:
            return np.ones(len(self), dtype=bool)
        if isinstance(self._valid, np.ndarray):
            return self._valid
        return np.fromiter((self._valid(dict(config)) for config in self.configs), dtype=bool, count=len(self))

    def index(self, config: Params) -> int | None:
        """Return the position of a config, or None for one off the grid. Names beyond the grid's are ignored."""
        position = 0
        for name, positions in zip(self.names, self._positions, strict=True):
            digit = positions.get(config.get(name))
            if digit is None:
                return None
            position = position * len(positions) + digit
        return position

    def matching(self, fixed: Params) -> NDArray[np.bool_]:
        """``[C]``, whether each config has the given values; a value off the grid leaves its dimension free."""
        mask = np.ones(self.shape, dtype=bool)
        for axis, (name, positions) in enumerate(zip(self.names, self._positions, strict=True)):
            if name in fixed and fixed[name] in positions:
                keep = np.zeros(len(positions), dtype=bool)
                keep[positions[fixed[name]]] = True
                mask &= keep.reshape([-1 if a == axis else 1 for a in range(len(self.shape))])
        return mask.ravel()

    def nearest(self, config: Params) -> int:
        """Return the position of the config that is nearest in every dimension (first value for a strange category)."""
        digits = []
        for name, values in self.dimensions.items():
            value = config.get(name, values[0])
            column = _encode_dimension(values, [*values, value])
            digits.append(int(np.argmin(np.abs(column[:-1] - column[-1]).sum(axis=1))))
        return int(np.ravel_multi_index(digits, self.shape))

    def encode(self, configs: Sequence[Params]) -> Array:
        """Describe configs, on the grid or not, by numbers.

        Returns:
            ``[len(configs), D]``: numbers as they are, or log2 of them for a geometric dimension; a column per value
            (1 or 0) for a category. Dimensions of a single value have no column. One of many integers has two columns
            more, for what divides them.
        """
        columns = []
        for name, values in self.dimensions.items():
            given = [config[name] for config in configs]
            if len(values) > 1:
                columns.append(_encode_dimension(values, given))
            if has_divisors(values):
                columns.append(_divisors(given))
        return np.concatenate(columns, axis=1) if columns else np.zeros((len(configs), 0))

    def oddity(self, configs: Sequence[Params]) -> Array:
        """Return the sum of log2 of the odd parts of what ``has_divisors``, ``[len(configs)]``."""
        odd = [
            _divisors([config[name] for config in configs])[:, 1]
            for name, values in self.dimensions.items()
            if has_divisors(values)
        ]
        return np.asarray(np.sum(odd, axis=0)) if odd else np.zeros(len(configs))


def has_divisors(values: Sequence[Value]) -> bool:
    """Whether values are many positive integers, of which some are no powers of two.

    Warps, vector loads and banks come in powers of two, so times jump with what divides a size: of block sizes 16, 32,
    48, … some kernels are ten times slower at all but 32, 64, 128 and 256. Of a few values each is learnt by itself.
    """
    whole = [value for value in values if isinstance(value, int) and not isinstance(value, bool) and value > 0]
    return len(whole) == len(values) and len(set(whole)) >= MANY_VALUES and any(value & (value - 1) for value in whole)


def _divisors(given: Sequence[Value]) -> Array:
    """How often 2 divides integers, and log2 of what is then left, ``[len(given), 2]``; 0 for what is none."""
    whole = np.array([value if isinstance(value, int) and value > 0 else 1 for value in given], dtype=np.int64)
    power = np.log2((whole & -whole).astype(float))
    return np.stack([power, np.log2(whole) - power], axis=1)


def _encode_dimension(values: Sequence[Value], given: Sequence[Value]) -> Array:
    """Encode given values of one dimension: ``[len(given), 1]`` for numbers, ``[len(given), len(values)]`` else."""
    if is_numeric(values) and is_numeric(given):
        numbers = np.asarray(given, dtype=float)[:, None]
        ordered = sorted(value for value in values if isinstance(value, (int, float)))
        if _is_log(ordered) and bool((numbers > 0).all()):
            return np.asarray(np.log2(numbers), dtype=float)
        return numbers
    return np.array([[float(value == choice) for choice in values] for value in given])
