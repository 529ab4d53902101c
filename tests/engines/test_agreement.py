"""Configs of the fused MoE kernels as their engine reads them."""

from dataclasses import replace

import pytest

from bo_tune.core.problem import Experts, LoraProblem
from bo_tune.engines.vllm.agreement import disagreements, runs_at_once
from bo_tune.kernels.moe.untuned import USUAL, as_read
from bo_tune.kernels.registry import KERNELS

MOE = [name for name in KERNELS if "moe" in name]
PROBLEMS = [LoraProblem(name, 4, 2 if "w13" in name else 1, 16, 16, 2048, 768, experts=Experts(128, 8)) for name in MOE]


def test_names_in_capitals_and_missing_ones_are_filled_in() -> None:
    assert as_read({}) == USUAL
    assert as_read({"BLOCK_SIZE_M": 16, "NUM_WARPS": 8, "num_stages": 2}) == {
        **USUAL, "block_m": 16, "num_warps": 8, "num_stages": 2,
    }  # fmt: skip


def test_names_that_the_engine_passes_over() -> None:
    assert as_read({"BLOCK_M": 16, "Block_m": 16, "max_nreg": None, "USE_TMA": True}) == USUAL


def test_of_two_spellings_the_last_counts_and_null_is_passed_on() -> None:
    assert as_read({"block_m": 16, "BLOCK_SIZE_M": 32})["block_m"] == 32
    assert as_read({"BLOCK_SIZE_M": 32, "block_m": 16})["block_m"] == 16
    assert as_read({"block_k": None})["block_k"] is None


@pytest.mark.parametrize(
    ("rank", "shards", "at_once"), [(16, 1, True), (128, 1, True), (256, 1, False), (16, 2, False)]
)
def test_one_launch_up_to_rank_128_unless_fully_sharded(rank: int, shards: int, at_once: bool) -> None:
    experts = Experts(128, 8, shards=shards)
    for problem in PROBLEMS:
        k = rank // shards if "w13" in problem.kernel else rank
        assert runs_at_once(replace(problem, k=k, experts=experts)) is at_once
    assert not runs_at_once(LoraProblem("lora_shrink", 4, 1, 16, 4096, 16))


def test_the_first_kernel_decides() -> None:
    found = dict.fromkeys(PROBLEMS, 16)
    assert disagreements(found) == {}
    found[PROBLEMS[0]] = 32
    wrong = disagreements(found)
    assert set(wrong) == set(PROBLEMS[1:])
    assert {(one.value, one.first, one.expected) for one in wrong.values()} == {(16, MOE[0], 32)}
    assert [wrong[problem].consequence.split()[0] for problem in PROBLEMS[1:]] == ["an", "tokens", "one"]
    other = [replace(problem, m=64) for problem in PROBLEMS[:2]]
    assert not set(other) & set(disagreements({**found, **dict.fromkeys(other, 64)}))


def test_kernels_that_stand_alone_are_passed_over() -> None:
    dense = [LoraProblem("lora_shrink", 4, 1, m, 4096, 16) for m in (1, 2)]
    assert disagreements({problem: 16 * problem.m for problem in dense}) == {}
