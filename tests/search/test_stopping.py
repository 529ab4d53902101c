"""The stop rule and its certificate."""

from collections.abc import Sequence

import numpy as np
import optuna
import pytest
from numpy.typing import NDArray

from bo_tune.core.conclusion import Certificate, StopRule
from bo_tune.search import FiniteGridSampler, certify, distributions
from bo_tune.search.grid import Params
from bo_tune.search.stopping import CAUTION, CAUTION_UNDESCRIBED, caution

GRID = {"x": tuple(range(12)), "y": tuple(range(12))}


def time_us(x: int, y: int) -> float:
    return float(10 * np.exp(0.02 * (x - 7) ** 2 + 0.03 * (y - 3) ** 2))


def step(study: optuna.Study) -> None:
    trial = study.ask(distributions(GRID))
    study.tell(trial, time_us(**trial.params))


def test_certainty_grows_until_the_study_stops_at_the_best() -> None:
    sampler = FiniteGridSampler(GRID)
    study = optuna.create_study(sampler=sampler)
    rule = StopRule()
    assert certify(sampler, study).probability == 0.0
    while not rule.done(certify(sampler, study)):
        step(study)
    certificate = certify(sampler, study)
    assert 8 <= certificate.tried <= 40
    assert certificate.probability >= 0.9
    assert study.best_value <= 1.01 * time_us(7, 3)
    assert certify(sampler, study) == certificate


def test_a_study_far_from_the_best_is_not_certified() -> None:
    sampler = FiniteGridSampler(GRID)
    study = optuna.create_study(sampler=sampler)
    for x in range(8):
        params = {"x": x, "y": 11}
        trial = optuna.create_trial(params=params, distributions=distributions(GRID), value=time_us(**params))
        study.add_trial(trial)
    assert certify(sampler, study).probability < 0.5


def test_exhausted_grids_are_certain() -> None:
    grid = {"x": (1, 2, 3)}
    sampler = FiniteGridSampler(grid)
    study = optuna.create_study(sampler=sampler)
    study.optimize(lambda trial: trial.suggest_int("x", 1, 3), n_trials=10)
    certificate = certify(sampler, study)
    assert certificate == Certificate(0.01, 1.0, 3, exhausted=True)
    assert StopRule().done(certificate)


@pytest.mark.parametrize(
    ("tried", "probability", "most", "done"),
    [(7, 0.99, None, False), (8, 0.95, None, True), (8, 0.85, None, False), (20, 0.1, 20, True), (19, 0.1, 20, False)],
)
def test_rule(tried: int, probability: float, most: int | None, done: bool) -> None:
    assert StopRule(most=most).done(Certificate(0.01, probability, tried)) is done


@pytest.mark.parametrize(
    ("tried", "taught", "most_taught", "done"),
    [(20, True, 20, True), (19, True, 20, False), (60, False, 20, False), (60, True, None, False)],
)
def test_taught_studies_have_a_limit_of_their_own(
    tried: int, taught: bool, most_taught: int | None, done: bool
) -> None:
    assert StopRule(most_taught=most_taught).done(Certificate(0.01, 0.5, tried, taught=taught)) is done


def test_certificate_for_people_and_for_the_database() -> None:
    certificate = Certificate(0.01, 0.93, 17)
    assert str(certificate) == "within 1 % of the grid's best with probability 0.93"
    assert certificate.to_json() == {"tolerance": 0.01, "probability": 0.93, "tried": 17, "exhausted": False}


def test_the_expected_loss_falls_as_the_best_is_found() -> None:
    sampler = FiniteGridSampler(GRID)
    study = optuna.create_study(sampler=sampler)
    losses = []
    for _ in range(30):
        step(study)
        loss = certify(sampler, study, with_loss=True).expected_loss
        assert loss is not None
        assert loss >= 0
        losses.append(loss)
    assert certify(sampler, study).expected_loss is None, "it is on no trial's path"
    assert study.best_value == time_us(7, 3)
    assert losses[-1] < 0.001
    assert losses[-1] < 0.1 * max(losses)


def test_less_is_claimed_where_nothing_describes_configs() -> None:
    def described(configs: Sequence[Params]) -> NDArray[np.float64]:
        return np.array([[float(config["x"]) ** 2] for config in configs])  # type: ignore[arg-type]

    def undescribed(configs: Sequence[Params]) -> NDArray[np.float64]:
        return np.zeros((len(configs), 0))

    widened = {}
    for features, is_generic in ((described, False), (described, True), (undescribed, False)):
        sampler = FiniteGridSampler(GRID, features=features, is_generic=is_generic)
        study = optuna.create_study(sampler=sampler)
        step(study)
        posterior, _ = sampler.model(study).posterior(sampler.log(study).observations, np.arange(144))
        widened[features, is_generic] = caution(posterior)
    assert widened == {
        (described, False): CAUTION,
        (described, True): CAUTION_UNDESCRIBED,
        (undescribed, False): CAUTION_UNDESCRIBED,
    }
    assert CAUTION < CAUTION_UNDESCRIBED
