"""A database with every kind of study that a report may meet, tuned on small recordings."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from helpers import EXPAND, H100, SHRINK, SHRINK_BIG, sliced, sqlite_url, write_all
from moe_recordings import small

from bo_tune.analysis.review import Review, review
from bo_tune.core.outcome import Invalid, InvalidReason, LaunchPurpose, Measurement
from bo_tune.core.problem import SizedProblem
from bo_tune.core.study_name import StudyName
from bo_tune.formats.recording import Recording
from bo_tune.measure.devices import replay_job
from bo_tune.session.session import Session, SessionSettings
from bo_tune.store.frozen import to_trial
from bo_tune.store.storage import StudyStore

BUDGET = 20
OWN = SizedProblem("row_softmax", (("rows", 4096), ("columns", 1000)))
"""A problem of a kernel that this program does not know: another program stored it."""


@dataclass(frozen=True)
class Reviewed:
    """A database, and the recordings behind it.

    Attributes:
        recorded: those given to the review: of one shrink problem and of the experts, not of the others.
        folder: where these lie.
    """

    url: str
    recorded: Mapping[str, list[Recording]]
    folder: Path

    def review(self) -> Review:
        """Look back on it."""
        store = StudyStore(self.url, create=False)
        try:
            return review(store, [r for group in self.recorded.values() for r in group])
        finally:
            store.close()


def build(folder: Path) -> Reviewed:
    """Tune: shrink (recorded), shrink of another m (not finished), expand (with its grid), experts, an own kernel."""
    url = sqlite_url(folder / "studies.db")
    recorded = {"shrink": [sliced(SHRINK), sliced(SHRINK_BIG)], "experts": small(16)}
    store = StudyStore(url)
    search = Session(store, SessionSettings(budget=BUDGET))
    search.run([replay_job(recording) for recording in (*recorded["shrink"], sliced(EXPAND))])
    search.run([replay_job(recording) for recording in recorded["experts"]])
    Session(store, SessionSettings(sampler="grid", budget=None)).run([replay_job(sliced(EXPAND))])
    unfinished = search.opener.open(replay_job(sliced(SHRINK, m=32)))
    unfinished.search(5)
    _own_kernel(store)
    store.close()
    every = write_all(folder / "recorded", *(r for group in recorded.values() for r in group))
    return Reviewed(url, recorded, every)


def _own_kernel(store: StudyStore) -> None:
    """Store three trials: measured, slow and invalid."""
    study = store.open(StudyName(OWN, H100.name, "row_softmax.py 0123456789"), H100)
    launches = Counter({LaunchPurpose.CHECK: 1, LaunchPurpose.TIMING: 3})
    outcomes = [
        Measurement((20.0, 20.2, 20.4), launches=launches),
        Measurement((90.0, 91.0, 92.0), stopped=True, launches=launches),
        Invalid(InvalidReason.COMPILE_ERROR, "no such instruction"),
    ]
    now = datetime.now()
    for rows, outcome in enumerate(outcomes, start=1):
        study.add(to_trial({"block": 2**rows, "num_warps": 4}, outcome, start=now, end=now))
