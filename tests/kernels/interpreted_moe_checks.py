"""The fused MoE kernels under Triton's interpreter. Run by ``test_interpreted.py`` as its siblings are."""

import os

import pytest

if os.environ.get("TRITON_INTERPRET") != "1":
    pytest.skip("runs in a process with TRITON_INTERPRET=1", allow_module_level=True)

from hypothesis import HealthCheck, given, settings
from moe_cases import KERNELS, assemble, check, launches, moe_problem

from bo_tune.core.problem import Experts
from bo_tune.kernels.moe.blocks import MoeBlocks
from bo_tune.kernels.moe.sorting import sort_into

CONFIG = {"block_m": 16, "block_n": 32, "block_k": 16, "group_size_m": 8, "num_warps": 4, "num_stages": 2}
each_kernel = pytest.mark.parametrize("kernel", KERNELS)


def adapters(problem):
    return [(5 * token // 3) % (problem.max_loras + 1) - 1 for token in range(problem.m)]


@each_kernel
@pytest.mark.parametrize(
    ("sizes", "block_m"), [({}, 16), ({"k": 16, "n": 64, "i": 32}, 32)], ids=["ragged", "even, larger blocks"]
)
def test_each_kernel_is_right(kernel, sizes, block_m):
    problem = moe_problem(kernel, **sizes)
    check(assemble(problem, adapters(problem)), {**CONFIG, "block_m": block_m})


@pytest.mark.parametrize("kernel", [name for name in KERNELS if "shrink" in name])
def test_shrink_joins_the_shares_of_k(kernel):
    problem = moe_problem(kernel)
    check(assemble(problem, adapters(problem)), {**CONFIG, "split_k": 4})


@each_kernel
@pytest.mark.parametrize(
    ("assignment", "chosen"),
    [
        ([0], [[5, 0]]),
        ([-1], [[1, 2]]),
        ([1] * 20, [[0, 1]] * 20),
        ([0, 1, 2, -1] * 5, [[token % 6, (token + 1) % 6] for token in range(20)]),
    ],
    ids=["one token", "no adapter", "one adapter, two experts", "all mixed"],
)
def test_any_grouping_is_right(kernel, assignment, chosen):
    check(assemble(moe_problem(kernel, m=len(assignment)), assignment, chosen), CONFIG)


@each_kernel
def test_experts_of_other_ranks_are_left_alone(kernel):
    problem = moe_problem(kernel, experts=Experts(6, 3, local=2))
    check(assemble(problem, adapters(problem)), CONFIG)


@each_kernel
def test_shares_of_a_rank_are_multiplied_whole(kernel):
    problem = moe_problem(kernel, k=8 if "w13" in kernel else 16, experts=Experts(6, 2, shards=2))
    check(assemble(problem, adapters(problem)), CONFIG)


SMALL = {"dtypes": ("float16",), "most_tokens": 20, "most_k": 40, "most_n": 48, "most_block": 32}


@settings(max_examples=15, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(launches(**SMALL))
def test_any_launch_matches_the_reference(case):
    problem, config, assignment = case
    check(assemble(problem, assignment), config)


@pytest.mark.parametrize("block_m", [16, 128])
@pytest.mark.parametrize("experts", [Experts(6, 3), Experts(6, 3, local=2)])
def test_tokens_are_sorted_into_the_blocks_that_kernels_read(experts, block_m):
    problem = moe_problem(KERNELS[0], m=700, experts=experts)
    inputs = assemble(problem, adapters(problem))
    right = inputs.in_blocks(block_m)
    found = MoeBlocks(*(part.clone().fill_(7) for part in (right.pairs, right.experts, right.padded)))
    sort_into(found, inputs, block_m)
    assert found.padded.equal(right.padded)
    assert found.experts.equal(right.experts)

    def held(blocks, adapter, block):
        return blocks.pairs[adapter, block * block_m : (block + 1) * block_m].tolist()

    # An expert's pairs may stand in any order, across its blocks.
    for adapter in range(problem.max_loras):
        assert found.pairs[adapter].sort().values.equal(right.pairs[adapter].sort().values)
        for expert in range(experts.local):
            own = (right.experts[adapter] == expert).nonzero().flatten().tolist()
            pairs = [
                sorted(pair for block in own for pair in held(blocks, adapter, block)) for blocks in (found, right)
            ]
            assert pairs[0] == pairs[1]
