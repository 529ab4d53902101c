"""Search spaces: indexing and its inverse over any grid."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bo_tune.core.space import SearchSpace, config_key
from bo_tune.errors import InputError

NAMES = ("block_m", "block_n", "block_k", "num_warps", "num_stages")


@st.composite
def spaces(draw: st.DrawFn) -> SearchSpace:
    names = draw(st.lists(st.sampled_from(NAMES), min_size=1, unique=True))
    values = st.lists(st.integers(1, 512), min_size=1, max_size=4, unique=True).map(sorted).map(tuple)
    return SearchSpace.of({name: draw(values) for name in names})


@given(spaces())
def test_every_index_leads_to_a_config_of_its_own(space: SearchSpace) -> None:
    configs = list(space)
    assert len(configs) == len(space)
    assert len({config_key(config) for config in configs}) == len(space)
    assert list(space.keys) == [config_key(config) for config in configs]
    for index, config in enumerate(configs):
        assert tuple(config) == space.names
        assert space[index] == config


@given(spaces(), st.data())
def test_override_replaces_only_what_is_named(space: SearchSpace, data: st.DataObject) -> None:
    name = data.draw(st.sampled_from(space.names))
    changed = space.override({name: (1024, 2048)})
    assert changed.names == space.names
    assert changed.ranges == {**space.ranges, name: (1024, 2048)}
    assert space.override({}) is space


def test_the_last_parameter_runs_fastest() -> None:
    space = SearchSpace.of({"a": (1, 2), "b": (1, 3)})
    assert list(space) == [{"a": 1, "b": 1}, {"a": 1, "b": 3}, {"a": 2, "b": 1}, {"a": 2, "b": 3}]


@pytest.mark.parametrize("index", [-1, 4])
def test_an_index_outside_has_no_config(index: int) -> None:
    with pytest.raises(IndexError):
        SearchSpace.of({"a": (1, 2), "b": (1, 3)})[index]


@pytest.mark.parametrize("values", [(), (2, 1), (1, 1)])
def test_values_must_ascend(values: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="block_m"):
        SearchSpace.of({"block_m": values})


def test_override_of_an_unknown_parameter() -> None:
    with pytest.raises(KeyError, match="z"):
        SearchSpace.of({"a": (1,)}).override({"z": (1,)})


def test_a_space_beyond_all_memory_is_refused_before_it_is_built() -> None:
    space = SearchSpace.of({f"p{number}": tuple(range(1, 21)) for number in range(7)})
    with pytest.raises(InputError, match="got 1,280,000,000"):
        next(iter(space))
