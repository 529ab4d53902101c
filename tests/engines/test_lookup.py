"""The lookup of VLLM_CONTRACT.md against a naive restatement, and where it stops."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bo_tune.engines.vllm.lookup import Crash, Found, lookup, nearest_of, switch_points

LEVELS = ("max_loras", "num_slices", "m", "k", "n")


def naive(table: dict[str, Any], asked: dict[str, int]) -> Any:
    """Return what is found, or raise: every rule spelt out for one level at a time."""
    for name, number in asked.items():
        if name == "num_slices":
            table = table[str(number)]
            continue
        if table.get(str(number)):
            table = table[str(number)]
            continue
        distances = [(abs(int(key) - number), position) for position, key in enumerate(table)]
        table = table[list(table)[min(distances)[1]]]
    return table


def tables(levels: int) -> st.SearchStrategy[dict[str, Any]]:
    keys = st.one_of(st.integers(0, 12).map(str), st.sampled_from(["05", " 7", "x", "-3", "1.5", "version"]))
    inner = tables(levels - 1) if levels > 1 else st.just({"block_m": 16})
    return st.dictionaries(keys, inner, max_size=4)


@given(tables(5), st.lists(st.integers(1, 12), min_size=5, max_size=5))
def test_it_is_the_naive_lookup(table: dict[str, Any], numbers: list[int]) -> None:
    asked = dict(zip(LEVELS, numbers, strict=True))
    found = lookup(table, asked)
    try:
        expected = naive(table, asked)
    except (KeyError, ValueError):
        assert isinstance(found, Crash)
    else:
        assert isinstance(found, Found)
        assert found.config == expected
        assert [str(asked[level]) != key for level, key in zip(LEVELS, found.keys, strict=True)] == [
            level in found.nearest for level in LEVELS
        ]


@given(tables(3), st.lists(st.integers(1, 12), min_size=5, max_size=5))
def test_a_file_of_fewer_levels_crashes(table: dict[str, Any], numbers: list[int]) -> None:
    assert isinstance(lookup(table, dict(zip(LEVELS, numbers, strict=True))), Crash)


def nested(*keys: str) -> dict[str, Any]:
    table: dict[str, Any] = {"block_m": 16}
    for key in reversed(keys):
        table = {key: table}
    return table


ASKED = dict(zip(LEVELS, (5, 1, 16, 4096, 32), strict=True))


def test_exact_and_nearest() -> None:
    assert lookup(nested("5", "1", "16", "4096", "32"), ASKED) == Found(
        ("5", "1", "16", "4096", "32"), (), {"block_m": 16}
    )
    found = lookup(nested("4", "1", "8", "4096", "16"), ASKED)
    assert isinstance(found, Found)
    assert found.nearest == ("max_loras", "m", "n")


def test_the_first_of_equally_near_keys() -> None:
    asked = {"m": 24}
    assert lookup({"16": {"a": 1}, "32": {"b": 2}}, asked) == Found(("16",), ("m",), {"a": 1})
    assert lookup({"32": {"b": 2}, "16": {"a": 1}}, asked) == Found(("32",), ("m",), {"b": 2})
    assert nearest_of([16, 32], 24) == 16


def test_an_exact_key_that_holds_nothing_is_passed_over_only_for_an_equal_one() -> None:
    assert lookup({"16": {}, "17": {"a": 1}}, {"m": 16}) == Found(("16",), (), {})
    assert lookup({"016": {"a": 1}, "16": {}}, {"m": 16}) == Found(("016",), ("m",), {"a": 1})


@pytest.mark.parametrize(
    ("table", "level", "reason", "keys"),
    [
        (nested("5", "2", "16"), "num_slices", "a KeyError in the engine", ("5", "1")),
        ({**nested("4", "1"), "version": 3}, "max_loras", "'version' is not a number", ("version",)),
        ({"5": {"1": {"x": {}}}}, "m", "'x' is not a number", ("5", "1", "x")),
        ({"5": {"1": {}}}, "m", "there are no m keys", ("5", "1")),
        ({"5": {"1": 3}}, "m", "there are no m keys", ("5", "1")),
        ({"5": 3}, "num_slices", "there are no num_slices keys", ("5",)),
    ],
)
def test_where_it_crashes(table: dict[str, Any], level: str, reason: str, keys: tuple[str, ...]) -> None:
    found = lookup(table, ASKED)
    assert isinstance(found, Crash)
    assert (found.level, found.keys) == (level, keys)
    assert reason in found.reason


def test_an_odd_key_beside_an_exact_one_is_never_read() -> None:
    table = {**nested("5", "1", "16", "4096", "32"), "version": 3}
    assert isinstance(lookup(table, ASKED), Found)


KEYS_OF_M = st.lists(st.one_of(st.integers(-3, 60).map(str), st.sampled_from(("x", "07", " 9"))), unique=True)


@given(KEYS_OF_M, st.data())
def test_between_switch_points_every_number_takes_the_same_entry(keys: list[str], data: st.DataObject) -> None:
    level = {key: data.draw(st.sampled_from(({}, {"16": {"16": {"block_m": 1}}}))) for key in keys}
    points = switch_points(level, 50)
    assert points[0] == 1
    assert points[-1] <= 50
    for m in range(1, 51):
        start = max(point for point in points if point <= m)
        asked = {"max_loras": 4, "num_slices": 1, "m": m, "k": 16, "n": 16}
        table = {"4": {"1": level}}
        found, first = lookup(table, asked), lookup(table, {**asked, "m": start})
        assert (type(found), found.keys) == (type(first), first.keys)
