"""What is known of chunked LoRA products without torch and SGLang."""

from itertools import product

import numpy as np
import pytest
from csgmv_cases import steps
from helpers import H100
from hypothesis import given
from hypothesis import strategies as st

from bo_tune.core.problem import GpuInfo, LoraProblem, SizedProblem, problem_from_json
from bo_tune.kernels.csgmv.spec import CSGMV_SPECS, NO_LIMIT
from bo_tune.kernels.csgmv.step import CHUNK_SIZES, EXPAND, SHRINK, CsgmvStep, chunk_of
from bo_tune.kernels.registry import IN_ORDER, is_known, kernel_spec

SPECS = {spec.name: spec for spec in CSGMV_SPECS}
MI300X = GpuInfo("AMD Instinct MI300X", (9, 4), 304, 65536, backend="hip", architecture="gfx942")
ANY = steps(dtypes=("bfloat16",), most_tokens=9000, most_size=30_000)


@given(step=ANY)
def test_any_step_is_described_by_numbers(step: CsgmvStep) -> None:
    spec = SPECS[step.kernel]
    some = list(spec.search_space)[::13]
    features = spec.features(some, step.problem, H100)
    assert features.shape == (len(some), len(spec.feature_names))
    assert np.isfinite(features).all()
    assert len(set(spec.feature_names)) == len(spec.feature_names)


@given(step=ANY)
def test_the_rule_is_on_the_grid_and_runs(step: CsgmvStep) -> None:
    spec = SPECS[step.kernel]
    default = spec.default_config(step.problem)
    assert default in list(spec.search_space)
    assert spec.impossible(default, step.problem, H100) is None
    assert spec.impossible({**default, "BLOCK_N": 2**20}, step.problem, MI300X) is None, "the binary alone says"


@given(step=ANY)
def test_a_problem_is_stored_and_read_again(step: CsgmvStep) -> None:
    stored = {"kernel": step.kernel, "sizes": [list(size) for size in step.problem.sizes]}
    found = CsgmvStep.of(problem_from_json(stored))
    assert found == (step if step.kernel == SHRINK else found)
    assert found.problem == step.problem


def test_the_grid_holds_all_that_sglangs_own_tuner_tries() -> None:
    tried = {
        SHRINK: {"BLOCK_N": (16, 32, 64), "BLOCK_K": (64, 128, 256), "num_warps": (4, 8), "num_stages": (2, 3, 4)},
        EXPAND: {
            "BLOCK_N": (32, 64), "BLOCK_K": (16, 32), "num_warps": (4, 8), "num_stages": (1, 2, 3),
            "maxnreg": (NO_LIMIT, 96, 112, 128, 160),
        },
    }  # fmt: skip
    counts = {kernel: len(list(product(*ranges.values()))) for kernel, ranges in tried.items()}
    assert counts == {SHRINK: 54, EXPAND: 120}
    for kernel, ranges in tried.items():
        space = SPECS[kernel].search_space
        assert all(set(values) <= set(space.ranges[name]) for name, values in ranges.items())
        assert space.names == tuple(ranges)


@given(tokens=st.integers(1, 20_000), most=st.sampled_from(CHUNK_SIZES))
def test_steps_are_cut_into_chunks_as_sglang_does(tokens: int, most: int) -> None:
    if most <= 16:
        expected = 16
    elif tokens >= 256:
        expected = min(most, 128)
    else:
        expected = min(most, 32 if tokens >= 64 else 16)
    assert chunk_of(tokens, most) == expected


@pytest.mark.parametrize(
    ("kernel", "changes", "reason"),
    [
        (SHRINK, {"chunk": 24}, "chunk: expected one of 16, 32, 64, 128, got 24"),
        (SHRINK, {"k": 0}, "k: expected an integer from 1"),
        (SHRINK, {"slices": 99}, "slices: expected at most 16"),
        (EXPAND, {"widths": "64-x"}, "expected a problem of csgmv_shrink or csgmv_expand"),
        (EXPAND, {"dtype": "float32"}, "dtype: expected one of"),
    ],
)
def test_what_is_no_problem_of_theirs_is_refused(kernel: str, changes: dict[str, object], reason: str) -> None:
    step = CsgmvStep(kernel, 16, 16, 4, 16, 64, 2, (32, 32) if kernel == EXPAND else ())
    wrong = {**dict(step.problem.sizes), **changes}
    with pytest.raises(ValueError, match=reason):
        CsgmvStep.of(SizedProblem(kernel, tuple(wrong.items())))


def test_stored_trials_of_something_else_are_not_learned_from() -> None:
    for kernel, spec in SPECS.items():
        step = CsgmvStep(kernel, 16, 16, 4, 16, 64, 1, (64,) if kernel == EXPAND else ())
        config = spec.default_config(step.problem)
        assert spec.understands(config, step.problem)
        assert not spec.understands({**config, "SPLIT_K": 1}, step.problem)
        assert not spec.understands(config, LoraProblem("lora_shrink", 1, 1, 1, 16, 16))


def test_they_are_known_by_their_names() -> None:
    for kernel, spec in SPECS.items():
        assert is_known(kernel)
        assert kernel in IN_ORDER
        assert kernel_spec(kernel) is spec
