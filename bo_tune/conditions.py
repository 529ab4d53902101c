"""Under which conditions a problem is measured. Pure data."""

from dataclasses import dataclass
from enum import StrEnum


class Timing(StrEnum):
    """What a repetition finds in the L2 cache, and how it is launched."""

    COLD = "cold"
    """Nothing of its own: the cache is cleared before each launch. As in a model, where other layers ran between."""
    WARM = "warm"
    """What the launch before left."""
    GRAPH = "graph"
    """As warm; many launches replayed in one CUDA graph, with their mean as the repetition."""


class Tokens(StrEnum):
    """How the tokens of a step are spread over the adapters."""

    UNIFORM = "uniform"
    """Every adapter is equally likely."""
    ONE = "one"
    """All tokens use one adapter."""
    ZIPF = "zipf"
    """The r-th adapter is 1 / r as likely as the first."""


@dataclass(frozen=True, slots=True)
class Conditions:
    """Measurements under different conditions never share a study."""

    timing: Timing = Timing.COLD
    tokens: Tokens = Tokens.UNIFORM

    @property
    def label(self) -> str:
        """What is not as usual, in a word; empty where nothing is."""
        unusual = (self.timing, Conditions().timing), (self.tokens, Conditions().tokens)
        return ".".join(value for value, usual in unusual if value is not usual)
