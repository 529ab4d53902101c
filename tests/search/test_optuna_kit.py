"""Optuna's own tests of samplers, those that apply to a sampler of one given grid."""

from collections.abc import Callable

import pytest
from optuna.samplers import BaseSampler
from optuna.testing.pytest_samplers import BasicSamplerTestCase, SingleOnlySamplerTestCase

from bo_tune.core.choices import SAMPLERS
from bo_tune.search import make_sampler

GRID = {"a": tuple(range(20)), "b": ("x", "y", "z")}


class TestBasics(BasicSamplerTestCase):
    """Parameters beside the grid are drawn from their distributions."""

    @pytest.fixture(params=["grid-gp", "coordinate"])
    def sampler(self, request: pytest.FixtureRequest) -> Callable[[], BaseSampler]:
        return lambda: make_sampler(request.param, GRID)


class TestSingleObjective(SingleOnlySamplerTestCase):
    """Only one objective at a time."""

    @pytest.fixture(params=SAMPLERS)
    def sampler(self, request: pytest.FixtureRequest) -> Callable[[], BaseSampler]:
        return lambda: make_sampler(request.param, GRID)
