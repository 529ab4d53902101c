"""The kernels under Triton's interpreter. Run by ``test_interpreted.py`` in a process of its own.

Triton decides on its interpreter when a kernel is defined, so TRITON_INTERPRET must be set before anything of the
package is imported. float16 only: the interpreter multiplies bfloat16 wrongly.
"""

import os

import pytest

if os.environ.get("TRITON_INTERPRET") != "1":
    pytest.skip("runs in a process with TRITON_INTERPRET=1", allow_module_level=True)

from hypothesis import HealthCheck, given, settings
from lora_cases import assemble, check, launches

from bo_tune.core.problem import LoraProblem

CONFIG = {"block_m": 16, "block_n": 32, "block_k": 16, "num_warps": 4, "num_stages": 2, "num_ctas": 1}


def shrink(**changes):
    values = {"max_loras": 3, "num_slices": 1, "m": 20, "k": 100, "n": 24, "dtype": "float16", **changes}
    return LoraProblem("lora_shrink", **values)


def expand(**changes):
    values = {"max_loras": 3, "num_slices": 1, "m": 20, "k": 24, "n": 100, "dtype": "float16", **changes}
    return LoraProblem("lora_expand", **values)


def adapters(problem):
    return [(5 * token // 3) % (problem.max_loras + 1) - 1 for token in range(problem.m)]


@pytest.mark.parametrize(
    ("split_k", "num_slices", "k"), [(1, 1, 128), (1, 3, 100), (2, 3, 128), (2, 1, 100), (8, 1, 128), (8, 3, 100)]
)
def test_shrink_sums_the_shares_of_k(split_k, num_slices, k):
    problem = shrink(k=k, num_slices=num_slices)
    check(assemble(problem, adapters(problem)), {**CONFIG, "split_k": split_k})


@pytest.mark.parametrize("add_inputs", [True, False])
@pytest.mark.parametrize(("k", "slice_sizes"), [(24, (100,)), (32, (64, 64)), (24, (100, 33, 33))])
def test_expand_writes_each_slice_in_its_place(add_inputs, slice_sizes, k):
    sizes = {"num_slices": len(slice_sizes), "n": max(slice_sizes), "slice_sizes": slice_sizes}
    problem = expand(k=k, add_inputs=add_inputs, **sizes)
    check(assemble(problem, adapters(problem)), CONFIG)


@pytest.mark.parametrize("make", [shrink, expand])
@pytest.mark.parametrize(
    ("assignment", "empty"),
    [
        ([0], ()),
        ([2], (0, 1)),
        ([-1], ()),
        ([-1] * 10 + [1] * 10, ()),
        ([1] * 20, (0, 2)),
    ],
    ids=["one token", "groups without tokens", "no adapter at all", "half without", "one adapter"],
)
def test_unused_groups_and_tokens_without_adapter_are_left_alone(make, assignment, empty):
    problem = make(m=len(assignment))
    check(assemble(problem, assignment, empty=empty), {**CONFIG, "split_k": 2} if make is shrink else CONFIG)


SMALL = {"dtypes": ("float16",), "most_tokens": 24, "most_k": 96, "most_n": 48, "most_block": 32}


@settings(max_examples=20, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(launches("lora_shrink", **SMALL))
def test_any_shrink_matches_the_reference(case):
    problem, config, assignment, empty = case
    check(assemble(problem, assignment, empty=empty), config)


@settings(max_examples=20, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(launches("lora_expand", **SMALL))
def test_any_expand_matches_the_reference(case):
    problem, config, assignment, empty = case
    check(assemble(problem, assignment, empty=empty), config)
