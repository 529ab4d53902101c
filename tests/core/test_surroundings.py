"""A layer's two kernels, and what is no layer."""

import json
from dataclasses import replace

import pytest

from bo_tune.core.problem import Experts, LoraProblem
from bo_tune.core.surroundings import Batch, Linear, Mixture, Weights, layer_from_json

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
    with pytest.raises(ValueError, match="expected a problem of Linear"):
        QKV.problems(problem)


def test_it_survives_json() -> None:
    assert Linear.from_json(json.loads(json.dumps(QKV.to_json()))) == QKV
    for stored in ({}, {"k": 0, "widths": [1]}, {"k": 1, "widths": ["wide"], "adds": True}, {"k": 1, "widths": None}):
        with pytest.raises(ValueError, match="linear"):
            Linear.from_json(stored)


def test_its_weights_are_counted() -> None:
    assert QKV.weight_bytes == 2 * 4096 * 6144
    assert replace(QKV, weights=Weights.FP8).weight_bytes == 4096 * 6144
    assert replace(QKV, weights=Weights.INT4).weight_bytes == 4096 * 6144 // 2


EXPERTS = Experts(128, 8)
GATED = Mixture(2048, 1536, 768, EXPERTS)


@pytest.mark.parametrize(
    ("mixture", "slices", "i"),
    [
        (GATED, 2, 768),
        (Mixture(2048, 768, 768, EXPERTS), 1, 768),
        (Mixture(2048, 1536, 768, Experts(128, 8, packed=True)), 1, 1536),
    ],
    ids=["gated", "without a gate", "packed"],
)
def test_experts_pose_the_problems_of_four_kernels(mixture: Mixture, slices: int, i: int) -> None:
    problems = mixture.kernels(Batch(4, 16, 64))
    names = [f"fused_moe_lora_{part}_{half}" for part in ("w13", "w2") for half in ("shrink", "expand")]
    assert [problem.kernel for problem in problems] == names
    assert {(p.num_slices, p.i) for p in problems if "w13" in p.kernel} == {(slices, i)}
    assert {(p.num_slices, p.i) for p in problems if "w2" in p.kernel} == {(1, 768)}
    assert all((p.k, p.n, p.experts) == (16, 2048, mixture.experts) and mixture.holds(p) for p in problems)
    assert not mixture.holds(SHRINK)
    assert not any(QKV.holds(problem) for problem in problems)
    assert mixture.weight_bytes == 2 * 128 * 2048 * (mixture.up + 768)
    assert {Mixture.of(problem) for problem in problems if "w13" in problem.kernel} == {mixture}
    for problem in (SHRINK, problems[-1]):
        with pytest.raises(ValueError, match="gate and up"):
            Mixture.of(problem)


@pytest.mark.parametrize("layer", [QKV, replace(QKV, weights=Weights.INT4), GATED])
def test_any_layer_survives_json(layer: Linear | Mixture) -> None:
    assert layer_from_json(json.loads(json.dumps(layer.to_json()))) == layer


@pytest.mark.parametrize(
    "stored",
    [
        {"hidden": 1},
        {"hidden": 8, "up": 3, "down": 2, "experts": {"count": 2, "top_k": 1}},
        {"hidden": 8, "up": 4, "down": 2, "experts": {"count": 2, "top_k": 3}},
        {"hidden": 8, "up": 4, "down": 2, "experts": None},
        {"k": 8, "widths": [8], "adds": True, "weights": "3-bit"},
    ],
)
def test_what_is_no_layer_is_refused(stored: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=r"expert|weights|Weights"):
        layer_from_json(stored)
