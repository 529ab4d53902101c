"""Lists the studies in a database for ``bo-tune show``, and defines how studies appear in JSON."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

from bo_tune.core.conclusion import Certificate, Ending
from bo_tune.core.conditions import UNKNOWN
from bo_tune.core.space import config_key
from bo_tune.core.study_name import StudyName
from bo_tune.store.attributes import DISTURBED_ATTR, FIGURES_ATTR, LAYERS_ATTR, SPACE_ATTR
from bo_tune.store.leases.holders import Holder
from bo_tune.store.reader import StudyReader, StudySummary
from bo_tune.store.results import Costs, StudyResult, costs_of, default_of, figures_of
from bo_tune.store.trials import FINISHED, REASON, Trial, outcome_of, time_us

if TYPE_CHECKING:  # looking at a database does not load what tunes
    from bo_tune.session.finished import Tuned


@dataclass(frozen=True, slots=True)
class StudyListing:
    """The current state of one study.

    Attributes:
        states: trials by state.
        reasons: pruned trials by reason.
        excluded: configs left out before any trial, by reason.
        best_us: time of the result, or of the best trial so far; us.
        default_us: time of the kernel's default config; us.
        certificate: how sure the sampler's model was that nothing better was left.
        finished: whether the study has a result.
        holder: who works on it now, if anyone.
        disturbed: what disturbed measuring it; None if it is not known that nothing did.
        ending: why its search ended; None before it has, or if that is not known.
        layers: names of the layers of models that look its config up, as far as they are known.
    """

    name: StudyName
    states: Mapping[str, int]
    reasons: Mapping[str, int]
    excluded: Mapping[str, int]
    best_us: float | None
    default_us: float | None
    config: Mapping[str, int] | None
    finished: bool
    certificate: Certificate | None
    costs: Costs
    holder: Holder | None
    disturbed: Sequence[str] | None = None
    ending: Ending | None = None
    layers: Sequence[str] = ()

    def to_json(self) -> dict[str, Any]:
        """Return the listing as JSON, with the study's full name and its parts."""
        apart = {"name", "certificate", "ending"}
        figures = {k: v for k, v in asdict(replace(self, certificate=None)).items() if k not in apart}
        return {**_named(self.name), **figures, "certificate": _stored(self.certificate), "ended": _ended(self.ending)}


def _named(name: StudyName) -> dict[str, Any]:
    return {
        "study": str(name),
        "kernel": name.problem.kernel,
        "problem": name.problem.label,
        "gpu": name.gpu,
        "kernel_source": name.kernel_source,
        "toolchain": name.toolchain or UNKNOWN,
        "search": name.search,
        "exhaustive": name.exhaustive,
        "set_aside": name.set_aside or None,
    }


def _ended(ending: Ending | None) -> str | None:
    return ending.reason.value if ending else None


def _stored(certificate: Certificate | None) -> dict[str, Any] | None:
    return certificate.to_json() if certificate else None


def study_figures(tuned: "Tuned") -> dict[str, Any]:
    """Return a study of a session as JSON, with the same keys as ``StudyListing.to_json``."""
    result = tuned.result
    return {
        **_named(tuned.name),
        "finished": result is not None,
        "best_us": result.time_us if result else None,
        "default_us": result.default_time_us if result else None,
        "config": dict(result.config) if result else None,
        "certificate": _stored(result.certificate) if result else None,
        "ended": _ended(result.ending) if result else None,
        "layers": list(tuned.job.serves),
        "costs": asdict(result.costs) if result else None,
        "disturbed": tuned.disturbed,
    }


def reused_figures(tuned: "Sequence[Tuned]") -> list[dict[str, Any]]:
    """Return, as JSON, what a session did not measure itself: the results or trials that its studies had before."""
    return [
        {
            "study": str(one.name),
            "kept": one.kept,
            "trials": one.resumed,
            "measured_at": one.result.date if one.kept and one.result else None,
            "toolchain": one.name.toolchain or UNKNOWN,
            "asked": one.result.asked if one.kept and one.result else None,
        }
        for one in tuned
        if one.kept or one.resumed
    ]


def named(names: Collection[str], words: Sequence[str]) -> list[str]:
    """Return the names that contain all words, whatever their case. A name that equals the words comes alone."""
    exact = [name for name in names if [name] == list(words)]
    return exact or [name for name in names if all(word.lower() in name.lower() for word in words)]


