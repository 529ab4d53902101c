"""How far from its reference a result may be, as a kernel's author says it. Imports no torch."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from math import isfinite

from bo_tune.errors import InputError


@dataclass(frozen=True, slots=True, kw_only=True)
class Tolerance:
    """How far a right result may be from the reference.

    Attributes:
        relative: of floating-point outputs, the largest norm of the difference, over the reference's norm; a single
            element may be off by five times as much of what is largest: its own size, the mean size of its
            neighbours, and a thousandth of the usual size of an element. None for what the output's type allows.
        absolute: by how much any element may be off besides. It is what integers are judged by; truth values are
            always exact.
        equal_nan: whether NaN is right where the reference has NaN. It never is elsewhere.

    Raises:
        InputError: one is negative or not finite.
    """

    relative: float | None = None
    absolute: float = 0.0
    equal_nan: bool = field(default=True, repr=False)

    def __post_init__(self) -> None:
        for name, value in (("relative", self.relative or 0.0), ("absolute", self.absolute)):
            if not isinstance(value, (int, float)) or not isfinite(value) or value < 0:
                raise InputError(f"tolerance: {name}: expected a number from 0 on, got {value!r}")


Tolerances = float | Tolerance | Mapping[str, float | Tolerance] | None
"""Of all outputs, or by their names; a number is a relative one."""


def tolerances_of(said: Tolerances, outputs: tuple[str, ...]) -> dict[str, Tolerance]:
    """Return the tolerance of each output. Raises InputError where one is none, or is for something else."""
    if not isinstance(said, Mapping):
        return dict.fromkeys(outputs, _tolerance(said))
    for name in said:
        if name not in outputs:
            raise InputError(f"tolerance: {name!r} is no output; there are {', '.join(outputs)}")
    return {name: _tolerance(said.get(name)) for name in outputs}


def _tolerance(said: float | Tolerance | None) -> Tolerance:
    return said if isinstance(said, Tolerance) else Tolerance(relative=said)
