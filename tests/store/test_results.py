"""What a study cost, and results as JSON."""

import json
from collections import Counter
from datetime import datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st
from optuna.trial import FrozenTrial

from bo_tune.core.conclusion import Certificate
from bo_tune.core.outcome import Compilation, Invalid, InvalidReason, LaunchPurpose, Measurement, Outcome
from bo_tune.store.frozen import to_trial
from bo_tune.store.results import Costs, StudyResult, costs_of, covered_s, intervals_of

START = datetime(2026, 1, 2, 3, 4, 5)


def trial(outcome: Outcome, start_s: float = 0, end_s: float = 1) -> FrozenTrial:
    start, end = (START + timedelta(seconds=s) for s in (start_s, end_s))
    return to_trial({"block_m": 16}, outcome, start=start, end=end)


@pytest.mark.parametrize(
    ("intervals", "seconds"),
    [
        ([], 0),
        ([(0, 1)], 1),
        ([(0, 1), (1, 2)], 2),
        ([(0, 1), (5, 7)], 3),
        ([(0, 10), (2, 3), (4, 12)], 12),
        ([(4, 12), (0, 10), (2, 3)], 12),
        ([(0, 10), (2, 3), (2.5, 4)], 10),
        ([(3, 3), (3, 3)], 0),
    ],
)
def test_time_covered_counts_overlaps_once(intervals: list[tuple[float, float]], seconds: float) -> None:
    times = [(START + timedelta(seconds=a), START + timedelta(seconds=b)) for a, b in intervals]
    assert covered_s(times) == pytest.approx(seconds)


@given(st.lists(st.tuples(st.integers(0, 60), st.integers(0, 10)), max_size=12))
def test_time_covered_is_the_measure_of_the_union(pairs: list[tuple[int, int]]) -> None:
    times = [(START + timedelta(seconds=a), START + timedelta(seconds=a + length)) for a, length in pairs]
    union = {second for a, length in pairs for second in range(a, a + length)}
    assert covered_s(times) == len(union)


def test_costs_add_up() -> None:
    check, timing, late = LaunchPurpose.CHECK, LaunchPurpose.TIMING, LaunchPurpose.LATE
    trials = [
        trial(Measurement((1.0,), False, Counter({check: 1, timing: 10}), Compilation(2.0)), 0, 2),
        trial(Measurement((9.0,), True, Counter({check: 1, timing: 3, late: 2}), Compilation(0.5, cached=True)), 1, 3),
        trial(Invalid(InvalidReason.WRONG_RESULT, "", Counter({check: 1}), Compilation(1.0)), 3, 4),
        trial(Invalid(InvalidReason.COMPILE_TIMEOUT, "", Counter(), Compilation(8.0)), 10, 18),
        trial(Invalid(InvalidReason.CONSTRAINT), 18, 18),
    ]
    costs = costs_of(trials, Counter({LaunchPurpose.FINALISTS: 40, LaunchPurpose.CHECK: 2}))
    by_purpose = {"check": 5, "timing": 13, "late": 2, "finalists": 40}
    assert costs == Costs(5, 3, 60, by_purpose, compiles=3, compile_s=11.0, wall_s=12.0)
    flat = costs.flat()
    assert flat["launches"] == 60
    assert sum(n for name, n in flat.items() if name.startswith("launches_")) == 60
    assert flat["launches_late"] == 2
    assert all(isinstance(value, int | float) for value in flat.values())


def test_no_trials_cost_nothing() -> None:
    costs = costs_of([])
    assert (costs.configs, costs.launched_configs, costs.launches, costs.wall_s) == (0, 0, 0, 0)


def test_trials_without_dates_cover_no_time() -> None:
    unfinished = trial(Measurement((1.0,)))
    unfinished.datetime_complete = None
    assert intervals_of([unfinished, trial(Measurement((1.0,)))]) == [(START, START + timedelta(seconds=1))]


def test_a_result_survives_json() -> None:
    result = StudyResult(
        config={"block_m": 16, "split_k": 8},
        time_us=5.25,
        default_time_us=None,
        finalists=[({"block_m": 16, "split_k": 8}, 5.25), ({"block_m": 32, "split_k": 8}, 5.5)],
        trials=40,
        sampler="grid-gp",
        date="2026-01-02T03:04:05+00:00",
        certificate=Certificate(tolerance=0.01, probability=0.93, tried=40),
        ended_by={"tolerance": 0.01, "risk": 0.1, "least": 8, "most": None},
        costs=costs_of([trial(Measurement((1.0,)))], Counter({LaunchPurpose.FINALISTS: 7})),
    )
    assert StudyResult.from_json(json.loads(json.dumps(result.to_json()))) == result
