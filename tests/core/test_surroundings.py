"""A layer's two kernels, and what is no layer."""

import json

import pytest

from bo_tune.core.problem import LoraProblem
from bo_tune.core.surroundings import Linear

QKV = Linear(4096, (4096, 1024, 1024))
SHRINK = LoraProblem("lora_shrink", 4, 3, 16, 4096, 64)
EXPAND = LoraProblem("lora_expand", 4, 3, 16, 64, 4096, slice_sizes=(4096, 1024, 1024), add_inputs=True)


def test_a_layers_kernels_are_told_from_either() -> None:
    assert QKV.problems(SHRINK) == QKV.problems(EXPAND) == (SHRINK, EXPAND)
    assert QKV.beside(SHRINK) == EXPAND
    assert QKV.beside(EXPAND) == SHRINK


def test_on_two_streams_expand_stays_the_one_that_overwrites() -> None:
    overwrites = LoraProblem("lora_expand", 4, 1, 16, 64, 4096, add_inputs=False)
    linear = Linear(4096, (4096,), adds=False)
    shrink, expand = linear.problems(overwrites)
    assert expand == overwrites == linear.beside(shrink), "beside a shrink, too"
    assert shrink.n == 64
    assert not Linear(4096, (4096,)).holds(overwrites)


@pytest.mark.parametrize(
    "problem",
    [
        LoraProblem("lora_shrink", 4, 3, 16, 8192, 64),
        LoraProblem("lora_shrink", 4, 2, 16, 4096, 64),
        LoraProblem("lora_expand", 4, 3, 16, 64, 4096, slice_sizes=(4096, 4096, 4096), add_inputs=True),
        LoraProblem("fused_moe_lora_w2_shrink", 4, 1, 16, 64, 4096, 768),
    ],
)
def test_a_problem_of_another_layer_is_refused(problem: LoraProblem) -> None:
    with pytest.raises(ValueError, match="not a problem of Linear"):
        QKV.problems(problem)


def test_it_survives_json() -> None:
    assert Linear.from_json(json.loads(json.dumps(QKV.to_json()))) == QKV
    for stored in ({}, {"k": 0, "widths": [1]}, {"k": 1, "widths": ["wide"], "adds": True}, {"k": 1, "widths": None}):
        with pytest.raises(ValueError, match="linear"):
            Linear.from_json(stored)


def test_its_weights_are_counted() -> None:
    assert QKV.weight_bytes == 2 * 4096 * 6144
