"""What ``bo-tune show`` says of the studies in a database."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from bo_tune.kernels.registry import kernel_spec
from bo_tune.results import Costs, costs_of
from bo_tune.space import config_key
from bo_tune.storage import RESULT_ATTR, SPACE_ATTR, StudyName, StudyStore, StudySummary
from bo_tune.trials import REASON


@dataclass(frozen=True, slots=True)
class StudyListing:
    """One study as it stands.

    Attributes:
        states: trials by state.
        reasons: pruned trials by reason.
        excluded: configs left out before any trial, by reason.
        best_us: time of the result, or of the best trial so far; us.
        default_us: time of the kernel's default config; us.
        certificate: how sure the sampler's model was that nothing better was left.
        finished: whether the study has a result.
    """

    name: StudyName
    states: Mapping[str, int]
    reasons: Mapping[str, int]
    excluded: Mapping[str, int]
    best_us: float | None
    default_us: float | None
    config: Mapping[str, int] | None
    finished: bool
    certificate: Mapping[str, Any] | None
    costs: Costs

    def to_json(self) -> dict[str, Any]:
        """Return the listing as JSON, the study by its full name."""
        return {"study": str(self.name), **{k: v for k, v in asdict(self).items() if k != "name"}}


def list_studies(store: StudyStore) -> list[StudyListing]:
    """List every study of the database, in order of name."""
    return [_listing(store, summary) for summary in store.summaries()]


def _listing(store: StudyStore, summary: StudySummary) -> StudyListing:
    trials = store.load(summary.name).trials()
    result = summary.attributes.get(RESULT_ATTR)
    problem = summary.name.problem
    default = config_key(kernel_spec(problem.kernel).default_config(problem))
    measured = {config_key(t.params): t.value for t in trials if t.value is not None}
    best = min(measured, key=measured.__getitem__, default=None)
    return StudyListing(
        name=summary.name,
        states=dict(Counter(t.state.name for t in trials)),
        reasons=dict(Counter(t.user_attrs[REASON] for t in trials if REASON in t.user_attrs).most_common()),
        excluded=summary.attributes.get(SPACE_ATTR, {}).get("excluded", {}),
        best_us=result["time_us"] if result else measured.get(best) if best else None,
        default_us=result["default_time_us"] if result else measured.get(default),
        config=result["config"] if result else dict(best) if best else None,
        finished=result is not None,
        certificate=result.get("certificate") if result else None,
        costs=costs_of(trials, 0),
    )
