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
    token_ladder,
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


def test_the_ladder_of_one_engine() -> None:
    assert token_ladder() == M_LADDER
    assert token_ladder(2048) == M_LADDER[: M_LADDER.index(2048) + 1]
    assert token_ladder(3000)[-2:] == (2048, 3000)
    assert token_ladder(draft_tokens=2)[:11] == (3, 6, 9, 18, 33, 66, 129, 258, 510, 1024, 2048)


@given(st.integers(1, 20000), st.integers(0, 1000))
def test_an_engine_that_speculates_has_whole_sequences_in_its_graphs(largest: int, draft_tokens: int) -> None:
    ladder = token_ladder(largest, draft_tokens)
    assert list(ladder) == sorted(set(ladder))
    assert ladder[-1] == largest
    assert all(m % (1 + draft_tokens) == 0 for m in ladder[:-1] if m <= CAPTURE_SIZES[-1])


@pytest.mark.parametrize(("rank", "served"), [(1, 1), (2, 8), (8, 8), (24, 32), (257, 320), (512, 512), (513, None)])
def test_the_rank_that_serves_an_adapter(rank: int, served: int | None) -> None:
    assert serving_rank(rank) == served
    assert served is None or served in LORA_RANKS
