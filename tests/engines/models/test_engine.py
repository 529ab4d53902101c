"""What an engine asks for: its sizes of steps and its ranks."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bo_tune.engines.models.engine import (
    CAPTURE_SIZES,
    LORA_RANKS,
    M_LADDER,
    MAX_BATCHED_TOKENS,
    is_sampled,
    serving_rank,
    step_sizes,
)


def test_captured_sizes_are_vllms() -> None:
    assert CAPTURE_SIZES[:6] == (1, 2, 4, 8, 16, 24)
    assert CAPTURE_SIZES[-3:] == (480, 496, 512)
    assert {248, 256, 272} <= set(CAPTURE_SIZES)
    assert {3, 12, 264} & set(CAPTURE_SIZES) == set()


@given(st.integers(1, 20000))
def test_steps_end_at_the_most_tokens(largest: int) -> None:
    sizes = step_sizes(largest)
    assert list(sizes) == sorted(set(sizes))
    assert sizes[-1] == largest


def test_the_ladder_is_of_sizes_that_are_sampled() -> None:
    assert all(is_sampled(m) for m in M_LADDER)
    assert M_LADDER[-1] == MAX_BATCHED_TOKENS


@pytest.mark.parametrize(("rank", "served"), [(1, 1), (2, 8), (8, 8), (24, 32), (257, 320), (512, 512), (513, None)])
def test_the_rank_that_serves_an_adapter(rank: int, served: int | None) -> None:
    assert serving_rank(rank) == served
    assert served is None or served in LORA_RANKS
