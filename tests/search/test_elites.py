"""What was fastest in other places is tried first where nothing else carries over."""

from collections.abc import Sequence

import numpy as np
import optuna
import pytest
from numpy.typing import NDArray
from optuna.trial import TrialState

from bo_tune.search import FiniteGridSampler, Grid, HistoryPrior, StudyHistory, distributions
from bo_tune.search.elites import MOST_TURNS, OF_EACH, TURNS_OF_EACH, Elites
from bo_tune.search.grid import Params
from bo_tune.search.study_log import Observation, StudyLog

GRID = Grid({"a": tuple(range(12)), "b": tuple(range(10))})


def undescribed(configs: Sequence[Params]) -> NDArray[np.float64]:
    return np.zeros((len(configs), 0))


def history(best: int, place: str) -> StudyHistory:
    """Times of every second config, slower the farther its index is from the best one's."""
    configs = [dict(config) for config in GRID.configs[::2]]
    times = 1.0 + np.abs(np.arange(0, len(GRID), 2) - best)
    return StudyHistory(undescribed(configs), times, configs, place=place)


def prior(*bests: int, place: str = "here") -> HistoryPrior:
    return HistoryPrior([history(best, f"place {i}") for i, best in enumerate(bests)], place=place)


def trials(sampler: FiniteGridSampler, count: int, *, runs: bool = True) -> list[int]:
    """Return the configs that a study tries, of which the one of index 61 is the fastest."""
    study = optuna.create_study(sampler=sampler)
    tried = []
    for _ in range(count):
        trial = study.ask(distributions(GRID.dimensions))
        index = GRID.index(trial.params)
        assert index is not None
        tried.append(index)
        study.tell(trial, 1.0 + abs(index - 61) if runs else None, state=None if runs else TrialState.PRUNED)
    return tried


def test_the_fastest_of_each_study_come_first() -> None:
    elites = Elites.of(prior(20, 80, 20), GRID)
    assert elites.indices[:3].tolist() == [20, 80, 18], "each config once"
    assert len(elites.indices) == 2 * OF_EACH
    assert elites.turns == MOST_TURNS
    assert Elites.of(prior(20), GRID).turns == TURNS_OF_EACH


def test_their_turns_end_and_are_not_looked_at_afterwards() -> None:
    elites, log, free = Elites.of(prior(20), GRID), StudyLog(GRID), np.ones(len(GRID), dtype=bool)
    free[20] = False
    assert set(elites.due(log, free)) == set(elites.indices) - {20}
    order = [7, 22, 18, 9, 24, 16]
    log.adopt([Observation(number, index, GRID[index], 1.0) for number, index in enumerate(order)], [])
    assert len(elites.due(log, free)) == 0
    assert [one.index for one in elites.others(log.observations)] == [7, 9, 16], "their turns were the first three"
    assert len(Elites.of(prior(20), Grid({"a": (2,), "b": (0, 1)})).indices) == 1, "some may be off the grid"


@pytest.mark.parametrize("runs", [True, False])
def test_a_study_begins_with_them_and_goes_on_as_if_untaught(runs: bool) -> None:
    taught = FiniteGridSampler(GRID, features=undescribed, prior=prior(20, 80), seed=1)
    elites, turns = Elites.of(prior(20, 80), GRID), 2 * TURNS_OF_EACH
    tried = trials(taught, turns + 10, runs=runs)
    assert tried[0] == 20
    assert set(tried[:turns]) <= set(elites.indices)
    assert not set(tried[turns : turns + 3]) <= set(elites.indices), "which begins with random ones"
    assert len(set(tried)) == len(tried)
    assert not taught.taught


def test_what_is_described_or_of_the_same_place_is_modelled() -> None:
    assert not prior(20).carries_over
    assert prior(20, place="place 0").carries_over
    configs = [dict(config) for config in GRID.configs]
    described = StudyHistory(np.ones((len(configs), 1)), np.ones(len(configs)), configs, place="away")
    assert HistoryPrior([described], place="here").carries_over
