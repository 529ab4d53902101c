"""How sure a search was that nothing better was left. Pure data."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Certificate:
    """What is known of a study as it stands.

    Attributes:
        tolerance: x.
        probability: that no untried config is better than the best tried one by more than x.
        tried: trials with a value.
        exhausted: whether nothing was left to try.
        taught: whether the study was given others of its place to learn from; not stored.
    """

    tolerance: float
    probability: float
    tried: int = 0
    exhausted: bool = False
    taught: bool = False

    def __str__(self) -> str:
        return f"within {100 * self.tolerance:.3g} % of the grid's best with probability {self.probability:.2f}"

    def to_json(self) -> dict[str, Any]:
        """Return what a database or a sidecar stores."""
        return {
            "tolerance": self.tolerance,
            "probability": round(self.probability, 4),
            "tried": self.tried,
            "exhausted": self.exhausted,
        }

    @classmethod
    def from_json(cls, stored: Mapping[str, Any]) -> "Certificate":
        """Read what ``to_json`` wrote; what it does not know is passed over."""
        names = ("tolerance", "probability", "tried", "exhausted")
        return cls(**{name: stored[name] for name in names if name in stored})
