"""Token groups and drawn inputs, on the CPU."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from bo_tune.core.problem import LoraProblem
from bo_tune.kernels.call import int_specialisation
from bo_tune.kernels.lora.tokens import TokenGroups
from bo_tune.kernels.operations import operation

CPU = torch.device("cpu")


@settings(deadline=None)
@given(st.integers(1, 5).flatmap(lambda loras: st.tuples(st.just(loras), st.lists(st.integers(-1, loras - 1)))))
def test_groups_hold_every_token_once_under_its_adapter(case):
    max_loras, assignment = case
    groups = TokenGroups.of(torch.tensor(assignment, dtype=torch.int64), max_loras)
    assert [len(t) for t in groups.arguments] == [len(assignment), max_loras + 1, max_loras + 2, max_loras + 1]
    assert all(t.dtype == torch.int32 for t in (*groups.arguments, groups.assignment))
    seen = []
    for group in range(max_loras + 1):
        start, rows = int(groups.starts[group]), int(groups.rows[group])
        tokens = groups.tokens[start : start + rows].tolist()
        assert all(assignment[token] == groups.adapters[group] for token in tokens)
        seen += tokens
    assert sorted(seen) == list(range(len(assignment)))


def test_adapters_without_tokens_can_be_listed():
    groups = TokenGroups.of(torch.tensor([1, -1, 1]), 3, empty=[0])
    assert groups.adapters.tolist() == [-1, 0, 1, -1]
    assert groups.rows.tolist() == [1, 0, 2, 0]
    assert groups.starts.tolist() == [0, 1, 1, 3, 3]


def test_an_adapter_beyond_the_slots_is_refused():
    with pytest.raises(ValueError, match="adapters: expected numbers from -1 to 1"):
        TokenGroups.of(torch.tensor([2]), 2)


def test_drawn_inputs_have_the_shapes_of_the_problem():
    shrink = operation("lora_shrink").make_inputs(LoraProblem("lora_shrink", 3, 2, 10, 48, 8), seed=0, device=CPU)
    assert shrink.x.shape == (10, 48)
    assert [w.shape for w in shrink.weights] == [(3, 1, 8, 48)] * 2
    assert shrink.out.shape == (2, 10, 8)
    assert shrink.x.dtype == torch.bfloat16
    assert shrink.out.dtype == torch.float32
    problem = LoraProblem("lora_expand", 3, 2, 10, 8, 48, slice_sizes=(48, 16), dtype="float16")
    expand = operation("lora_expand").make_inputs(problem, seed=0, device=CPU)
    assert expand.x.shape == (2, 10, 8)
    assert [w.shape for w in expand.weights] == [(3, 1, 48, 8), (3, 1, 16, 8)]
    assert expand.out.shape == (10, 64)
    assert expand.x.dtype == torch.float32
    assert expand.out.dtype == torch.float16
    assert int(expand.groups.assignment.min()) >= 0


@pytest.mark.parametrize("kernel", ["lora_shrink", "lora_expand"])
def test_the_seed_decides_the_inputs(kernel):
    op, problem = operation(kernel), LoraProblem(kernel, 3, 2, 10, 48, 16)
    one, same, other = (op.make_inputs(problem, seed=seed, device=CPU) for seed in (1, 1, 2))
    assert torch.equal(one.x, same.x)
    assert torch.equal(one.groups.tokens, same.groups.tokens)
    assert not torch.equal(one.x, other.x)


def test_bytes_of_inputs_count_every_tensor():
    op, problem = operation("lora_expand"), LoraProblem("lora_expand", 2, 1, 16, 32, 64)
    activations, weights, outputs = 16 * 32 * 4, 2 * 64 * 32 * 2, 2 * 16 * 64 * 2
    groups = 4 * (2 * 16 + 3 + 4 + 3)
    assert op.inputs_bytes(op.make_inputs(problem, seed=0, device=CPU)) == activations + weights + outputs + groups


def test_poison_marks_what_a_launch_overwrites():
    op = operation("lora_expand")
    problem = LoraProblem("lora_expand", 2, 1, 4, 16, 16, add_inputs=False)
    groups = TokenGroups.of(torch.tensor([0, -1, 1, 1]), 2)
    inputs = op.assemble(problem, groups, torch.Generator().manual_seed(0), CPU)
    op.poison(inputs)
    assert inputs.out.isnan().any(dim=1).tolist() == [True, False, True, True]
    op.reset(inputs)
    assert torch.equal(inputs.out, inputs.initial)


@pytest.mark.parametrize(("value", "kind"), [(1, "1"), (16, "i32 by 16"), (8, "i32"), (2**31, "i64 by 16")])
def test_integers_are_specialised_as_triton_does(value, kind):
    assert int_specialisation(value) == kind
