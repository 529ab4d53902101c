"""What proposes configs: an Optuna sampler here, or in a search process; one and the same to a tuner."""

from collections.abc import Iterator
from datetime import datetime

import numpy as np
import pytest
from helpers import H100
from optuna.trial import FrozenTrial

from bo_tune.core.outcome import Invalid, InvalidReason, Measurement
from bo_tune.core.problem import LoraProblem
from bo_tune.core.space import Config, SearchSpace, config_key
from bo_tune.search import GridExhaustedError
from bo_tune.store.frozen import to_trial
from bo_tune.store.storage import silence_optuna
from bo_tune.tuning.proposer import InOrderProposer, Proposal, Proposer, SamplerProposer
from bo_tune.tuning.search_pool import Recipe, SearchPool

PROBLEM = LoraProblem("lora_shrink", 4, 1, 16, 4096, 16)
REST = {"block_n": 16, "block_k": 64, "num_warps": 4, "num_ctas": 1}
RANGES = {"block_m": (16, 32, 64), "num_stages": (2, 3), "split_k": (4, 8)} | {name: (n,) for name, n in REST.items()}
SPACE = SearchSpace.of(RANGES)
DEFAULT = {"block_m": 16, "num_stages": 2, "split_k": 8, **REST}
VALID = np.array([config["block_m"] < 64 for config in SPACE])


@pytest.fixture(scope="module")
def pool() -> Iterator[SearchPool]:
    silence_optuna()
    made = SearchPool(1)
    yield made
    made.close()


def cost(indices: np.ndarray) -> np.ndarray:
    return np.ones(len(indices))


@pytest.fixture(params=["grid-gp", "random", "elsewhere", "in order"])
def proposer(request: pytest.FixtureRequest, pool: SearchPool) -> Iterator[Proposer]:
    if request.param == "in order":
        yield InOrderProposer(config for config, valid in zip(SPACE, VALID, strict=True) if valid)
        return
    elsewhere = request.param == "elsewhere"
    sampler = "grid-gp" if elsewhere else request.param
    recipe = Recipe(sampler, RANGES, VALID, DEFAULT, PROBLEM, H100, None, seed=1)
    made: Proposer = pool.proposer(recipe, cost) if elsewhere else SamplerProposer(recipe.build(cost), RANGES)
    yield made
    made.close()


def trial(config: Config) -> FrozenTrial:
    outcome = (
        Invalid(InvalidReason.COMPILE_ERROR) if config["split_k"] == 4 else Measurement((10.0 + config["block_m"],))
    )
    return to_trial(config, outcome, start=datetime.now(), end=datetime.now())


def left(proposer: Proposer) -> list[Proposal]:
    """Have it propose all there is."""
    found = list[Proposal]()
    with pytest.raises(GridExhaustedError):
        _ask_on(proposer, found)
    return found


def _ask_on(proposer: Proposer, found: list[Proposal]) -> None:
    while True:
        found.append(proposer.propose())
        if len(found) % 2:  # others are under way meanwhile
            proposer.finish(found[-1], trial(found[-1].config))


def keys(found: list[Proposal]) -> set[object]:
    return {config_key(proposal.config) for proposal in found}


def test_each_candidate_is_proposed_once(proposer: Proposer) -> None:
    found = left(proposer)
    assert len(found) == len(keys(found)) == VALID.sum()
    assert keys(found) == {config_key(c) for c, valid in zip(SPACE, VALID, strict=True) if valid}
    assert [proposal.number for proposal in found] == list(range(len(found)))


def test_what_others_tried_is_not_proposed(proposer: Proposer) -> None:
    off_the_grid = {**DEFAULT, "block_m": 48}
    for config in (off_the_grid, DEFAULT):
        proposer.learn(trial(config))
    found = left(proposer)
    assert len(found) == VALID.sum() - 1
    assert config_key(DEFAULT) not in keys(found)
    assert found[0].number == 2


def test_a_config_may_be_named(proposer: Proposer) -> None:
    named = {**DEFAULT, "block_m": 32}
    assert proposer.propose(named).config == named
    found = left(proposer)
    assert len(found) == VALID.sum() - 1
    assert config_key(named) not in keys(found)


def test_what_was_forgotten_may_be_proposed_again_but_not_for_ever(proposer: Proposer) -> None:
    proposer.forget(proposer.propose(DEFAULT))
    second = proposer.propose(DEFAULT)
    assert second.config == DEFAULT
    proposer.forget(second)
    found = left(proposer)
    assert len(found) == VALID.sum() - 1
    assert config_key(DEFAULT) not in keys(found)


def test_an_exhaustive_search_goes_by_the_order_of_the_grid() -> None:
    configs = [config for config, valid in zip(SPACE, VALID, strict=True) if valid]
    assert [proposal.config for proposal in left(InOrderProposer(configs))] == configs


def test_a_model_says_how_sure_it_is(proposer: Proposer) -> None:
    before = proposer.certificate(0.01)
    found = left(proposer)
    for proposal in found[1::2]:
        proposer.finish(proposal, trial(proposal.config))
    after = proposer.certificate(0.01)
    if before is None:
        assert after is None, "neither a random search nor an exhaustive one has a model"
    else:
        assert before is not None
        assert after is not None
        assert (before.tried, before.exhausted) == (0, False)
        assert (after.tried, after.exhausted, after.probability) == (VALID.sum() / 2, True, 1.0)
