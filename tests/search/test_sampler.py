"""What the project's own sampler learns from a study."""

from collections.abc import Sequence
from math import log2

import numpy as np
import optuna
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from optuna.trial import TrialState

from bo_tune.search import FiniteGridSampler, HistoryPrior, StudyHistory, distributions
from bo_tune.search.grid import Grid, Params
from bo_tune.search.study_log import noise_variance

GRID = {"m": (16, 32, 64, 128, 256), "n": (32, 64, 128, 256), "k": (32, 64, 128, 256), "w": (4, 8), "s": (2, 3, 4, 5)}


def time_us(config: Params, *, best_m: float = 6.0) -> float:
    m, n, k, w, s = (float(config[name]) for name in GRID)  # type: ignore[arg-type]
    far = (
        (log2(m) - best_m) ** 2 / 2 + abs(log2(n) - 6) / 2 + abs(log2(k) - log2(m)) / 4 + (w != 4) / 8 + abs(s - 4) / 20
    )
    return 10.0 * float(np.exp(far / 2))


def features(configs: Sequence[Params]) -> np.ndarray:
    return np.array([[log2(float(c["m"]) * float(c["n"]) / float(c["w"])), log2(float(c["s"]))] for c in configs])  # type: ignore[arg-type]


def run(sampler: FiniteGridSampler, trials: int, *, best_m: float = 6.0) -> optuna.Study:
    study = optuna.create_study(sampler=sampler)
    for _ in range(trials):
        trial = study.ask(distributions(GRID))
        study.tell(trial, time_us(trial.params, best_m=best_m))
    return study


