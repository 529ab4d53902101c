"""Prices of configs: what needs no compiling is tried first while nothing is known."""

from collections.abc import Sequence

import numpy as np
import optuna
import pytest
from numpy.typing import NDArray

from bo_tune.search import FiniteGridSampler, Grid, HistoryPrior, StudyHistory, distributions
from bo_tune.search.grid import Params
from bo_tune.search.sampler import STARTERS

GRID = Grid({"a": tuple(range(20)), "b": tuple(range(10))})


def features(configs: Sequence[Params]) -> NDArray[np.float64]:
    return np.array([[float(config["a"]) ** 2] for config in configs])  # type: ignore[arg-type]


def prior() -> HistoryPrior:
    configs = [dict(config) for config in GRID.configs[::7]]
    times = np.array([1.0 + config["a"] + config["b"] for config in configs])  # type: ignore[operator]
    return HistoryPrior([StudyHistory(features(configs), times, configs)])


def starts(cheap: set[int], taught: bool, trials: int = 3) -> list[int]:
    """Return the first proposals of a study of which nothing is known yet."""

    def cost(indices: NDArray[np.intp]) -> NDArray[np.float64]:
        return np.array([0.1 if int(index) in cheap else 1.0 for index in indices])

    sampler = FiniteGridSampler(GRID, features=features, prior=prior() if taught else None, cost=cost, seed=3)
    study = optuna.create_study(sampler=sampler)
    space = distributions(GRID.dimensions)
    indices = [GRID.index(study.ask(space).params) for _ in range(trials)]
    return [index for index in indices if index is not None]


@pytest.mark.parametrize("taught", [False, True])
def test_the_first_trials_cost_little_where_there_is_a_choice(taught: bool) -> None:
    cheap = set(range(100, 100 + STARTERS + 3))
    assert set(starts(cheap, taught)) <= cheap
    assert len(set(starts(cheap, taught))) == 3


@pytest.mark.parametrize("taught", [False, True])
def test_a_few_cheap_ones_are_no_choice(taught: bool) -> None:
    few = set(range(100, 100 + STARTERS - 1))
    assert starts(few, taught) == starts(set(), taught)


@pytest.mark.parametrize("seed", range(3))
def test_the_first_trials_are_of_sizes_that_are_expected_to_be_fast(seed: int) -> None:
    """Odd sizes are expected to be slow, and of what is slow nobody wants to learn first."""
    grid = Grid({"block": tuple(range(16, 257, 16)), "tile": (1, 2, 3, 4), "unroll": (0, 1)})
    sampler = FiniteGridSampler(grid, seed=seed)
    study = optuna.create_study(sampler=sampler)
    blocks = [study.ask(distributions(grid.dimensions)).params["block"] for _ in range(3)]
    assert set(blocks) <= {16, 32, 64, 128, 256}
