"""Pairs of token and expert sorted into blocks, and how experts are drawn, on the CPU."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from bo_tune.core.conditions import Conditions, Routing
from bo_tune.core.problem import Experts, LoraProblem
from bo_tune.kernels.moe.blocks import MoeBlocks, draw_experts, room
from bo_tune.kernels.operations import operation

CPU = torch.device("cpu")
PROBLEM = LoraProblem("fused_moe_lora_w13_shrink", 3, 2, 10, 16, 64, 32, experts=Experts(8, 2))


@st.composite
def routed(draw):
    experts = draw(st.integers(1, 6).flatmap(lambda count: st.tuples(st.just(count), st.integers(1, count))))
    adapters, tokens = draw(st.integers(1, 4)), draw(st.integers(1, 30))
    assignment = draw(st.lists(st.integers(-1, adapters - 1), min_size=tokens, max_size=tokens))
    seed = draw(st.integers(0, 99))
    chosen = draw_experts(tokens, Experts(*experts), torch.Generator().manual_seed(seed), CPU, Conditions())
    return Experts(*experts, local=draw(st.integers(1, experts[0]))), adapters, assignment, chosen


@settings(deadline=None)
@given(routed(), st.sampled_from([1, 4, 16]))
def test_blocks_hold_every_pair_once_under_its_adapter_and_expert(case, block_m):
    experts, adapters, assignment, chosen = case
    blocks = MoeBlocks.of(torch.tensor(assignment), chosen, adapters, experts, block_m)
    count = chosen.numel()
    assert blocks.pairs.shape == (adapters, room(count, experts.count, block_m))
    assert {t.dtype for t in (blocks.pairs, blocks.experts, blocks.padded)} == {torch.int32}
    seen = []
    for adapter in range(adapters):
        used = int(blocks.padded[adapter])
        assert used % block_m == 0
        assert (blocks.pairs[adapter, used:] == count).all()
        assert (blocks.experts[adapter, used // block_m :] == -1).all()
        for position, pair in enumerate(blocks.pairs[adapter, :used].tolist()):
            if pair == count:
                continue
            seen.append(pair)
            assert assignment[pair // experts.top_k] == adapter
            expert = int(chosen.flatten()[pair])
            assert int(blocks.experts[adapter, position // block_m]) == (expert if expert < experts.local else -1)
    assert sorted(seen) == [p for p in range(count) if assignment[p // experts.top_k] >= 0]


def test_every_token_visits_different_experts():
    chosen = draw_experts(200, Experts(16, 8), torch.Generator().manual_seed(0), CPU, Conditions())
    assert chosen.shape == (200, 8)
    assert all(len(set(row)) == 8 for row in chosen.tolist())
    assert chosen.flatten().bincount(minlength=16).min() > 60


def test_spread_follows_zipf_or_what_was_recorded():
    hits = (0, 100, 1, 1, 1, 0, 1, 1)
    for conditions in (Conditions(routing=Routing.ZIPF), Conditions(routing=Routing.RECORDED, hits=hits)):
        chosen = draw_experts(500, Experts(8, 2), torch.Generator().manual_seed(0), CPU, conditions)
        counts = chosen.flatten().bincount(minlength=8).tolist()
        if conditions.hits:
            assert counts[1] > 490
            assert [counts[0], counts[5]] == [0, 0]
        else:
            assert counts[0] > counts[1] > counts[3] > counts[7] > 0


def test_a_histogram_of_other_experts_is_refused():
    conditions = Conditions(routing=Routing.RECORDED, hits=(1, 2, 3))
    with pytest.raises(ValueError, match="hits of 8 experts"):
        draw_experts(5, Experts(8, 2), torch.Generator().manual_seed(0), CPU, conditions)


def test_drawn_inputs_have_the_shapes_of_the_products():
    shapes = {
        "fused_moe_lora_w13_shrink": ((10, 64), (3, 8, 16, 64), (2, 20, 16)),
        "fused_moe_lora_w13_expand": ((2, 20, 16), (3, 8, 32, 16), (20, 64)),
        "fused_moe_lora_w2_shrink": ((20, 32), (3, 8, 16, 32), (1, 20, 16)),
        "fused_moe_lora_w2_expand": ((1, 20, 16), (3, 8, 64, 16), (20, 64)),
    }
    for kernel, (x, weight, out) in shapes.items():
        slices = 2 if "w13" in kernel else 1
        problem = LoraProblem(kernel, 3, slices, 10, 16, 64, 32, experts=Experts(8, 2))
        inputs = operation(kernel).make_inputs(problem, seed=0, device=CPU)
        assert (inputs.x.shape, inputs.weights[0].shape, inputs.out.shape) == (x, weight, out)
        assert len(inputs.weights) == slices
        assert inputs.out.dtype == inputs.x.dtype == torch.bfloat16


def test_the_adapters_in_use_may_be_fewer_than_the_slots():
    op = operation(PROBLEM.kernel)
    inputs = op.make_inputs(PROBLEM, seed=0, device=CPU, conditions=Conditions(adapters=1))
    assert set(inputs.groups.assignment.tolist()) == {0}


def test_the_seed_decides_the_routing():
    op = operation(PROBLEM.kernel)
    one, same, other = (op.make_inputs(PROBLEM, seed=seed, device=CPU) for seed in (1, 1, 2))
    assert torch.equal(one.chosen, same.chosen)
    assert torch.equal(one.in_blocks(16).pairs, same.in_blocks(16).pairs)
    assert not torch.equal(one.chosen, other.chosen)


def test_bytes_of_inputs_grow_with_the_blocks():
    op = operation(PROBLEM.kernel)
    inputs = op.make_inputs(PROBLEM, seed=0, device=CPU)
    before = op.inputs_bytes(inputs)
    assert op.inputs_bytes(inputs) == before
    assert inputs.in_blocks(16).nbytes == op.inputs_bytes(inputs) - before > 0
