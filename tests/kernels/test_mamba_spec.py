"""What is known of a Mamba-2 layer's decode step without torch and vLLM."""

import numpy as np
from helpers import H100
from hypothesis import given
from hypothesis import strategies as st

from bo_tune.core.problem import LoraProblem, problem_from_json
from bo_tune.kernels.mamba.spec import MambaSpec
from bo_tune.kernels.mamba.step import KERNEL, STATE_DTYPES, MambaStep
from bo_tune.kernels.registry import IN_ORDER, is_known, kernel_spec

SPEC = MambaSpec()
CONFIGS = list(SPEC.search_space)


@st.composite
def steps(draw: st.DrawFn) -> MambaStep:
    groups = draw(st.integers(1, 8))
    heads = groups * draw(st.integers(1, 64))
    sizes = draw(st.integers(1, 2048)), heads, draw(st.integers(1, 1024)), draw(st.integers(1, 512))
    return MambaStep(*sizes, groups, state_dtype=draw(st.sampled_from(STATE_DTYPES)))


@given(step=steps())
def test_any_step_is_described_by_numbers(step: MambaStep) -> None:
    features = SPEC.features(CONFIGS, step.problem, H100)
    assert features.shape == (len(CONFIGS), len(SPEC.feature_names))
    assert np.isfinite(features).all()


@given(step=steps())
def test_the_rule_is_on_the_grid(step: MambaStep) -> None:
    assert SPEC.default_config(step.problem) in CONFIGS
    assert SPEC.rivals(step.problem) == (SPEC.default_config(step.problem),)


@given(step=steps())
def test_no_block_is_twice_as_large_as_a_head(step: MambaStep) -> None:
    allowed = [config for config in CONFIGS if SPEC.allows(config, step.problem)]
    assert allowed
    assert all(config["BLOCK_SIZE_M"] < max(3, 2 * step.headdim) for config in allowed)
    left_out = [config for config in CONFIGS if config not in allowed]
    assert all(config["BLOCK_SIZE_M"] >= 2 * step.headdim or step.headdim == 1 for config in left_out) or (
        min(config["BLOCK_SIZE_M"] for config in left_out) > step.headdim
    )


@given(step=steps())
def test_a_problem_is_stored_and_read_again(step: MambaStep) -> None:
    stored = {"kernel": KERNEL, "sizes": [list(size) for size in step.problem.sizes]}
    assert MambaStep.of(problem_from_json(stored)) == step


def test_stored_trials_of_something_else_are_not_learned_from() -> None:
    problem, config = MambaStep(16, 8, 64, 128).problem, CONFIGS[0]
    assert SPEC.understands(config, problem)
    assert not SPEC.understands({**config, "num_stages": 1}, problem)
    assert not SPEC.understands(config, LoraProblem("lora_shrink", 1, 1, 1, 16, 16))


def test_it_is_known_by_its_name() -> None:
    assert is_known(KERNEL)
    assert KERNEL in IN_ORDER
    assert isinstance(kernel_spec(KERNEL), MambaSpec)
