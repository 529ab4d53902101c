"""Settings of one study's search, and its search processes' server: all that is needed before optuna is loaded."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from bo_tune.core.conclusion import StopRule
from bo_tune.processes.fork_server import ForkServer
from bo_tune.processes.threads import ONE_BLAS_THREAD

SEARCH_MODULE = "bo_tune.tuning.search_pool"
"""The module that search processes run."""


def search_server() -> ForkServer:
    """Start the server that forks search processes. It imports for a second, which may pass while GPUs are opened."""
    return ForkServer([SEARCH_MODULE], ONE_BLAS_THREAD)


@dataclass(frozen=True, slots=True)
class Finalists:
    """Settings for selecting and re-measuring finalists.

    Attributes:
        count: how many of the best configs, besides the default.
        rounds: repetitions of each in two batches.
        most_rounds: repetitions of each at most.
        confidence: that the chosen config is the fastest, apart from ``equal_within``.
        equal_within: difference in time, as a share, that is not worth more rounds.
        active: in place, the numbers of adapters that steps use. The mean over this mix decides. Empty to use the
            number that the device measures with.
    """

    count: int = 8
    rounds: int = 20
    most_rounds: int = 200
    confidence: float = 0.95
    equal_within: float = 0.005
    active: tuple[int, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """Return the settings as plain values. An empty mix is left out, as in files from before there were mixes."""
        settings = asdict(self)
        active = settings.pop("active")
        return {**settings, "active": list(active)} if active else settings

    @classmethod
    def from_json(cls, stored: Mapping[str, Any]) -> "Finalists":
        """Read settings that ``to_json`` wrote."""
        return cls(**{**stored, "active": tuple(stored.get("active", ()))})


@dataclass(frozen=True, slots=True)
class TunerSettings:
    """Settings for the search of one study.

    Attributes:
        budget: configs to launch, including the default one; None for every candidate.
        finalists: how the best configs are re-measured at the end.
        stop_slow: whether a clearly slow config ends after its first repetitions.
        stop_rule: when the sampler's model is sure enough to end before the budget; None for never.
    """

    budget: int | None
    finalists: Finalists = Finalists()
    stop_slow: bool = True
    stop_rule: StopRule | None = None

    @property
    def tolerance(self) -> float:
        """The stop rule's tolerance, or the usual one. Smaller improvements are not worth looking for."""
        return (self.stop_rule or StopRule()).tolerance
