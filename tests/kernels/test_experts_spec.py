"""What is known of the base model's experts without torch and vLLM."""

import re
from typing import Any

import numpy as np
import pytest
from helpers import H100
from hypothesis import given
from hypothesis import strategies as st

from bo_tune.core.problem import Experts, GpuInfo, LoraProblem, SizedProblem, problem_from_json
from bo_tune.kernels.experts.spec import ExpertsSpec
from bo_tune.kernels.experts.step import FP8, KERNEL, WEIGHTS, ExpertsStep
from bo_tune.kernels.registry import IN_ORDER, is_known, kernel_spec

SPEC = ExpertsSpec()
CONFIGS = list(SPEC.search_space)
MI300X = GpuInfo("AMD Instinct MI300X", (9, 4), 304, 65536, backend="hip", architecture="gfx942")


@st.composite
def steps(draw: st.DrawFn) -> ExpertsStep:
    count = draw(st.integers(1, 512))
    experts = Experts(count, draw(st.integers(1, min(count, 16))), draw(st.integers(1, count)))
    sizes = [draw(st.integers(1, 20_000)) for _ in range(3)]
    weights = draw(st.sampled_from(["", *WEIGHTS]))
    held: dict[str, Any] = {"weights": weights}
    if weights == FP8:
        held["block"] = draw(st.sampled_from([None, (128, 128), (32, 32)]))
    elif weights:
        held |= {"block": (0, draw(st.sampled_from([32, 64, 128]))), "zeros": draw(st.booleans())}
    return ExpertsStep(sizes[0], experts, *sizes[1:], gated=draw(st.booleans()), **held)


@given(step=steps())
def test_any_step_is_described_by_numbers(step: ExpertsStep) -> None:
    some = CONFIGS[::97]
    features = SPEC.features(some, step.problem, H100)
    assert features.shape == (len(some), len(SPEC.feature_names))
    assert np.isfinite(features).all()
    assert len(set(SPEC.feature_names)) == len(SPEC.feature_names)


@given(step=steps())
def test_thousands_are_sifted_as_one_by_one(step: ExpertsStep) -> None:
    some = CONFIGS[::41]
    alone = [SPEC.impossible(config, step.problem, H100) is None for config in some]
    assert SPEC.runnable(some, step.problem, H100).tolist() == alone
    assert SPEC.runnable(some, step.problem, MI300X).all(), "elsewhere the binary alone says"


@given(step=steps())
def test_the_default_is_on_the_grid_and_runs(step: ExpertsStep) -> None:
    default = SPEC.default_config(step.problem)
    assert step.weights or default in CONFIGS, "with fewer bits tiles may be of other sizes"
    assert SPEC.impossible(default, step.problem, H100) is None
    assert SPEC.hopeless(default) is None


@given(step=steps())
def test_a_problem_is_stored_and_read_again(step: ExpertsStep) -> None:
    stored = {"kernel": KERNEL, "sizes": [list(size) for size in step.problem.sizes]}
    assert ExpertsStep.of(problem_from_json(stored)) == step


@pytest.mark.parametrize(
    ("held", "reason"),
    [
        ({"weights": "fp4"}, "weights: expected one of fp8_w8a8, int8_w8a16, int4_w4a16, got 'fp4'"),
        ({"block": (128, 128)}, "block: expected none for 16-bit weights"),
        ({"weights": FP8, "block": (0, 128)}, "block_n: expected an integer from 1"),
        ({"weights": "int4_w4a16"}, "block: expected 0 and the size of a group for int4_w4a16, got None"),
        ({"weights": "int8_w8a16", "block": (64, 64)}, "block: expected 0 and the size of a group"),
        ({"zeros": True}, "zeros: expected true or false, and true only for integer weights"),
    ],
)
def test_weights_that_no_engine_holds_are_refused(held: dict[str, Any], reason: str) -> None:
    with pytest.raises(ValueError, match=re.escape(reason)):
        ExpertsStep(16, Experts(8, 2), 64, 32, **held)


def test_a_problem_of_16_bits_is_named_as_before_there_were_others() -> None:
    assert ExpertsStep(16, Experts(8, 2), 64, 32).problem.label == (
        "m=16.E=8.N=32.hidden=64.top_k=2.experts=8.gated=True.dtype=bfloat16"
    )


def test_stored_trials_of_something_else_are_not_learned_from() -> None:
    problem, config = ExpertsStep(16, Experts(8, 2), 64, 32).problem, CONFIGS[0]
    assert SPEC.understands(config, problem)
    assert not SPEC.understands({**config, "SPLIT_K": 1}, problem)
    assert not SPEC.understands(config, SizedProblem(KERNEL, (("m", 16), ("E", 8))))
    assert not SPEC.understands(config, LoraProblem("lora_shrink", 1, 1, 1, 16, 16))
    wrong = {**dict(problem.sizes), "E": "many"}
    assert not SPEC.understands(config, SizedProblem(KERNEL, tuple(wrong.items())))


def test_it_is_known_by_its_name() -> None:
    assert is_known(KERNEL)
    assert KERNEL in IN_ORDER
    assert isinstance(kernel_spec(KERNEL), ExpertsSpec)
