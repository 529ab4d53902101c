"""What kernels of one group agreed on, whose values of one parameter must be equal. Pure data."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

SHARED = "block_m"
"""The parameter that the kernels of a joint group must agree on: tokens are sorted into blocks once for all of them."""


@dataclass(frozen=True, slots=True)
class Decision:
    """The value of ``SHARED`` that kernels decided on which an engine launches in place of others of their group.

    Attributes:
        kernels: those that did, in the order in which a layer runs them.
        value: what they decided on.
        time_us: sum of their times under it, in us.
        default_time_us: sum of their times under the default's; None if that cannot run.
    """

    kernels: tuple[str, ...]
    value: int
    time_us: float
    default_time_us: float | None

    def to_json(self) -> dict[str, Any]:
        """Return what each of the others' studies stores of it."""
        times = {"time_us": self.time_us, "default_time_us": self.default_time_us}
        return {"kernels": list(self.kernels), "value": self.value, **times}

    @classmethod
    def from_json(cls, stored: Mapping[str, Any]) -> "Decision":
        """Read what ``to_json`` wrote."""
        return cls(tuple(stored["kernels"]), stored["value"], stored["time_us"], stored["default_time_us"])


@dataclass(frozen=True, slots=True)
class Agreement:
    """What studies that ended together agreed on.

    Attributes:
        kernels: theirs, in the order in which a layer runs them.
        value: of ``SHARED``.
        time_us: sum of the kernels' times, in us.
        default_time_us: sum of the defaults', measured in turn with them; None if one cannot run.
        decided_by: the decision that they had to follow; None where these agreed themselves.
    """

    kernels: tuple[str, ...]
    value: int
    time_us: float
    default_time_us: float | None
    decided_by: Decision | None = None

    def to_json(self) -> dict[str, Any]:
        """Return what each of the studies stores of it, and a sidecar."""
        times = {"time_us": self.time_us, "default_time_us": self.default_time_us}
        decided = {} if self.decided_by is None else {"decided_by": self.decided_by.to_json()}
        return {"kernels": list(self.kernels), SHARED: self.value, **times, **decided}

    @classmethod
    def from_json(cls, stored: Mapping[str, Any]) -> "Agreement":
        """Read what ``to_json`` wrote."""
        decided = stored.get("decided_by")
        return cls(
            tuple(stored["kernels"]),
            stored[SHARED],
            stored["time_us"],
            stored["default_time_us"],
            None if decided is None else Decision.from_json(decided),
        )
