"""Grids as samplers see them."""

from collections.abc import Mapping

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

from bo_tune.search import Grid, distributions

GRID = {"block": (16, 32, 64), "stages": (2, 3, 4, 5), "mode": ("a", "b"), "one": (1,)}


def test_enumeration_runs_the_last_dimension_fastest() -> None:
    grid = Grid(GRID)
    assert len(grid) == 24
    assert grid.configs[0] == {"block": 16, "stages": 2, "mode": "a", "one": 1}
    assert grid.configs[1] == {"block": 16, "stages": 2, "mode": "b", "one": 1}
    assert all(grid[i] == config and grid.index(config) == i for i, config in enumerate(grid.configs))


def test_configs_off_the_grid_have_no_index() -> None:
    grid = Grid(GRID)
    assert grid.index({"block": 8, "stages": 2, "mode": "a", "one": 1}) is None
    assert grid.index({"block": 16}) is None
    assert grid.index({"block": 16, "stages": 2, "mode": "a", "one": 1, "more": 3}) == 0


def test_nearest_config() -> None:
    grid = Grid(GRID)
    assert grid[grid.nearest({"block": 9, "stages": 9, "mode": "b", "one": 4})] == {
        "block": 16,
        "stages": 5,
        "mode": "b",
        "one": 1,
    }


def test_geometric_numbers_are_encoded_by_their_logarithm() -> None:
    encoded = Grid(GRID).encode([{"block": 8, "stages": 3, "mode": "b", "one": 1}])
    assert encoded.tolist() == [[3.0, 3.0, 0.0, 1.0]]


def test_many_integers_are_encoded_by_what_divides_them_too() -> None:
    grid = Grid({"block": tuple(range(16, 160, 16)), "stages": (2, 3, 4, 5), "power": tuple(2**i for i in range(9))})
    encoded = grid.encode([{"block": block, "stages": 3, "power": 4} for block in (64, 96, 0)])
    assert encoded.tolist() == [[64, 6, 0, 3, 2], [96, 5, np.log2(3), 3, 2], [0, 0, 0, 3, 2]]


@pytest.mark.parametrize(
    ("values", "also", "expected"),
    [
        ((16, 32, 64), (), IntDistribution(16, 64, log=True)),
        ((16, 32, 64), (8,), IntDistribution(8, 64, log=True)),
        ((16, 32, 64), (0,), IntDistribution(0, 64)),
        ((2, 4, 6), (), IntDistribution(2, 6, step=2)),
        ((2, 4, 6), (5,), IntDistribution(2, 6)),
        ((2, 3, 7), (), IntDistribution(2, 7)),
        ((4,), (), IntDistribution(4, 4)),
        ((0.5, 0.75), (), FloatDistribution(0.5, 0.75)),
        ((0.25, 0.5, 1.0), (), FloatDistribution(0.25, 1.0, log=True)),
        (("a", "b"), ("c",), CategoricalDistribution(("a", "b", "c"))),
        ((False, True), (), CategoricalDistribution((False, True))),
        ((4, 2, 8), (), CategoricalDistribution((4, 2, 8))),
    ],
)
def test_distributions(values: tuple[object, ...], also: tuple[object, ...], expected: object) -> None:
    assert distributions({"x": values}, also=[{"x": value} for value in also]) == {"x": expected}  # type: ignore[dict-item]


def test_matching_fixes_dimensions() -> None:
    grid = Grid(GRID)
    mask = grid.matching({"block": 32, "mode": "b", "stages": 99})
    assert [grid[int(i)]["block"] for i in np.flatnonzero(mask)] == [32] * 4
    assert mask.sum() == 4


def test_validity_is_asked_once_per_config() -> None:
    asked: list[Mapping[str, object]] = []
    grid = Grid(GRID, lambda config: asked.append(config) is None and config["mode"] == "a")
    assert grid.valid.sum() == 12
    assert grid.valid.sum() == 12
    assert len(asked) == 24


@pytest.mark.parametrize(
    ("dimensions", "message"),
    [
        ({"x": ()}, "at least one value"),
        ({"x": (1, 1)}, "without repeats"),
        ({"x": range(2048), "y": range(2048)}, "too large"),
    ],
)
def test_impossible_grids(dimensions: dict[str, tuple[int, ...]], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Grid(dimensions)


grids = st.dictionaries(
    st.sampled_from("uvwxyz"), st.lists(st.integers(-100, 100), min_size=1, max_size=4, unique=True), min_size=1
)


@given(grids)
def test_index_and_config_are_inverse(dimensions: dict[str, list[int]]) -> None:
    grid = Grid(dimensions)
    assert [grid.index(config) for config in grid] == list(range(len(grid)))
    assert [grid.nearest(config) for config in grid.configs[:5]] == list(range(min(5, len(grid))))
    for name, distribution in distributions(dimensions).items():
        assert all(distribution._contains(distribution.to_internal_repr(v)) for v in dimensions[name])
