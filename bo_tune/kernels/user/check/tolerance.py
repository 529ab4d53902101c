"""The author's tolerance for results of a kernel. Imports no torch."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from math import isfinite

from bo_tune.errors import InputError


@dataclass(frozen=True, slots=True, kw_only=True)
class Tolerance:
    """How far a right result may be from the reference.

    Attributes:
        relative: for floating-point outputs, the largest norm of the difference, relative to the reference's norm. A
            single element may be off by five times this tolerance, relative to the largest of: its own size, the mean
            size of its neighbours, and a thousandth of the usual size of an element. None for a default that depends on
            the output's type.
        absolute: error that is allowed for any element in addition. For integers, it is the only tolerance; truth
            values are always exact.
        equal_nan: whether NaN is right where the reference has NaN. It is never right elsewhere.

    Raises:
        InputError: one is negative or not finite.
    """

    relative: float | None = None
    absolute: float = 0.0
    equal_nan: bool = field(default=True, repr=False)

    def __post_init__(self) -> None:
        for name, value in (("relative", self.relative or 0.0), ("absolute", self.absolute)):
            if not isinstance(value, (int, float)) or not isfinite(value) or value < 0:
                raise InputError(f"tolerance: {name}: expected a number of at least 0, got {value!r}")


Tolerances = float | Tolerance | Mapping[str, float | Tolerance] | None
"""One tolerance for all outputs, or tolerances by their names. A number is a relative tolerance."""


def tolerances_of(said: Tolerances, outputs: tuple[str, ...]) -> dict[str, Tolerance]:
    """Return the tolerance of each output. Raises InputError if one is invalid, or names no output."""
    if not isinstance(said, Mapping):
        return dict.fromkeys(outputs, _tolerance(said))
    for name in said:
        if name not in outputs:
            raise InputError(f"tolerance: {name!r} is not an output; the outputs are {', '.join(outputs)}")
    return {name: _tolerance(said.get(name)) for name in outputs}


def _tolerance(said: float | Tolerance | None) -> Tolerance:
    return said if isinstance(said, Tolerance) else Tolerance(relative=said)