def history(best_m: float, sign: float = 1.0) -> StudyHistory:
    configs = [
        dict(zip(GRID, (16 << i % 5, 32 << i // 5 % 4, 32 << i % 4, 4, 2 + i % 4), strict=True)) for i in range(40)
    ]
    times = np.array([time_us(config, best_m=best_m) ** sign for config in configs])
    return StudyHistory(features(configs), times, configs)


@pytest.mark.parametrize("seed", range(3))
def test_finds_the_best_of_640_configs_in_30_trials(seed: int) -> None:
    study = run(FiniteGridSampler(GRID, seed=seed), 30)
    assert study.best_value <= 1.05 * 10.0


def test_other_studies_help_at_once() -> None:
    prior = HistoryPrior([history(5.0), history(6.5)])
    taught = run(FiniteGridSampler(GRID, features=features, prior=prior), 6)
    untaught = [run(FiniteGridSampler(GRID, features=features, seed=seed), 6).best_value for seed in range(3)]
    assert taught.best_value < min(untaught)
    assert taught.best_value < 1.1 * 10.0


def test_misleading_studies_are_let_go() -> None:
    prior = HistoryPrior([history(6.0, -1.0), history(6.0, -1.0)])
    study = run(FiniteGridSampler(GRID, features=features, prior=prior), 30)
    assert study.best_value <= 1.1 * 10.0


def test_a_prior_needs_features() -> None:
    with pytest.raises(ValueError, match="features"):
        FiniteGridSampler(GRID, prior=HistoryPrior([history(6.0)]))


def test_first_configs_come_first() -> None:
    first: list[Params] = [{"m": 8, "n": 16, "k": 32, "w": 4, "s": 2}, {"m": 64, "n": 64, "k": 64, "w": 4, "s": 4}]
    study = run(FiniteGridSampler(GRID, first=first), 1)
    assert study.trials[0].params == first[1]


def test_maximises_too_and_takes_negative_values() -> None:
    study = optuna.create_study(direction="maximize", sampler=FiniteGridSampler(GRID))
    for _ in range(30):
        trial = study.ask(distributions(GRID))
        study.tell(trial, -time_us(trial.params))
    assert study.best_value >= -1.1 * 10.0


def test_invalid_region_is_learnt() -> None:
    study = optuna.create_study(sampler=FiniteGridSampler(GRID))
    for _ in range(30):
        trial = study.ask(distributions(GRID))
        if trial.params["m"] <= 64:  # 60 % of the grid, and where the times point to
            study.tell(trial, state=TrialState.PRUNED)
        else:
            study.tell(trial, time_us(trial.params))
    invalid = [trial.state == TrialState.PRUNED for trial in study.trials]
    assert sum(invalid[:30]) <= 8
    assert study.best_value <= 1.01 * min(time_us({"m": 128, "n": n, "k": 128, "w": 4, "s": 4}) for n in (32, 64, 128))


def test_stopped_trials_teach_by_their_estimate() -> None:
    study = optuna.create_study(sampler=FiniteGridSampler(GRID, seed=1))
    best = np.inf
    for _ in range(35):
        trial = study.ask(distributions(GRID))
        value = time_us(trial.params)
        if value > 1.5 * best:
            trial.report(value * 1.1, step=0)
            study.tell(trial, state=TrialState.PRUNED)
        else:
            best = min(best, value)
            study.tell(trial, value)
    assert best <= 1.05 * 10.0


def test_cheap_configs_are_preferred() -> None:
    whole = Grid(GRID)

    def cost(indices: np.ndarray) -> np.ndarray:
        return np.array([0.1 if whole[int(index)]["w"] == 8 else 1.0 for index in indices])

    def count(given: FiniteGridSampler) -> int:
        return sum(trial.params["w"] == 8 for trial in run(given, 20).trials)

    assert count(FiniteGridSampler(GRID, cost=cost)) > count(FiniteGridSampler(GRID))


def test_proposals_made_together_are_spread() -> None:
    sampler = FiniteGridSampler(GRID)
    study = run(sampler, 10)
    together = [study.ask(distributions(GRID)).params for _ in range(6)]
    assert len({tuple(params.values()) for params in together}) == 6
    changed = [sum(a[name] != b[name] for name in GRID) for i, a in enumerate(together) for b in together[:i]]
    assert np.mean(changed) > 1.2


def test_mixed_dimensions_without_logarithms() -> None:
    grid = {"x": (-1.0, -0.5, 0.0, 0.5, 1.0), "kind": ("a", "b", "c"), "flag": (False, True), "n": (1, 2, 3)}
    study = optuna.create_study(sampler=FiniteGridSampler(grid))

    def objective(trial: optuna.Trial) -> float:
        x = trial.suggest_float("x", -1, 1)
        kind = trial.suggest_categorical("kind", ["a", "b", "c"])
        flag = trial.suggest_categorical("flag", [False, True])
        return (x - 0.5) ** 2 + {"a": 1.0, "b": 0.0, "c": 0.5}[kind] - flag * trial.suggest_int("n", 1, 3)

    study.optimize(objective, n_trials=25)
    assert study.best_params == {"x": 0.5, "kind": "b", "flag": True, "n": 3}


@settings(max_examples=15, deadline=None)
@given(
    st.dictionaries(
        st.sampled_from("abcd"), st.lists(st.integers(1, 50), min_size=1, max_size=4, unique=True), min_size=1
    ),
    st.integers(0, 2**32 - 1),
    st.sampled_from(["constant", "first", "noise"]),
)
def test_any_grid_is_walked_without_repeats(grid: dict[str, list[int]], seed: int, kind: str) -> None:
    sampler = FiniteGridSampler(grid, seed=seed)
    study = optuna.create_study(sampler=sampler)
    total = min(len(sampler.grid), 24)
    for number in range(total):
        trial = study.ask(distributions(grid))
        value = {"constant": 1.0, "first": float(trial.params[min(grid)]), "noise": 1.0 + number * 7 % 5}[kind]
        study.tell(trial, value)
    seen = {tuple(trial.params.values()) for trial in study.trials}
    assert len(seen) == total
    assert sampler.remaining(study) == len(sampler.grid) - total


def test_noise_is_read_from_repetitions() -> None:
    assert noise_variance([]) == noise_variance([5.0]) == 0.0
    steady = noise_variance([10.0, 10.1, 10.0, 9.9, 10.0])
    late = noise_variance([10.0, 10.1, 10.0, 9.9, 10.0, 31.0])
    doubtful = noise_variance([10.0, 16.0, 25.0, 33.0])
    assert steady < 1e-4
    assert late < 1e-3
    assert doubtful > 1e-2


def test_sizes_that_2_divides_often_are_expected_to_be_the_faster_ones() -> None:
    grid = {"block": tuple(range(16, 272, 16)), "other": (0, 1)}
    study = optuna.create_study(sampler=FiniteGridSampler(grid, startup=1))
    blocks = []
    for _ in range(6):
        trial = study.ask(distributions(grid))
        blocks.append(trial.params["block"])
        study.tell(trial, 10.0)
    assert {16, 32, 64, 128, 256}.issuperset(blocks[1:5])
