"""What a session says of what it did not measure itself."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from helpers import EXPAND, SHRINK, sliced

from bo_tune.analysis.listing import reused_figures
from bo_tune.core.choices import MEMORY
from bo_tune.display.reuse import age, reuse_lines, unreadable_lines
from bo_tune.measure.devices import replay_job
from bo_tune.session.session import Session, SessionSettings
from bo_tune.store.storage import StudyStore

SETTINGS = SessionSettings(sampler="random", budget=6)


@pytest.mark.parametrize(
    ("seconds", "shown"),
    [(3, "less than a minute"), (61, "1 minute"), (7200, "2 hours"), (86400, "1 day"), (4e5, "4 days")],
)
def test_ages_are_shown_in_one_unit(seconds: float, shown: str) -> None:
    assert age(seconds) == shown


def test_what_is_kept_and_what_is_gone_on_from() -> None:
    store, jobs = StudyStore(MEMORY), [replay_job(sliced(SHRINK)), replay_job(sliced(EXPAND))]
    first = Session(store, SETTINGS).run(jobs)
    assert reuse_lines(first) == []
    assert reused_figures(first) == []
    kept, in_days = Session(store, SETTINGS).run(jobs), datetime.now(UTC) + timedelta(days=3, minutes=1)
    assert reuse_lines(kept, in_days) == [
        "kept 2 studies, measured 3 days ago with triton 3.6.0, torch 2.11.0+cu130, by random, seed 0, budget 6; "
        "use --fresh to measure again"
    ]
    assert [(one["kept"], one["trials"]) for one in reused_figures(kept)] == [(True, 6)] * 2
    assert reused_figures(kept)[0]["asked"]["sampler"] == "random"
    more = Session(store, replace(SETTINGS, budget=8)).run(jobs[:1])
    assert reuse_lines(more, in_days) == ["continued 1 study, which had 6 trials from 3 days ago"]
    assert [(one["kept"], one["trials"]) for one in reused_figures(more)] == [(False, 6)]


def test_studies_that_were_left_out_are_named() -> None:
    assert unreadable_lines({"b": "y", "a": "x"}) == [
        "warning: skipped a, which cannot be read: x; bo-tune delete removes it, and --fresh sets it aside",
        "warning: skipped b, which cannot be read: y; bo-tune delete removes it, and --fresh sets it aside",
    ]
