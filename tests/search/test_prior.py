"""Which trials of other studies are looked at, and how far what was measured elsewhere is trusted."""

import numpy as np
import pytest
from numpy.typing import NDArray

from bo_tune.search import HistoryPrior, StudyHistory
from bo_tune.search.gp.prior import MOST_STUDIES, ROWS_PER_STUDY
from bo_tune.search.gp.shared import HERE, Rows, SharedPart

RNG = np.random.default_rng(0)
POINTS = np.linspace(-1.5, 1.5, 60)[:, None]
HOME, AWAY, FAR = "home", "away", "far"


def history(count: int, m: float = 1.0, place: str = HOME) -> StudyHistory:
    features = RNG.standard_normal((count, 2))
    return StudyHistory(features, np.exp(RNG.random(count)), [{"a": i} for i in range(count)], {"m": m}, place)


@pytest.mark.parametrize("count", [45, 46, 80, 640, 3200])
def test_of_many_trials_the_fast_ones_are_looked_at_denser(count: int) -> None:
    whole = history(count)
    kept = whole.sample(ROWS_PER_STUDY)
    assert 0.6 * ROWS_PER_STUDY <= len(kept.times) == len(kept.configs) == len(kept.features) <= ROWS_PER_STUDY
    assert (kept.times.min(), kept.times.max()) == (whole.times.min(), whole.times.max())
    fast = np.sort(whole.times)[: round(np.sqrt(count * ROWS_PER_STUDY) / 2)]
    assert np.isin(kept.times, fast).sum() >= 0.3 * len(kept.times)
    assert (kept.place, kept.descriptor) == (whole.place, whole.descriptor)


def test_studies_of_the_same_place_come_first_then_the_nearest() -> None:
    home = [history(5, m, HOME) for m in (9.0, 3.0)]
    away = [history(5, m, AWAY) for m in range(MOST_STUDIES)]
    prior = HistoryPrior([*away, *home], descriptor={"m": 1.0}, place=HOME)
    assert [(h.place, h.descriptor["m"]) for h in prior.histories[:4]] == [(HOME, 3), (HOME, 9), (AWAY, 1), (AWAY, 0)]
    assert len(prior.histories) == MOST_STUDIES
    assert prior.knows_place
    assert not HistoryPrior(away, descriptor={"m": 1.0}, place=HOME).knows_place


def shared(*problems: tuple[NDArray[np.float64], int]) -> SharedPart:
    """What problems taught, each by its times at the points and its place."""
    inputs = np.concatenate([POINTS] * len(problems))
    numbers = np.repeat(np.arange(len(problems)), len(POINTS))
    places = np.repeat([place for _, place in problems], len(POINTS))
    return SharedPart(Rows(inputs, np.concatenate([y for y, _ in problems]), numbers, places), POINTS)


def test_places_that_differ_alike_for_all_problems_are_told_apart() -> None:
    """At home the optimum lies left, elsewhere right; one problem of each is like the other of its place."""
    left, right = (POINTS[:, 0] + 0.7) ** 2, (POINTS[:, 0] - 0.7) ** 2
    here = shared((left, HERE), (left + 0.05, HERE), (right, 1), (right + 0.05, 1), (right, 1))
    assert POINTS[np.argmin(here.mean), 0] == pytest.approx(-0.7, abs=0.2)
    mixed = shared((left, HERE), (left + 0.05, HERE), (right, HERE), (right + 0.05, HERE), (right, HERE))
    assert POINTS[np.argmin(mixed.mean), 0] > -0.3


def test_what_was_learnt_elsewhere_is_less_sure() -> None:
    curve = (POINTS[:, 0] - 0.7) ** 2
    sure = shared((curve, HERE), (curve + 0.02, HERE)).variance
    unsure = shared((curve, 1), (curve + 0.02, 1)).variance
    assert (unsure > sure).all()
    assert unsure.mean() > 2 * sure.mean()


def test_the_rows_of_a_fit_reach_from_the_fastest_to_the_slowest_of_each_problem() -> None:
    targets = RNG.random(130)
    rows = Rows(
        RNG.standard_normal((130, 2)), targets, np.repeat([0, 1, 2], [100, 25, 5]), np.zeros(130, dtype=np.intp)
    )
    thin = rows.thinned(60)
    assert [int((thin.problems == q).sum()) for q in range(3)] == [20, 20, 5]
    for problem in range(3):
        kept, whole = (part.targets[part.problems == problem] for part in (thin, rows))
        assert (kept.min(), kept.max()) == (whole.min(), whole.max())
