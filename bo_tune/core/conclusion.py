"""How searches end: when, how sure that nothing better is left, and on what kernels agreed. Pure data."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import Any

SHARED = "block_m"
"""The parameter on which the kernels of a joint group must agree: tokens are sorted into blocks once for all of
them."""


@dataclass(frozen=True, slots=True)
class Certificate:
    """The state of a study's search.

    Attributes:
        tolerance: x.
        probability: probability that no untried config is better than the best tried one by more than x.
        tried: trials with a value.
        exhausted: whether nothing was left to try.
        taught: whether the study learned from other studies of its place; not stored.
        expected_loss: expected gain in speed over the best tried config from the best single untried config: 0.01 for 1
            %. None if it was not computed, as by earlier versions.
    """

    tolerance: float
    probability: float
    tried: int = 0
    exhausted: bool = False
    taught: bool = False
    expected_loss: float | None = None

    def __str__(self) -> str:
        return f"within {100 * self.tolerance:.3g} % of the grid's best with probability {self.probability:.2f}"

    def to_json(self) -> dict[str, Any]:
        """Return the form that a database or a sidecar stores."""
        return {
            "tolerance": self.tolerance,
            "probability": round(self.probability, 4),
            "tried": self.tried,
            "exhausted": self.exhausted,
            **({} if self.expected_loss is None else {"expected_loss": round(self.expected_loss, 6)}),
        }

    @classmethod
    def from_json(cls, stored: Mapping[str, Any]) -> "Certificate":
        """Read the result of ``to_json``. Unknown keys are ignored."""
        names = ("tolerance", "probability", "tried", "exhausted", "expected_loss")
        return cls(**{name: stored[name] for name in names if name in stored})


class EndedBy(StrEnum):
    """Why a search ended."""

    EXHAUSTED = "exhausted"
    """Nothing was left to try."""
    SURE = "sure"
    """Its model was sure enough that nothing much better is left."""
    TAUGHT = "taught"
    """It had tried as many configs as pay off if other studies teach it."""
    MOST = "most"
    """It had tried as many configs as the stop rule allows."""
    BUDGET = "budget"
    """It had launched as many configs as it may."""
    NOTHING_LEFT = "nothing left"
    """No config was left that could win, or too many had proved invalid."""


@dataclass(frozen=True, slots=True)
class Ending:
    """How a search ended.

    Attributes:
        configs: number of launched configs by then.
        probability: probability of its certificate; None without one.
    """

    reason: EndedBy
    configs: int
    probability: float | None = None

    @property
    def words(self) -> str:
        """The reason in a word or two."""
        if self.reason is EndedBy.SURE and self.probability is not None:
            return f"{self.probability:.0%} sure".replace("%", " %")
        return {EndedBy.EXHAUSTED: "all tried", EndedBy.MOST: "most allowed"}.get(self.reason, self.reason.value)

    def __str__(self) -> str:
        return f"{self.words}, {self.configs:,} config{'s' * (self.configs != 1)}"


@dataclass(frozen=True, slots=True)
class StopRule:
    """The rule by which a study has done enough.

    Attributes:
        tolerance: a config counts as better if it is faster by more than this share.
        risk: a study stops when the probability of a better config falls below this.
        least: trials with a value that a study needs before it may stop.
        most: trials with a value after which a study stops in any case; None for no limit.
        most_taught: the same, if other studies of the same place teach it. On replayed grids, this number leaves less
            regret than any threshold on the certificate that launches as many configs on average, because a certificate
            usually stays low from noise and rough ground, not from a better config. It is not certain that a threshold
            on the expected improvement of all untried configs, per launch so far, is better: with 19.4 launches on
            average of the 19 dense grids (10 seeds), it left 0.08 ± 0.08 points
            less regret than 20 launches of each.
    """

    tolerance: float = 0.01
    risk: float = 0.10
    least: int = 8
    most: int | None = None
    most_taught: int | None = 20

    def done(self, certificate: Certificate, under_way: int = 0) -> bool:
        """Say whether a study with this certificate is done, or will be once ``under_way`` more trials have a value."""
        limits = [self.most, self.most_taught if certificate.taught else None]
        tried = certificate.tried + under_way
        if certificate.exhausted or any(limit is not None and tried >= limit for limit in limits):
            return True
        return certificate.tried >= self.least and 1.0 - certificate.probability < self.risk


@dataclass(frozen=True, slots=True)
class Decision:
    """The value of ``SHARED`` that deciding kernels chose for the others of their group.

    Attributes:
        kernels: the deciding kernels, in the order in which a layer runs them.
        value: the chosen value.
        time_us: sum of their times with it, in us.
        default_time_us: sum of their times with the default's value; None if that cannot run.
    """

    kernels: tuple[str, ...]
    value: int
    time_us: float
    default_time_us: float | None

    def to_json(self) -> dict[str, Any]:
        """Return the form that each of the others' studies stores."""
        times = {"time_us": self.time_us, "default_time_us": self.default_time_us}
        return {"kernels": list(self.kernels), "value": self.value, **times}

    @classmethod
    def from_json(cls, stored: Mapping[str, Any]) -> "Decision":
        """Read the result of ``to_json``."""
        return cls(tuple(stored["kernels"]), stored["value"], stored["time_us"], stored["default_time_us"])


@dataclass(frozen=True, slots=True)
class LayerTimes:
    """Times of a layer's experts as an engine runs them, in us, including their base products and sorting.

    Attributes:
        bare_us: without adapters.
        time_us: with the chosen configs.
        default_time_us: with the default configs; None if one cannot run.
    """

    bare_us: float
    time_us: float
    default_time_us: float | None

    def to_json(self) -> dict[str, Any]:
        """Return the form that each of the layer's studies stores."""
        return asdict(self)

    @classmethod
    def from_json(cls, stored: Mapping[str, Any]) -> "LayerTimes":
        """Read the result of ``to_json``."""
        return cls(stored["bare_us"], stored["time_us"], stored["default_time_us"])


@dataclass(frozen=True, slots=True)
class Agreement:
    """The agreement of studies that ended together.

    Attributes:
        kernels: their kernels, in the order in which a layer runs them.
        value: value of ``SHARED``.
        time_us: sum of the kernels' times, in us.
        default_time_us: sum of the defaults' times, measured in turn with them; None if one cannot run.
        decided_by: the decision that they had to follow; None if they agreed themselves.
        in_place: the layer's times, if those decided.
    """

    kernels: tuple[str, ...]
    value: int
    time_us: float
    default_time_us: float | None
    decided_by: Decision | None = None
    in_place: LayerTimes | None = None

    def to_json(self) -> dict[str, Any]:
        """Return the form that each of the studies, and a sidecar, store."""
        times = {"time_us": self.time_us, "default_time_us": self.default_time_us}
        decided = {} if self.decided_by is None else {"decided_by": self.decided_by.to_json()}
        there = {} if self.in_place is None else {"in_place": self.in_place.to_json()}
        return {"kernels": list(self.kernels), SHARED: self.value, **times, **decided, **there}

    @classmethod
    def from_json(cls, stored: Mapping[str, Any]) -> "Agreement":
        """Read the result of ``to_json``."""
        decided, there = stored.get("decided_by"), stored.get("in_place")
        return cls(
            tuple(stored["kernels"]),
            stored[SHARED],
            stored["time_us"],
            stored["default_time_us"],
            None if decided is None else Decision.from_json(decided),
            None if there is None else LayerTimes.from_json(there),
        )
