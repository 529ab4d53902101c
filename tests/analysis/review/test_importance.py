"""What a wrong value of a parameter costs, where the answer is known."""

from datetime import datetime
from itertools import product

import numpy as np
import pytest
from helpers import BUNDLED, EXPAND_DECODE, bundled

from bo_tune.analysis.review import review
from bo_tune.analysis.review.importance import FEWEST_TRIALS, exact_losses, modelled_losses
from bo_tune.core.choices import MEMORY
from bo_tune.core.outcome import Measurement
from bo_tune.core.space import config_key
from bo_tune.formats.recording import read_recordings
from bo_tune.measure.devices import replay_job
from bo_tune.session.session import Session, SessionSettings
from bo_tune.store.frozen import to_trial
from bo_tune.store.storage import StudyStore

pytestmark = pytest.mark.slow

TILE = {16: 1.0, 32: 1.2, 64: 2.0}
WARPS = {4: 1.1, 8: 1.0}
STAGES = {2: 1.0, 3: 1.0}
LOSSES = {"tile": (1.2 * 2.0) ** 0.5 - 1, "warps": 0.1, "stages": 0.0}
"""Of the product of the factors: the geometric mean of those of the other values."""


def _times() -> dict[tuple[tuple[str, int], ...], float]:
    grid = product(TILE, WARPS, STAGES)
    return {config_key({"tile": t, "warps": w, "stages": s}): 10 * TILE[t] * WARPS[w] * STAGES[s] for t, w, s in grid}


def _trial(key: tuple[tuple[str, int], ...], time_us: float, number: int, *, slow: bool = False):
    now = datetime(2026, 1, 1)
    outcome = Measurement((time_us, 1.001 * time_us, 1.002 * time_us), stopped=slow)
    return to_trial(dict(key), outcome, number=number, start=now, end=now)


def test_a_whole_grid_tells_exactly() -> None:
    losses = exact_losses(_times())
    assert list(losses) == ["tile", "warps", "stages"]
    assert losses == pytest.approx(LOSSES)


def test_configs_without_a_time_are_no_ones_best() -> None:
    times = _times()
    for key in list(times):
        if dict(key)["tile"] == 16 and dict(key)["warps"] == 8:
            del times[key]
    assert exact_losses(times)["warps"] == pytest.approx(12 / 11 - 1)


def test_a_search_tells_nearly_stopped_trials_included() -> None:
    chosen = list(_times().items())[::-1][:FEWEST_TRIALS]
    trials = [_trial(key, time, number, slow=time > 15) for number, (key, time) in enumerate(chosen)]
    assert {trial.state.name for trial in trials} == {"COMPLETE", "PRUNED"}
    losses = modelled_losses(trials)
    assert losses["warps"] == pytest.approx(0.1, abs=0.03)
    assert losses["stages"] == pytest.approx(0.0, abs=0.02)


def test_too_few_trials_tell_nothing() -> None:
    trials = [_trial(key, time, i) for i, (key, time) in enumerate(list(_times().items())[: FEWEST_TRIALS - 1])]
    assert modelled_losses(trials) == {}


def test_searches_of_the_bundled_recordings_tell_what_mattered() -> None:
    """As the report's page and its documentation claim."""
    recordings = read_recordings(BUNDLED)
    store = StudyStore(MEMORY)
    Session(store, SessionSettings()).run([replay_job(recording) for recording in recordings])
    found = review(store, recordings)
    store.close()
    pairs = [
        (exact, case.first.losses[name])
        for case in found.cases
        for name, exact in case.losses[0].items()
        if name in case.first.losses
    ]
    errors = [abs(np.log1p(told) - np.log1p(exact)) for exact, told in pairs]
    assert len(errors) > 35
    assert np.mean(errors) < 0.1
    assert np.median(errors) < 0.04


def test_a_recorded_grid_is_found_again_by_a_part_of_it() -> None:
    recording = bundled(EXPAND_DECODE)
    times = {key: entry.time_us for key, entry in recording.entries.items() if entry.time_us is not None}
    exact = exact_losses(times)
    keys = sorted(times)
    some = np.random.default_rng(0).choice(len(keys), 60, replace=False)
    losses = modelled_losses([_trial(keys[i], times[keys[i]], n) for n, i in enumerate(some)])
    assert set(list(losses)[:2]) == set(list(exact)[:2])
    assert max(abs(np.log1p(losses[name]) - np.log1p(loss)) for name, loss in exact.items()) < 0.25
