"""Configs of the fused MoE kernels as their engine reads them."""

from dataclasses import replace

from bo_tune.agreement import as_read, disagreements
from bo_tune.kernels.registry import KERNELS, kernel_spec
from bo_tune.problem import Experts, Problem

MOE = [name for name in KERNELS if "moe" in name]
PROBLEMS = [Problem(name, 4, 2 if "w13" in name else 1, 16, 16, 2048, 768, experts=Experts(128, 8)) for name in MOE]


def test_names_in_capitals_and_missing_ones_are_filled_in() -> None:
    spec = kernel_spec(MOE[0])
    short = {"BLOCK_SIZE_M": 16, "NUM_WARPS": 8, "block_k": None}
    assert as_read(spec, short) == {
        "block_m": 16, "block_n": 64, "block_k": 32, "group_size_m": 8, "num_warps": 8, "num_stages": 3, "split_k": 1,
    }  # fmt: skip
    default = spec.default_config(PROBLEMS[0])
    assert as_read(spec, default) == default


def test_the_first_kernel_decides() -> None:
    found = {problem: {"block_m": 16} for problem in PROBLEMS}
    assert disagreements(found) == {}
    found[PROBLEMS[0]] = {"block_m": 32}
    assert set(disagreements(found)) == set(PROBLEMS[1:])
    other = [replace(problem, m=64) for problem in PROBLEMS[:2]]
    assert not set(other) & set(disagreements({**found, **{problem: {"block_m": 64} for problem in other}}))


def test_kernels_that_stand_alone_are_passed_over() -> None:
    dense = [Problem("lora_shrink", 4, 1, m, 4096, 16) for m in (1, 2)]
    assert disagreements({problem: {"block_m": 16 * problem.m} for problem in dense}) == {}