@dataclass(frozen=True, slots=True)
class TrialListing:
    """One trial. Times in us; None for a config that could not be measured.

    Attributes:
        reason: why it was pruned; None for a complete one.
        detail: the message about an invalid config.
    """

    number: int
    config: Mapping[str, int]
    state: str
    time_us: float | None
    reason: str | None
    detail: str | None
    launches: int
    compile_s: float
    shared_memory_bytes: int | None
    registers_per_thread: int | None
    spilled_registers: int | None

    @classmethod
    def of(cls, trial: Trial) -> "TrialListing":
        """Build the listing of a stored trial."""
        outcome = outcome_of(trial)
        return cls(
            number=trial.number,
            config=dict(trial.params),
            state=trial.state.name,
            time_us=time_us(trial),
            reason=trial.user_attrs.get(REASON),
            detail=getattr(outcome, "detail", None) or None,
            launches=outcome.launches.total(),
            compile_s=outcome.compilation.compile_s,
            shared_memory_bytes=outcome.resources.shared_memory_bytes,
            registers_per_thread=outcome.resources.registers_per_thread,
            spilled_registers=outcome.resources.spilled_registers,
        )


@dataclass(frozen=True, slots=True)
class StudyDetail:
    """One study with everything known of it.

    Attributes:
        trials: in the order in which they were recorded.
        result: the study's result, if it has one.
    """

    listing: StudyListing
    trials: Sequence[TrialListing]
    result: StudyResult | None

    def to_json(self) -> dict[str, Any]:
        """Return everything as JSON: the listing's keys, and ``trials`` and ``result``."""
        return {
            **self.listing.to_json(),
            "result": self.result.to_json() if self.result else None,
            "trials": [asdict(trial) for trial in self.trials],
        }


def study_detail(store: StudyReader[Any], listing: StudyListing) -> StudyDetail:
    """Read everything known of a study. Raises UnreadableStudyError."""
    row = store.row(listing.name)
    trials = list(map(TrialListing.of, store.trials_in(row.study_id, listing.name)))
    return StudyDetail(listing, trials, store.result_in(row.attributes, listing.name))


def list_studies(store: StudyReader[Any], words: Sequence[str] = ()) -> list[StudyListing]:
    """List the readable studies of the database by name, including those that were set aside.

    Trials are read only for studies whose figures are not stored with them: those under way. Ten thousand finished
    studies are listed in a second or two.

    Args:
        words: words that the names must contain (``named``).
    """
    ids = None
    if words:
        names = store.names()
        wanted = set(named(list(names.values()), words))
        ids = [number for number, name in names.items() if name in wanted]
    summaries, counts, holders = store.summaries(set_aside=True, ids=ids), store.counts(ids), store.holders()
    current = {s.study_id for s in summaries if _is_current(s, counts.get(s.study_id, {}))}
    read = store.trials_of([s for s in summaries if s.study_id not in current and s.study_id in counts])
    return [
        listing_of(one, None if one.study_id in current else read.get(one.name, []), holders.get(one.study_id))
        for one in summaries
        if one.study_id in current or str(one.name) not in store.unreadable
    ]


def _is_current(summary: StudySummary, counts: Mapping[str, int]) -> bool:
    """Say whether the figures stored with a study cover all its trials."""
    figures, result = summary.attributes.get(FIGURES_ATTR), summary.result
    if figures is None or result is None or figures["trials"] != result.trials:
        return False
    return bool(figures["trials"] == sum(counts.get(state, 0) for state in FINISHED))


def listing_of(summary: StudySummary, trials: Sequence[Trial] | None, holder: Holder | None = None) -> StudyListing:
    """Return the current state of a study.

    Args:
        trials: all trials of the study; None if the figures stored with it are current.
    """
    attributes, result = summary.attributes, summary.result
    figures = attributes[FIGURES_ATTR] if trials is None else figures_of(trials)
    measured = {config_key(t.params): t.value for t in trials or () if t.value is not None}
    best = min(measured, key=measured.__getitem__, default=None)
    default = None if result else default_of(summary.name.problem, attributes)
    whole = result is not None and (trials is None or result.trials == len(trials))
    return StudyListing(
        name=summary.name,
        states=figures["states"],
        reasons=figures["reasons"],
        excluded=attributes.get(SPACE_ATTR, {}).get("excluded", {}),
        best_us=result.time_us if result else measured.get(best) if best else None,
        default_us=result.default_time_us if result else measured.get(default) if default else None,
        config=result.config if result else dict(best) if best else None,
        finished=result is not None,
        certificate=result.certificate if result else None,
        costs=result.costs if result and whole else costs_of(trials or ()),
        holder=holder,
        disturbed=attributes.get(DISTURBED_ATTR),
        ending=result.ending if result else None,
        layers=attributes.get(LAYERS_ATTR) or (),
    )
