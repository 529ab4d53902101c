"""The values of a parameter, and the positive integers that stand for them wherever configs are searched and stored."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from bo_tune.errors import InputError

Value = Any
"""A value of a kernel's parameter: a number, a truth value, a text, None, a dtype, or a tuple of such."""

DTYPES = ("triton.language.core", "torch")
"""Modules that define a type called ``dtype``, which parameters may have as values. Neither is imported for this."""


def is_value(value: object) -> bool:
    """Say whether something may be the value of a parameter."""
    if isinstance(value, tuple):
        return all(map(is_value, value))
    kind = type(value)
    is_dtype = kind.__name__ == "dtype" and kind.__module__ in DTYPES
    return value is None or is_dtype or isinstance(value, (bool, int, float, str))


@dataclass(frozen=True)
class Values:
    """The values of one parameter.

    Positive integers stand for themselves. Other values (a truth value, a word, a fraction, None) are represented by
    their places, counted from 1: in ascending order if they have one, otherwise in the given order.

    Raises:
        InputError: there are no values, or a value is given twice, or has another type.
    """

    name: str
    values: tuple[Value, ...]
    numbers: Mapping[Value, int] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        for value in self.values:
            if not is_value(value):
                expected = "a number, a truth value, a text, None, a dtype or a tuple of these"
                raise InputError(f"space: {self.name}: expected each value to be {expected}, got {value!r}")
        if not self.values or len(set(self.values)) < len(self.values):
            raise InputError(
                f"space: {self.name}: expected at least one value, and each only once, got {self.values!r}"
            )
        object.__setattr__(self, "values", tuple(sorted(self.values)) if self.is_ordered else self.values)
        places = {value: place for place, value in enumerate(self.values, 1)}
        object.__setattr__(self, "numbers", places if self.is_coded else {value: value for value in self.values})

    @property
    def is_ordered(self) -> bool:
        """Whether the values are numbers."""
        return all(isinstance(value, (int, float)) and not isinstance(value, bool) for value in self.values)

    @property
    def is_coded(self) -> bool:
        """Whether places stand for the values."""
        return not all(type(value) is int and value > 0 for value in self.values)

    def number(self, value: Value) -> int:
        """Return the number that stands for a value. Raises InputError if there is none."""
        if value in self.numbers:
            return self.numbers[value]
        if self.is_coded or type(value) is not int or value < 1:
            raise InputError(f"{self.name}: expected one of {', '.join(map(repr, self.values))}, got {value!r}")
        return value  # off the grid, as a default config may be

    def value(self, number: int) -> Value:
        """Return the value that a number stands for."""
        return self.values[number - 1] if self.is_coded else number

    def has(self, number: int) -> bool:
        """Say whether a number stands for a value. A number off the grid may stand for itself."""
        return not self.is_coded or 1 <= number <= len(self.values)


def values_of(space: Mapping[str, Sequence[Value]]) -> dict[str, Values]:
    """Return the parameters of a search space, given in the author's form. Raises InputError."""
    if not space:
        raise InputError("space: expected the kernel's parameters and their values, got none")
    return {name: Values(name, tuple(values)) for name, values in space.items()}
