"""A study's result as it is stored. It is checked when it is read."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import datetime
from typing import Annotated, Any

from pydantic import AfterValidator, TypeAdapter
from pydantic_core import PydanticCustomError

from bo_tune.core.choices import GRID
from bo_tune.core.conclusion import Certificate, EndedBy, Ending
from bo_tune.store.fields import Count, Line, LinearLayer, Seconds, Setting, StoredConfig, Sureness, Time, Together


def _moment(text: str) -> str:
    try:
        aware = datetime.fromisoformat(text).tzinfo is not None
    except ValueError:
        aware = False
    if not aware:
        raise PydanticCustomError("moment", "a moment of ISO 8601, with its offset from UTC")
    return text


Moment = Annotated[Line, AfterValidator(_moment)]


@dataclass(frozen=True, slots=True)
class Costs:
    """The costs of searching, summed over all processes that worked on it, including killed ones.

    Attributes:
        configs: configs tried, including invalid ones.
        launched_configs: configs launched at least once.
        launches: kernel launches for any purpose.
        launches_by_purpose: the same, by purpose.
        compiles: binaries compiled, without those found in a cache.
        compile_s: seconds of one core spent compiling.
        wall_s: seconds during which a trial was under way.
    """

    configs: Count
    launched_configs: Count
    launches: Count
    launches_by_purpose: Mapping[Line, Count]
    compiles: Count
    compile_s: Seconds
    wall_s: Seconds

    def flat(self) -> dict[str, float]:
        """Return all figures in one flat mapping, as sidecars hold them."""
        figures: dict[str, float] = {k: v for k, v in asdict(self).items() if k != "launches_by_purpose"}
        return {**figures, **{f"launches_{p.replace('-', '_')}": n for p, n in self.launches_by_purpose.items()}}


@dataclass(frozen=True, slots=True)
class ActiveTimes:
    """Times of one layer in us, base product included, for steps that use this number of adapters.

    Attributes:
        bare_us: without adapters.
        time_us: with the config that was chosen.
        default_time_us: with the default config; None if it cannot run.
    """

    adapters: Setting
    bare_us: Time
    time_us: Time
    default_time_us: Time | None


@dataclass(frozen=True, slots=True)
class InPlace:
    """The race in place that decided. Times of one layer in us, base product included.

    Attributes:
        linear: the layer.
        beside: config of the layer's other kernel.
        bare_us: time of the layer without adapters.
        default_time_us: time with the default config; None if it cannot run.
        finalists: every config that was timed there, with its time.
        by_active: if a mix of numbers of adapters decided, the times with each number by itself.
    """

    linear: LinearLayer
    beside: StoredConfig
    bare_us: Time
    time_us: Time
    default_time_us: Time | None
    finalists: Sequence[tuple[StoredConfig, Time]]
    by_active: Sequence[ActiveTimes] = ()


@dataclass(frozen=True, slots=True)
class StudyResult:
    """The result of a study.

    Attributes:
        config: the config to write.
        time_us: its re-measured time, in us.
        default_time_us: the default config's time, measured in turn with it; None if the default cannot run.
        finalists: every config re-measured at the end, the default first, with its time in us.
        trials: how many trials the study had when the result was chosen.
        date: when it was chosen, ISO 8601 in UTC.
        certificate: how sure the sampler's model was that nothing better was left.
        ended_by: the stop rule that ended the search (``search.StopRule``); None if something else did.
        joint: what kernels that had to agree agreed on; None if the kernel need not agree with others.
        in_place: what decided if the layer was known; None if the times alone did.
        asked: the search to which the result belongs (``SessionSettings.asked``). If anything else is asked for, that
            search chooses anew. None in a database of schema 1.
    """

    config: StoredConfig
    time_us: Time
    default_time_us: Time | None
    finalists: Sequence[tuple[StoredConfig, Time]]
    trials: Count
    sampler: Line
    date: Moment
    certificate: Sureness | None
    ended_by: Mapping[str, Any] | None
    costs: Costs
    joint: Together | None = None
    in_place: InPlace | None = None
    asked: Mapping[str, Any] | None = None

    @property
    def ending(self) -> Ending | None:
        """Why the search ended; None if what is stored does not say, as in schema 1."""
        certificate, configs = self.certificate, self.costs.launched_configs
        probability = certificate.probability if certificate else None
        reason = self._ended_by_rule(certificate) if certificate else None
        if reason is None and self.asked is not None:
            budget = self.asked.get("budget")
            if budget is not None and configs >= budget:
                reason = EndedBy.BUDGET
            else:
                reason = EndedBy.EXHAUSTED if self.sampler == GRID else EndedBy.NOTHING_LEFT
        return None if reason is None else Ending(reason, configs, probability)

    def _ended_by_rule(self, certificate: Certificate) -> EndedBy | None:
        """Return which part of its stop rule ended the search. None if none did, although all may have been tried."""
        rule = self.ended_by or {}
        if certificate.exhausted:
            return EndedBy.EXHAUSTED
        if not rule:
            return None
        if 1.0 - certificate.probability < rule.get("risk", 0.0):
            return EndedBy.SURE
        most = rule.get("most")
        return EndedBy.MOST if most is not None and certificate.tried >= most else EndedBy.TAUGHT

    def to_json(self) -> dict[str, Any]:
        """Return the result as a study attribute holds it."""
        certificate, joint = self.certificate, self.joint
        return {
            **asdict(replace(self, certificate=None, joint=None)),
            "certificate": certificate.to_json() if certificate else None,
            "joint": joint.to_json() if joint else None,
        }

    @classmethod
    def from_json(cls, stored: Mapping[str, Any]) -> "StudyResult":
        """Read a stored result. Raises pydantic's ValidationError, a ValueError, if it is not valid."""
        return _RESULT.validate_python(stored)


_RESULT = TypeAdapter(StudyResult)


def note_of(result: StudyResult, layers: Sequence[str] = ()) -> str:
    """Summarise a finished study in Markdown, for its note in optuna-dashboard.

    Args:
        layers: names of the layers that look its config up.
    """
    config = ", ".join(f"{name} {value}" for name, value in result.config.items())
    default, certificate = result.default_time_us, result.certificate
    gain = f", {default / result.time_us:.2f}x the default's speed ({default:.2f} us)" if default else ""
    lines = [f"**Chosen**: {config}", f"**Time**: {result.time_us:.2f} us, raced in turn at the end{gain}"]
    lines += [f"**Ended**: {result.ending}"] if result.ending else []
    lines += [f"**Sure**: {certificate}"] if certificate else []
    if certificate and certificate.expected_loss is not None:
        lines.append(f"**Expected loss**: {100 * certificate.expected_loss:.2f} %")
    lines += [f"**Layers**: {', '.join(layers)}"] if layers else []
    return "\n\n".join([*lines, "The values of trials are single measurements; the race decided."])
